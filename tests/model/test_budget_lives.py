"""Random lives of two devices and a vendor that counts: no order of events makes one call too many."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
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
from crawlfleet.model import rescue
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.claims import Claim
from crawlfleet.model.crawl_task import CrawlTaskDAO, TaskDefaults
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, ending, fresh
from tests.server_park import in_ci

OFFLINE_TIMEOUT = 300
BEAT = Beat(1.0, 2.0, 3.0, "good", 0, 0.5, 0, 0.0)
PER_WINDOW, WINDOW = 2, 60.0
PER_DAY = 5
APPS = ("a", "b")
DEVICES = st.sampled_from(["d1", "d2"])
START = datetime(2026, 3, 1, 23, 50, tzinfo=UTC)  # a few minutes before the vendor's day ends


def cost(spec: TaskSpec) -> Cost:
    app = Charge("vendor", "app", PER_WINDOW, WINDOW, "u", spec.app_id or "")
    return Cost((app, Charge("vendor", "account", PER_DAY, 86_400.0, "u")), int((spec.task_data or {})["calls"]))


DEFAULTS = TaskDefaults(cost_of=cost)


@dataclass
class Process:
    """What the memory of one process holds, which dies with it."""

    device: str
    last_beat: datetime
    alive: bool = True
    sent: dict[int, list[datetime]] = field(default_factory=dict)


class VendorLife(RuleBasedStateMachine):
    """The vendor's own count is the truth."""

    template: Path
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="crawlfleet-life-"))
        shutil.copyfile(self.template, self.folder / "life.db")
        self.db = Database(f"sqlite:///{self.folder}/life.db")
        event.listen(self.db.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        self.devices = {name: Device(self.db, name, types=("fetch",), defaults=DEFAULTS) for name in ("d1", "d2")}
        self.processes: dict[str, Process] = {}
        self.now = START
        self.seen: list[tuple[datetime, str]] = []  # by the vendor: when, for which app

    def teardown(self) -> None:
        self.db.close()
        shutil.rmtree(self.folder)

    @initialize()
    def everybody_registers(self) -> None:
        for name in self.devices:
            self.restart(name)
        specs = [
            TaskSpec("fetch", source="vendor", username="u", app_id=app, task_data={"calls": calls})
            for app in APPS
            for calls in (1, 1, 2, 1, 1, 2, 1, 1)
        ]
        CrawlTaskDAO(self.db).add(specs, DEFAULTS, self.now)

    @rule(
        target=claims,
        name=DEVICES,
        slots=st.integers(1, 3),
        lead=st.sampled_from([0.0, 2.0]),
        at_once=st.sampled_from([1, 0, 3]),
    )
    def claim(self, name: str, slots: int, lead: float, at_once: int) -> Any:
        """`at_once`: how many of the claimed runs send a call right away."""
        try:
            claimed = self.devices[name].claim(slots, now=self.now, lead_seconds=lead)
        except LeaseLost:
            self.restart(name)
            return multiple()
        process = self.processes[name]
        process.sent |= {claim.assignment_id: [] for claim in claimed}
        for claim in claimed[:at_once]:
            self.send(process, claim)
        return multiple(*((process, claim) for claim in claimed))

    @rule(held=claims, step=st.sampled_from(["send", "book", "ok", "transient", "quota", "released", "crashed"]))
    def go_on(self, held: tuple[Process, Claim], step: str) -> None:
        """A run sends its next call, has its calls booked, or ends."""
        process, claim = held
        if step == "send":
            self.send(process, claim)
        elif claim.assignment_id not in process.sent or self.processes[process.device] is not process:
            return  # ended before, or its process finds out at its next statement that it is not the device any more
        elif step == "book":
            self.devices[process.device].book(claim, process.sent[claim.assignment_id], self.now)
        else:
            sent = process.sent.pop(claim.assignment_id)
            self.devices[process.device].end(ending(claim, step, calls=sent), now=self.now)

    def send(self, process: Process, claim: Claim) -> None:
        """As the permit decides: the run is ours as far as we know, the call is held, and it is time."""
        sent = process.sent.get(claim.assignment_id)
        trusted_until = process.last_beat + timedelta(seconds=OFFLINE_TIMEOUT)
        if sent is None or not process.alive or self.now >= trusted_until or len(sent) >= len(claim.calls or ()):
            return
        window = (claim.calls or ())[len(sent)]
        if window.not_before <= self.now <= window.not_after:
            sent.append(self.now)
            self.seen.append((self.now, claim.task.app_id or ""))

    @rule(name=DEVICES, what=st.sampled_from(["beat", "reconcile", "restart", "take over", "monitor"]))
    def happen(self, name: str, what: str) -> None:
        """Something that befalls a device."""
        process = self.processes[name]
        if what == "restart":
            process.alive = False  # what it has sent and not booked is forgotten
            self.restart(name)
        elif what == "take over":  # by a process elsewhere; the former one lives and does not know
            self.devices[name].process = {"hostname": f"host{self.now}"}
            self.restart(name)
        elif what == "monitor":
            DeviceDAO(self.db).mark_silent_offline(OFFLINE_TIMEOUT, self.now)
        elif what == "reconcile":
            _, lost = self.devices[name].reconcile(list(process.sent), self.now)
            for assignment_id in lost:
                process.sent.pop(assignment_id)
        else:
            self.beat(name)

    def beat(self, name: str) -> None:
        try:
            DeviceHeartbeatDAO(self.db).beat(name, self.devices[name].epoch, BEAT, self.now)
        except LeaseLost:
            self.restart(name)
        else:
            self.processes[name].last_beat = self.now

    def restart(self, name: str) -> None:
        self.processes[name] = Process(name, self.now)
        self.devices[name].register(now=self.now)

    @rule(held=claims)
    def cancel(self, held: tuple[Process, Claim]) -> None:
        """By a person; its node learns of it later, or never."""
        rescue.cancel(self.db, [held[1].task.id], now=self.now)

    @rule(seconds=st.sampled_from([30, 2, 59, 61, 299, 301, 600, 86_400]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def the_vendor_never_sees_one_call_too_many(self) -> None:
        for app in APPS:
            moments = [moment for moment, name in self.seen if name == app]
            for first, last in zip(moments, moments[PER_WINDOW:], strict=False):
                assert last - first >= timedelta(seconds=WINDOW)
        days = [moment.date() for moment, _ in self.seen]
        assert all(days.count(day) <= PER_DAY for day in set(days))


@pytest.mark.slow
def test_no_order_of_events_makes_one_call_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(f"sqlite:///{tmp_path}/template.db").close()
    monkeypatch.setattr(VendorLife, "template", tmp_path / "template.db", raising=False)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        VendorLife,
        settings=settings(
            max_examples=int(os.environ.get("CRAWLFLEET_TEST_LIVES", "40")),
            stateful_step_count=40,
            deadline=None,
            derandomize=in_ci(),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
