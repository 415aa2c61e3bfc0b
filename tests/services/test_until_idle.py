"""A node that ends when nothing is left to do, and what its exit code tells."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.executors.registry import executors
from crawlfleet.insights import devices, overview
from crawlfleet.model import fleet_state
from crawlfleet.services import queue_watcher
from crawlfleet.services.fleet import Fleet
from crawlfleet.services.node import Node
from crawlfleet.settings.layers import load_settings
from tests.conftest import Backend
from tests.fleets import add, fresh
from tests.services.conftest import Log
from tests.services.pump import MODULES

Run = Callable[..., int]


@pytest.fixture
def fleet(backend: Backend) -> Fleet:
    return Fleet(fresh(backend.url))


@pytest.fixture
def run(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a whole node until it is idle; its exit code."""
    monkeypatch.setattr(queue_watcher, "LISTEN_SECONDS", 0.05)

    def run_it(**given: Any) -> int:
        base = {"device_id": "node-1", "database_url": backend.url, "executors": MODULES, "shutdown_grace": 1}
        settings = load_settings(None, base | given, environ={})
        node = Node(Database(backend.url).open(), settings, executors(MODULES), until_idle=True)
        node.start()
        return node.wait()

    return run_it


def test_all_done_is_0(fleet: Fleet, run: Run) -> None:
    add(fleet.db, 30, "quick")
    assert run() == 0
    assert fleet.tasks.stats()["completed"] == 30
    [device] = devices.devices(fleet.db)
    assert (device["status"], device["current_tasks"]) == ("offline", 0)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_failed_task_is_1_and_counts_only_for_the_node_that_saw_it(fleet: Fleet, run: Run, log: Log) -> None:
    add(fleet.db, 2, "raising", task_data={"kind": "permanent"})
    add(fleet.db, 1, "quick")
    assert run() == 1
    assert log.count("WARNING nothing is left to do; 2 tasks failed") == 1
    add(fleet.db, 1, "quick")
    assert run() == 0


def test_tasks_that_wait_for_a_person_do_not_keep_the_node_alive(fleet: Fleet, run: Run, log: Log) -> None:
    for name in ("alice", "bob"):
        fleet.accounts.add(Account("appsflyer", name, token_env="T"))
    fleet.accounts.park("appsflyer", "alice", "token refused")
    add(fleet.db, 2, "quick", username="alice", source="appsflyer")
    add(fleet.db, 1, "quick", username="bob", source="appsflyer")
    assert run() == 1
    assert log.count("waits for a person") == 1
    assert log.count("waits for a person: 2 tasks of account alice at appsflyer, parked: token refused") == 1
    assert fleet.tasks.stats()["completed"] == 1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_paused_queue_is_told_with_its_reason(fleet: Fleet, run: Run, log: Log) -> None:
    fleet_state.set_paused(fleet.db, True, "maintenance")
    add(fleet.db, 3, "quick")
    assert run() == 1
    assert log.count("WARNING waits for a person: 3 tasks: the queue is paused (maintenance)") == 1
    assert fleet.tasks.stats()["pending"] == 3


def test_a_node_runs_the_tasks_of_its_labels_and_tells_of_others(fleet: Fleet, run: Run, log: Log) -> None:
    add(fleet.db, 2, "quick", label="eu")
    add(fleet.db, 1, "quick", label="us")
    assert run(labels=["eu"]) == 1
    told = "waits for a person: 1 task of type quick: no online device that knows it has the label us"
    assert log.count(told) == 1
    assert fleet.tasks.stats()["completed"] == 2
    assert run(labels=["us"]) == 0
    [device] = devices.devices(fleet.db)
    assert device["capabilities"]["labels"] == ["us"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_task_of_a_type_that_nobody_knows_is_1_and_waits(fleet: Fleet, run: Run, log: Log) -> None:
    """It was failed for good, though nobody was there who could know better."""
    [task_id] = add(fleet.db, 1, "strange")
    assert run() == 1
    found = fleet.tasks.get(task_id)
    assert found is not None
    assert found["status"] == "pending"
    told = "1 task of type strange: missing executor, no online device knows the type"
    assert log.count(f"WARNING waits for a person: {told}") == 1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_retry_is_waited_for(fleet: Fleet, run: Run) -> None:
    add(fleet.db, 1, "raising", task_data={"kind": "transient"}, max_retry_count=1)
    assert run(retry_delay_seconds=0.2) == 1
    assert fleet.tasks.stats()["failed"] == 1


def test_the_backlog_counts_what_is_open_and_names_what_is_blocked(fleet: Fleet) -> None:
    assert overview.backlog(fleet.db) == overview.Backlog(0, [])
    fleet.accounts.add(Account("appsflyer", "alice", token_env="T"))
    add(fleet.db, 2, "quick")
    add(fleet.db, 3, "quick", username="alice", source="appsflyer")
    with fleet.db.read() as connection:
        now = connection.now
    add(fleet.db, 1, "quick", run_at=now + timedelta(hours=1))
    assert overview.backlog(fleet.db) == overview.Backlog(6, [])
    fleet.accounts.park("appsflyer", "alice", "refused")
    parked = "3 tasks of account alice at appsflyer, parked: refused"
    assert overview.backlog(fleet.db) == overview.Backlog(3, [parked])
    fleet_state.set_paused(fleet.db, True)
    assert overview.backlog(fleet.db) == overview.Backlog(0, [parked, "3 tasks: the queue is paused"])
    assert overview.failed_since(fleet.db, now) == 0
    assert "waits for a person" in overview.overview(fleet.db, lambda _source: {})["system_overview"]["verdict"]
