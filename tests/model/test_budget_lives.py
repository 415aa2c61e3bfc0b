"""Random lives of two devices and a vendor that counts: no order of events makes one call too many.

Plain random walks, since a search for new kinds of steps spends its time on lives in which nothing is ever sent.
On SQLite; the other databases run the same statements in test_budgets.py.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from crawlfleet.core.db import Database
from crawlfleet.core.errors import LeaseLost
from crawlfleet.model import rescue
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.claims import Claim
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, ending, fresh

OFFLINE_TIMEOUT = 300
BEAT = Beat(1.0, 2.0, 3.0, "good", 0, 0.5, 0, 0.0)
PER_WINDOW, WINDOW = 2, 60.0
PER_DAY = 15
APPS = ("a", "b")
START = datetime(2026, 3, 1, 23, 50, tzinfo=UTC)  # a few minutes before the vendor's day ends
STEPS = 120  # of one life; what stands here more often happens more often
SECONDS = [1, 10, 20, 20, 30, 30, 40, 50, 59, 60.1, 61, 299, 301]
ENDS = ["ok", "ok", "ok", "ok", "transient", "released", "crashed", "quota"]
TROUBLES = ["beat", "beat", "monitor", "take over", "reconcile", "restart", "cancel"]


def cost(spec: TaskSpec) -> Cost:
    app = Charge("vendor", "app", PER_WINDOW, WINDOW, "u", spec.app_id or "")
    return Cost((app, Charge("vendor", "account", PER_DAY, 86_400.0, "u")), int((spec.task_data or {})["calls"]))


DEFAULTS = TaskDefaults(cost_of=cost)


@dataclass
class Process:
    """What the memory of one process holds, which dies with it: its runs, and when they sent their calls."""

    device: str
    last_beat: datetime
    alive: bool = True
    runs: dict[int, tuple[Claim, list[datetime]]] = field(default_factory=dict)


class Life:
    """One life. The vendor's own count, `seen`, is the truth."""

    def __init__(self, db: Database, seed: int) -> None:
        self.db = db
        self.dice = random.Random(seed)
        self.now = START
        self.devices = {name: Device(db, name, types=("fetch",), defaults=DEFAULTS) for name in ("d1", "d2")}
        self.processes: dict[str, Process] = {}
        self.everybody: list[Process] = []  # also those that were taken over and do not know
        self.seen: list[tuple[datetime, str]] = []  # when, for which app
        self.story: list[str] = []
        self.hosts = itertools.count()
        for name in self.devices:
            self.register(name)
        specs = [
            TaskSpec("fetch", source="vendor", username="u", app_id=app, task_data={"calls": calls})
            for app in APPS
            for calls in [1, 1, 2, 1, 1] * 6
        ]
        CrawlTaskDAO(db).add(specs, DEFAULTS, self.now)

    def live(self) -> None:
        for _ in range(STEPS):
            step: Callable[[], None] = self.dice.choices(
                [self.claim, self.send, self.book, self.end, self.meet_trouble, self.let_time_pass], [6, 5, 1, 5, 2, 6]
            )[0]
            step()
            self.check()

    def tell(self, text: str) -> None:
        self.story.append(f"{self.now:%d %H:%M:%S} {text}")

    def register(self, name: str) -> None:
        self.devices[name].register(now=self.now)
        self.processes[name] = Process(name, self.now)
        self.everybody.append(self.processes[name])

    def claim(self) -> None:
        name = self.dice.choice(list(self.devices))
        try:
            claimed = self.devices[name].claim(
                self.dice.randint(1, 3), now=self.now, lead_seconds=self.dice.choice([0.0, 2.0])
            )
        except LeaseLost:
            self.register(name)
            return
        for claim in claimed:
            self.tell(f"{name} claims {claim.assignment_id} of app {claim.task.app_id}")
            run = self.processes[name].runs[claim.assignment_id] = (claim, [])
            if self.dice.random() < 0.7:
                self.send_call(self.processes[name], *run)

    def send(self) -> None:
        ready = [(process, *run) for process in self.everybody if process.alive for run in process.runs.values()]
        if ready:
            self.send_call(*self.dice.choice(ready))

    def send_call(self, process: Process, claim: Claim, sent: list[datetime]) -> None:
        """As the permit decides: the run is ours as far as we know, the call is held, and it is time."""
        trusted_until = process.last_beat + timedelta(seconds=OFFLINE_TIMEOUT)
        if self.now >= trusted_until or len(sent) >= len(claim.calls or ()):
            return
        window = (claim.calls or ())[len(sent)]
        if window.not_before <= self.now <= window.not_after:
            self.tell(f"{process.device} sends a call of {claim.assignment_id}")
            arrives = self.now + timedelta(seconds=self.dice.choice([0, 0.1, window.way_seconds]))
            sent.append(arrives)  # the node learns it from the answer
            self.seen.append((arrives, claim.task.app_id or ""))

    def some_run(self) -> tuple[Process, Claim, list[datetime]] | None:
        """Of a process that is its device; another would find out at its next statement that it is not."""
        runs = [(process, *run) for process in self.processes.values() for run in process.runs.values()]
        return self.dice.choice(runs) if runs else None

    def book(self) -> None:
        if run := self.some_run():
            process, claim, sent = run
            self.devices[process.device].book(claim, sent, self.now)

    def end(self) -> None:
        if run := self.some_run():
            process, claim, sent = run
            kind = self.dice.choice(ENDS)
            self.tell(f"{process.device} ends {claim.assignment_id}: {kind} after {len(sent)} calls")
            del process.runs[claim.assignment_id]
            self.devices[process.device].end(ending(claim, kind, calls=sent), now=self.now)

    def meet_trouble(self) -> None:
        name, what = self.dice.choice(list(self.devices)), self.dice.choice(TROUBLES)
        process = self.processes[name]
        self.tell(f"{what} {name}")
        if what == "restart":
            process.alive = False  # what it has sent and not booked is forgotten
            self.register(name)
        elif what == "take over":  # by a process elsewhere
            self.devices[name].process = {"hostname": f"host{next(self.hosts)}"}
            self.register(name)
        elif what == "monitor":
            DeviceDAO(self.db).mark_silent_offline(OFFLINE_TIMEOUT, self.now)
        elif what == "cancel" and process.runs:  # by a person; its node learns of it later, or never
            claim, _ = self.dice.choice(list(process.runs.values()))
            rescue.cancel(self.db, [claim.task.id], now=self.now)
        elif what == "reconcile":
            _, lost = self.devices[name].reconcile(list(process.runs), self.now)
            for assignment_id in lost:
                claim, sent = process.runs.pop(assignment_id)
                self.devices[name].book(claim, sent, self.now, is_over=True)
        elif what == "beat":
            self.beat(name)

    def beat(self, name: str) -> None:
        try:
            DeviceHeartbeatDAO(self.db).beat(name, self.devices[name].epoch, BEAT, self.now)
        except LeaseLost:
            self.register(name)
        else:
            self.processes[name].last_beat = self.now

    def let_time_pass(self) -> None:
        self.now += timedelta(seconds=self.dice.choice(SECONDS))

    def check(self) -> None:
        """The vendor never sees one call too many."""
        for app in APPS:
            moments = sorted(moment for moment, name in self.seen if name == app)
            for first, last in zip(moments, moments[PER_WINDOW:], strict=False):
                assert last - first >= timedelta(seconds=WINDOW), "\n".join(self.story)
        days = [moment.date() for moment, _ in self.seen]
        assert all(days.count(day) <= PER_DAY for day in set(days)), "\n".join(self.story)


@pytest.mark.slow
def test_no_order_of_events_makes_one_call_too_many(tmp_path: Path) -> None:
    fresh(f"sqlite:///{tmp_path}/template.db").close()
    sent = 0
    for seed in range(int(os.environ.get("CRAWLFLEET_TEST_LIVES", "60"))):
        shutil.copyfile(tmp_path / "template.db", tmp_path / "life.db")
        db = Database(f"sqlite:///{tmp_path}/life.db")
        # nobody pulls the plug here, and it is ten times faster
        event.listen(db.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        life = Life(db, seed)
        life.live()
        sent += len(life.seen)
        db.close()
        for rest in tmp_path.glob("life.db*"):
            rest.unlink()
    assert sent > 0
