"""A node without an account's token: it says so once, leaves the account's tasks to others, and looks again."""

from __future__ import annotations

import pytest

from crawlfleet.core.account import Account
from crawlfleet.insights import overview
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_abilities import lacking_of
from crawlfleet.model.dispatch import candidates
from tests.conftest import Backend
from tests.fleets import add, task
from tests.services.conftest import Log, MakePump

ACME = {"source": "vendor", "username": "acme"}
REASON = "environment variable ACME_TOKEN is not set on this node"


def test_a_node_without_a_token_says_so_once_and_leaves_the_tasks_to_others(
    backend: Backend, make_pump: MakePump, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the account's tasks again and again, with fifty warnings a minute that did not name it, and each task
    waited a minute although another node had the token."""
    monkeypatch.delenv("ACME_TOKEN", raising=False)
    pump = make_pump(backend.url, slots=3)
    AccountDAO(pump.db).add(Account("vendor", "acme", token_env="ACME_TOKEN"))
    ids = add(pump.db, 5, "with_token", **ACME)
    pump.until(lambda: lacking_of(DeviceDAO(pump.db).find()[0]), "the device to tell")
    for _ in range(3):
        pump.turn()
    line = "WARNING token missing: device=d1 source=vendor username=acme takes none of its tasks until it is there: "
    assert log.count(f"{line}account acme at vendor: {REASON}") == log.count("WARNING") == 1
    assert len(pump.began) <= 3
    assert [lacking_of(each) for each in DeviceDAO(pump.db).find()] == [{("vendor", "acme"): REASON}]
    assert {(pump.status(each), task(pump.db, each)["wake_at"]) for each in ids} == {("pending", None)}
    assert overview.backlog(pump.db).open_tasks == 0

    monkeypatch.setenv("ACME_TOKEN", "there")
    other = make_pump(backend.url, device_id="d2")
    assert overview.backlog(pump.db).open_tasks == 5
    other.until_status("completed", *ids)
    [late] = add(pump.db, 1, "with_token", **ACME)
    pump.turn()
    assert pump.status(late) == "pending"
    pump.inbox.request_reconcile()  # as each beat does
    pump.until_status("completed", late)
    assert log.count("INFO token no longer missing: device=d1 source=vendor username=acme") == 1
    assert [lacking_of(each) for each in DeviceDAO(pump.db).find()] == [{}, {}]


def test_a_master_gives_no_task_to_a_worker_without_the_token(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url, device_id="w1", mode="worker")
    DeviceDAO(pump.db).set_lacking("w1", pump.lease.epoch, [{**ACME, "reason": REASON}])
    with pump.db.read() as reader:
        [worker] = candidates(reader, lock=False)
    mine = {"task_type": "quick", "label": None}
    assert not worker.kind.takes({**mine, **ACME})
    assert worker.kind.takes({**mine, "source": "vendor", "username": "other"})
    assert worker.kind.takes({**mine, "source": None, "username": None})
