"""Routing by label: who may claim what, and that everything that tells about the queue goes by the same rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.insights import overview
from crawlfleet.insights.explain import Reason, explain
from crawlfleet.insights.forecast import Bottleneck, forecast
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.claim_strategy import Strategy
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, add, ending, task, tasks_of

VENDOR = {"source": "vendor", "username": "u"}


@pytest.fixture
def labelled(db: Database, strategy: Strategy) -> Device:
    made = Device(db, "eu-1", strategy=strategy, labels=("eu", "proxy"))
    made.register()
    return made


@pytest.mark.parametrize("owner", [{}, VENDOR], ids=["without-source", "of-a-source"])
def test_a_labelled_task_is_only_for_devices_that_have_the_label(
    device: Device, labelled: Device, db: Database, owner: dict[str, str]
) -> None:
    [anywhere] = add(db, **owner)
    [europe] = add(db, label="eu", **owner)
    [america] = add(db, label="us", **owner)
    assert [claim.task.id for claim in device.claim()] == [anywhere]
    assert [claim.task.id for claim in labelled.claim()] == [europe]
    assert task(db, america)["status"] == "pending"
    assert task(db, europe)["label"] == "eu"


def test_a_labelled_device_takes_tasks_without_a_label_in_the_same_order(labelled: Device, db: Database) -> None:
    now = datetime.now(UTC)  # a little ago: the clocks of tests and databases differ by parts of a millisecond
    labels = (None, "eu", "proxy", "us", None, "eu")
    ids = CrawlTaskDAO(db).add(
        TaskSpec("noop", label=label, run_at=now - timedelta(minutes=n, seconds=1)) for n, label in enumerate(labels)
    )
    del ids[3]
    assert [claim.task.id for claim in labelled.claim(slots=10)] == ids[::-1]


def test_labels_are_told_apart_by_case_and_lie_in_lanes_of_their_own(labelled: Device, db: Database) -> None:
    add(db, label="EU")
    assert labelled.claim() == []
    [small] = add(db, label="eu")
    assert [claim.task.id for claim in labelled.claim()] == [small]


def test_other_labels_do_not_hide_what_a_device_may_take(device: Device, db: Database) -> None:
    """More urgent lanes of other labels than one claim looks at."""
    for n in range(20):
        add(db, label=f"l{n}", **VENDOR)
        add(db, label=f"l{n}")
    [mine] = add(db, **VENDOR)
    [free] = add(db)
    assert [claim.task.id for claim in device.claim()] == [mine, free]


def test_follow_ups_have_the_label_of_their_parent_unless_they_name_one(labelled: Device, db: Database) -> None:
    [parent] = add(db, label="eu")
    [claim] = labelled.claim()
    labelled.end(ending(claim, follow_ups=[TaskSpec("noop"), TaskSpec("noop", label="us")]))
    found = [row for row in tasks_of(db) if row["parent_id"] == parent]
    assert {row["label"] for row in found} == {"eu", "us"}
    assert [claim.task.id for claim in labelled.claim()] == [row["id"] for row in found if row["label"] == "eu"]


def test_a_task_that_moves_to_a_lane_of_more_calls_keeps_its_label(
    labelled: Device, device: Device, db: Database
) -> None:
    def cost(spec: TaskSpec) -> Cost:
        return Cost((Charge("vendor", "day", 10, 86_400.0, "u"),), 1)

    AccountDAO(db).add(Account("vendor", "u", token_env="T"))
    defaults = TaskDefaults(cost_of=cost)
    device.defaults = labelled.defaults = defaults
    [task_id] = CrawlTaskDAO(db).add([TaskSpec("noop", label="eu", **VENDOR)], defaults)  # type: ignore[arg-type]
    before = task(db, task_id)["lane_id"]
    [claim] = labelled.claim()
    labelled.end(ending(claim, "unpaid", calls_wanted=2, calls=[]))
    assert task(db, task_id)["lane_id"] != before
    assert device.claim() == []
    assert len(labelled.claim()) == 1


def test_explain_says_that_no_online_device_has_the_label(device: Device, db: Database) -> None:
    [task_id] = add(db, label="eu")
    found = explain(db, task_id, 300)
    assert found is not None
    assert found.reason is Reason.NO_LABEL
    assert found.sentence == (
        "no online device has the label eu and knows the task type noop: start one with --label eu"
    )
    other = Device(db, "eu-1", labels=("eu",))
    other.register()
    assert explain(db, task_id, 300).reason is Reason.READY  # type: ignore[union-attr]
    DeviceDAO(db).set_draining("eu-1", True)
    found = explain(db, task_id, 300)
    assert found is not None
    assert (found.reason, found.sentence) == (
        Reason.DEVICES_AWAY,
        "no device takes the task type noop with the label eu now: eu-1 is draining",
    )
    DeviceDAO(db).set_offline("eu-1", other.epoch)
    found = explain(db, task_id, 300)
    assert found is not None
    assert found.reason is Reason.NO_LABEL
    assert found.sentence.endswith("knows the task type noop; eu-1 is offline")


def test_tasks_that_a_device_may_not_take_do_not_stand_before_its_slots(device: Device, db: Database) -> None:
    add(db, 8, label="eu")
    [mine] = add(db)
    assert explain(db, mine, 300).reason is Reason.READY  # type: ignore[union-attr]
    Device(db, "eu-1", labels=("eu",)).register()
    assert explain(db, mine, 300).blocked_by["ahead"] == 8  # type: ignore[union-attr]


def test_a_forecast_knows_that_nobody_takes_the_label(device: Device, db: Database) -> None:
    add(db, 3, label="eu")
    [found] = forecast(db).accounts
    assert (found.limit, found.done_at) == (Bottleneck.NO_DEVICE, None)
    assert found.why == "no device is online that takes the task type noop with the label eu"
    Device(db, "eu-1", labels=("eu",)).register()
    [found] = forecast(db).accounts
    assert found.limit is Bottleneck.DEVICES


def test_tasks_of_a_label_that_nobody_has_wait_for_a_person(device: Device, db: Database) -> None:
    add(db, 2)
    add(db, 3, label="eu")
    blocked = "3 tasks of type noop: no online device that knows it has the label eu"
    assert overview.backlog(db) == overview.Backlog(2, [blocked])
    Device(db, "eu-1", labels=("eu",)).register()
    assert overview.backlog(db) == overview.Backlog(5, [])


@pytest.mark.parametrize("bad", ["", "x" * 65, "a b", "名", 7])
def test_a_bad_label_is_refused(bad: object) -> None:
    with pytest.raises(UsageError, match="label must be"):
        replace(TaskSpec("noop"), label=bad)  # type: ignore[type-var]
