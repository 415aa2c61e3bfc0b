"""Random lives of a small fleet: whatever happens in whatever order, a task never runs twice at once.

On SQLite, where a step takes milliseconds; the other databases run the same statements in the other tests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event

from crawlfleet.core.db import Database
from crawlfleet.core.errors import LeaseLost
from crawlfleet.core.sql import utc
from crawlfleet.model import rescue
from crawlfleet.model.claims import Claim
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.model.gate import FenceVerdict
from crawlfleet.model.lifecycle import ENDED, LIVE, LIVE_RUN
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, ending, fresh
from tests.server_park import in_ci

OFFLINE_TIMEOUT = 300
BEAT = Beat(1.0, 2.0, 3.0, "good", 0, 0.5, 0, 0.0)
DEVICES = st.sampled_from(["d1", "d2", "d3"])
KINDS = ["ok", "permanent", "transient", "quota", "auth", "crashed", "released"]


class FleetLife(RuleBasedStateMachine):
    """Three devices, a few tasks, and everything that can happen to them."""

    template: Path
    tasks = Bundle("tasks")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="crawlfleet-life-"))
        shutil.copyfile(self.template, self.folder / "life.db")
        self.db = Database(f"sqlite:///{self.folder}/life.db")
        # nobody pulls the plug here, and it is ten times faster
        event.listen(self.db.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        self.devices = {name: Device(self.db, name) for name in ("d1", "d2", "d3")}
        self.now = datetime.now(UTC) + timedelta(seconds=1)
        self.epochs: list[int] = []
        self.assignment_ids: list[int] = []

    def teardown(self) -> None:
        self.db.close()
        shutil.rmtree(self.folder)

    @initialize()
    def everybody_registers(self) -> None:
        for name in self.devices:
            self.register_again(name)

    # --- what happens

    @rule(
        target=tasks,
        delay=st.sampled_from([0, 0, 60, 4000]),
        retries=st.integers(0, 2),
        priority=st.integers(-1, 1),
        key=st.sampled_from([None, None, "k"]),
    )
    def add(self, delay: int, retries: int, priority: int, key: str | None) -> int:
        due = self.now + timedelta(seconds=delay) if delay else None
        spec = TaskSpec("noop", run_at=due, max_retry_count=retries, priority=priority, unique_key=key)
        [task_id] = CrawlTaskDAO(self.db).add([spec], now=self.now)
        return task_id

    @rule(target=claims, name=DEVICES, slots=st.integers(1, 3))
    def claim(self, name: str, slots: int) -> Any:
        try:
            claimed = self.devices[name].claim(slots, now=self.now)
        except LeaseLost:
            assert not self.is_registered(name)
            return multiple()
        assert self.is_registered(name)
        for claim in claimed:
            assert claim.assignment_id not in self.assignment_ids
            self.assignment_ids.append(claim.assignment_id)
            assert self.task(claim.task.id)["next_run_at"] <= self.now
        return multiple(*claimed)

    @rule(claim=claims)
    def start(self, claim: Claim) -> None:
        before, run = self.task(claim.task.id), self.run(claim)
        self.devices["d1"].start([claim])
        if before["assignment_id"] != claim.assignment_id:
            assert (self.task(claim.task.id), self.run(claim)) == (before, run)
        else:
            assert self.task(claim.task.id)["status"] == "running"

    @rule(claim=claims, kind=st.sampled_from(KINDS), began=st.booleans())
    def end(self, claim: Claim, kind: str, began: bool) -> None:
        """By whoever holds the claim, and as often by someone who lost it long ago."""
        before, run = self.task(claim.task.id), self.run(claim)
        more = {"retry_after": 90.0} if kind == "quota" else {}
        found = ending(claim, kind, started_at=self.now if began else None, **more)
        [ended] = self.devices["d1"].end(found, now=self.now)
        if before["assignment_id"] == claim.assignment_id:
            assert ended.verdict is FenceVerdict.WRITTEN
            assert self.task(claim.task.id)["assignment_id"] is None
        else:
            assert ended.verdict is not FenceVerdict.WRITTEN
            assert (self.task(claim.task.id), self.run(claim)) == (before, run)

    @rule(first=claims, second=claims)
    def end_two_at_once(self, first: Claim, second: Claim) -> None:
        if first != second:
            self.devices["d1"].end(ending(first), ending(second, "transient"), now=self.now)

    @rule(name=DEVICES)
    def register_again(self, name: str) -> None:
        """The process crashed, or was replaced: the runs of the former epoch expire with it."""
        epoch = self.devices[name].register(now=self.now)
        assert epoch > max(self.epochs, default=0)
        self.epochs.append(epoch)

    @rule(name=DEVICES)
    def beat(self, name: str) -> None:
        try:
            DeviceHeartbeatDAO(self.db).beat(name, self.devices[name].epoch, BEAT, self.now)
        except LeaseLost:
            assert not self.is_registered(name)

    @rule(seconds=st.sampled_from([1, 60, 200, 400, 5000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def the_monitor_looks(self) -> None:
        for name, _ in DeviceDAO(self.db).mark_silent_offline(OFFLINE_TIMEOUT, self.now):
            assert not self.is_registered(name)

    @rule(name=DEVICES)
    def stop(self, name: str) -> None:
        DeviceDAO(self.db).set_offline(name, self.devices[name].epoch)

    @rule(name=DEVICES, held=st.lists(claims, max_size=3))
    def release_what_is_not_held(self, name: str, held: list[Claim]) -> None:
        ids = {claim.assignment_id for claim in held}
        self.devices[name].reconcile(ids, self.now)

    @rule(task_id=tasks)
    def cancel(self, task_id: int) -> None:
        was_open = self.task(task_id)["status"] not in ENDED
        assert rescue.cancel(self.db, [task_id]) == ([task_id] if was_open else [])

    @rule(task_id=tasks)
    def revive(self, task_id: int) -> None:
        before = self.task(task_id)["status"]
        revived = rescue.revive(self.db, [task_id])
        assert not revived or before in {"failed", "cancelled"}

    # --- what must always hold

    @invariant()
    def a_task_and_its_runs_tell_the_same(self) -> None:
        devices = {row["device_id"]: row for row in self.rows("cl_device")}
        runs: dict[int, list[sa.RowMapping]] = {}
        for row in self.rows("cl_task_assignment"):
            runs.setdefault(row["task_id"], []).append(row)
        for task in self.rows("cl_crawl_task"):
            mine = runs.get(task["id"], [])
            live = [run for run in mine if run["status"] in LIVE_RUN]
            if task["status"] in LIVE:
                [run] = live
                assert (run["id"], run["status"]) == (task["assignment_id"], task["status"])
                assert run["device_id"] == task["assigned_device_id"]
                device = devices[run["device_id"]]
                assert (device["status"], device["epoch"]) == ("online", run["device_epoch"])
            else:
                assert live == []
                assert task["assignment_id"] is None
            assert all((run["completed_at"] is None) == (run["status"] in LIVE_RUN) for run in mine)
            completed = sum(run["status"] == "completed" for run in mine)
            assert completed == (1 if task["status"] == "completed" else 0)

    @invariant()
    def a_task_is_in_the_queue_exactly_while_it_is_pending(self) -> None:
        for task in self.rows("cl_crawl_task"):
            pending, ended = task["status"] == "pending", task["status"] in ENDED
            assert (task["ready_key"] is not None) + (task["wake_at"] is not None) == (1 if pending else 0)
            assert task["ready_key"] in {None, task["order_key"]}
            assert task["wake_at"] in {None, task["next_run_at"]}
            assert task["open_key"] == (None if ended else task["unique_key"])
            assert (task["completed_at"] is not None) == ended
            assert task["retry"] <= task["max_retry_count"] + 1

    def rows(self, table: str) -> list[sa.RowMapping]:
        with self.db.read() as connection:
            return list(connection.execute(sa.text(f"SELECT * FROM {table}")).mappings())

    def task(self, task_id: int) -> dict[str, Any]:
        found = next(dict(row) for row in self.rows("cl_crawl_task") if row["id"] == task_id)
        return {**found, "next_run_at": utc(found["next_run_at"])}

    def run(self, claim: Claim) -> dict[str, Any]:
        return next(dict(row) for row in self.rows("cl_task_assignment") if row["id"] == claim.assignment_id)

    def is_registered(self, name: str) -> bool:
        device = next(row for row in self.rows("cl_device") if row["device_id"] == name)
        return bool(device["status"] == "online" and device["epoch"] == self.devices[name].epoch)


@pytest.mark.slow
def test_no_order_of_events_breaks_a_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(f"sqlite:///{tmp_path}/template.db").close()
    monkeypatch.setattr(FleetLife, "template", tmp_path / "template.db", raising=False)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        FleetLife,
        settings=settings(
            max_examples=int(os.environ.get("CRAWLFLEET_TEST_LIVES", "40")),
            stateful_step_count=40,
            deadline=None,
            derandomize=in_ci(),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
