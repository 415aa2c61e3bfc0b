"""Results of more than 1,000 rows are written apart, and hold up neither turns nor beats."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model import figure_rows, staged_figures
from tests.conftest import Backend
from tests.fleets import task
from tests.services.conftest import MakePump
from tests.services.poison import poison
from tests.services.pump import Pump
from tests.waiting import wait_until

MANY = 1001


@contextmanager
def locked_feeds(db: Database) -> Iterator[None]:
    """Nobody else can replace figures meanwhile."""
    with db.plain.begin() as connection:
        connection.execute(sa.text("SELECT id FROM cl_feed FOR UPDATE")).all()
        yield


def wait_for_status(pump: Pump, status: str, *task_ids: int) -> None:
    """Until all are in that state, while the scheduler works by itself."""
    wait_until(lambda: {pump.status(each) for each in task_ids} == {status}, 20, f"{task_ids} to be {status}")


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)  # SQLite has only one writer
def test_a_large_result_holds_up_neither_turns_nor_beats(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url, schedule_interval=0.1, dispatch_interval=0.1)
    pump.scheduler.start()
    wait_for_status(pump, "completed", *pump.add("fetch", task_data={"rows": 1, "app": "a"}))
    with locked_feeds(pump.db):
        [large] = pump.add("fetch", task_data={"rows": MANY, "app": "a"})
        wait_until(lambda: len(pump.ended) == 2, what="the end of the fetch")
        wait_for_status(pump, "completed", *pump.add("quick", 5))
        pump.beat()
        assert pump.status(large) in {"assigned", "running"}
    wait_for_status(pump, "completed", large)
    assert pump.run_states(large) == ["completed"]
    assert len(list(stored_rows.data_rows(pump.db, FeedFilter()))) == MANY


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_four_large_results_on_their_way_stop_the_claiming(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url, slots=8, schedule_interval=0.1, dispatch_interval=0.1)
    pump.scheduler.start()
    wait_for_status(pump, "completed", *pump.add("fetch", task_data={"rows": 1, "app": "a"}))
    with locked_feeds(pump.db):
        large = pump.add("fetch", 4, task_data={"rows": MANY, "app": "a"})
        wait_until(
            lambda: len(pump.ended) == 5 and pump.scheduler.runs.table.bodies == 0, what="the end of the fetches"
        )
        [waits] = pump.add("quick")
        passes = Passes(pump)
        passes.wait(3)
        assert pump.status(waits) == "pending"
    wait_for_status(pump, "completed", waits, *large)


def test_a_large_result_is_made_ready_before_it_holds_up_other_writers_of_a_file(
    url: str, make_pump: MakePump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats were eleven seconds late while results of 200,000 rows were hashed and taken apart under the lock."""
    pump = make_pump(url, schedule_interval=0.1, dispatch_interval=0.1)
    others: list[float] = []

    def hash_slowly(row: Any, seen: Any) -> tuple[Any, ...]:
        if len(others) < 3:  # any other writer comes in at once
            began = time.monotonic()
            pump.beat()
            others.append(time.monotonic() - began)
        return figure_rows.figures_row(row, seen)

    monkeypatch.setattr(staged_figures, "figures_row", hash_slowly)
    pump.scheduler.start()
    ids = [each for app in "ab" for each in pump.add("fetch", task_data={"rows": MANY, "app": app})]
    wait_for_status(pump, "completed", *ids)
    assert len(others) == 3
    again = pump.add("fetch", task_data={"rows": MANY - 1, "app": "a"}) + pump.add(
        "fetch", task_data={"rows": MANY + 5, "app": "b"}
    )
    wait_for_status(pump, "completed", *again)
    found = list(stored_rows.data_rows(pump.db, FeedFilter()))
    assert len(found) == 2 * MANY + 4
    assert sum(row["clicks"] for row in found if row["app_id"] == "b") == sum(range(MANY + 5))


class Passes:
    """Counts passes of a scheduler that works by itself."""

    def __init__(self, pump: Pump) -> None:
        self.count = 0
        self._scheduler = pump.scheduler
        self._once = pump.scheduler.run_once
        pump.scheduler.run_once = self._counted  # type: ignore[method-assign]

    def _counted(self) -> object:
        turn = self._once()
        self.count += 1
        return turn

    def wait(self, count: int) -> None:
        goal = self.count + count
        self._scheduler.wake()
        wait_until(lambda: self.count >= goal, what=f"{count} passes")


def test_a_large_result_that_the_database_refuses_fails_its_own_task_only(
    backend: Backend, make_pump: MakePump
) -> None:
    pump = make_pump(backend.url, schedule_interval=0.1, dispatch_interval=0.1)
    poison(pump.db, "cl_app_data", "campaign")
    pump.scheduler.start()
    [bad] = pump.add("fetch", task_data={"rows": MANY, "app": "a", "poison": True})
    [good] = pump.add("fetch", task_data={"rows": MANY, "app": "b"})
    wait_for_status(pump, "completed", good)
    wait_for_status(pump, "failed", bad)
    assert "the database refused the result" in str(task(pump.db, bad)["error_message"])
    assert {row["app_id"] for row in stored_rows.data_rows(pump.db, FeedFilter())} == {"b"}
    assert len(list(stored_rows.data_rows(pump.db, FeedFilter()))) == MANY
