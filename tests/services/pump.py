"""A device that is driven by hand: real database, real engine, one pass of its scheduler at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from crawlfleet.core.clock import Clock
from crawlfleet.core.db import Database
from crawlfleet.core.process import own_identity
from crawlfleet.core.sending import BEGIN, COMMIT
from crawlfleet.core.transaction import Result, Statements, Transaction
from crawlfleet.engines.asyncio_loop import AsyncioEngine
from crawlfleet.engines.contract import Engine, Reports, Run, Slots
from crawlfleet.engines.processes import ProcessesEngine
from crawlfleet.engines.threads import ThreadsEngine
from crawlfleet.executors.contract import TaskContext
from crawlfleet.executors.permit import Permit
from crawlfleet.executors.registry import executors
from crawlfleet.model.budget import as_stored
from crawlfleet.model.claims import Claim
from crawlfleet.model.device import DeviceInfo
from crawlfleet.model.ending import Outcome
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.planning.tariff import Tariff
from crawlfleet.services.device_manager import DeviceManager
from crawlfleet.services.fleet import Fleet
from crawlfleet.services.inbox import Inbox
from crawlfleet.services.lease import Lease
from crawlfleet.services.node import scheduler_options
from crawlfleet.services.scheduler_options import SchedulerOptions
from crawlfleet.services.task_log_writer import TaskLogWriter
from crawlfleet.services.task_scheduler import TaskScheduler
from crawlfleet.services.turn import TurnResult
from crawlfleet.services.vital_signs import VitalSigns
from crawlfleet.settings.definitions import Settings
from tests.fleets import fresh, runs, task
from tests.waiting import wait_until

MODULES = ("tests.services.bodies",)
MakeEngine = Callable[[Slots, Reports], Engine]
ENGINES: dict[str, MakeEngine] = {
    "threads": lambda slots, reports: ThreadsEngine(slots, reports, slots.count),
    "asyncio": AsyncioEngine,
    "processes": lambda slots, reports: ProcessesEngine(slots, reports, slots.count, MODULES),
}


def default_options(**options: Any) -> SchedulerOptions:
    """The options of the default settings, for tasks that cost nothing, with those that a test gives."""
    free = {"defaults": TaskDefaults(), "limit_of": as_stored}
    return replace(scheduler_options(Settings(), Tariff({}, executors)), **free | options)


class Pump:
    """A registered device with a scheduler and one engine; nothing of it moves unless a test says so.

    `began` and `ended` hold the assignment ids that the engine reported, `beats` counts those of the heartbeat thread,
    `fatal` is why the node would end.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        engine: str | MakeEngine = "threads",
        slots: int = 2,
        device_id: str = "d1",
        settings: Settings | None = None,
        registered: bool = True,
        mode: str = "standalone",
        log_lines: int = 1000,
        with_performance: bool = False,
        **options: Any,
    ) -> None:
        self.db = fresh(url, clock)
        self.fleet = Fleet(self.db)
        self.claimed = 0
        self.beats = 0
        self.began: list[int] = []
        self.ended: list[int] = []
        self.fatal: list[str] = []
        self.executors = executors(MODULES)
        self._news = threading.Event()
        self.inbox = Inbox()
        make_engine = ENGINES[engine] if isinstance(engine, str) else engine
        self.engine = make_engine(Slots(slots), Reports(self._began, self._ended))
        self.engine.start()
        info = DeviceInfo(
            device_id,
            "a device",
            mode,
            "127.0.0.1",
            8080,
            slots,
            own_identity(),
            "0",
            {"supported_tasks": sorted(self.executors), "labels": [*options.get("labels", ())]},
        )
        self.signs = VitalSigns(with_performance)
        settings = settings or Settings()
        self.lease = Lease(self.db, info, self.signs, settings.offline_timeout)
        self.logs = TaskLogWriter(self.db, log_lines, 2000)
        self.scheduler = TaskScheduler(
            self.db,
            self.lease,
            self.inbox,
            self.executors,
            lambda executor: self.engine,
            self._make_context,
            default_options(concurrent_tasks=slots, mode=mode, **options),
            self.fatal.append,
        )
        self.manager = DeviceManager(self.db, self.lease, settings, self._beat_arrived, self.fatal.append)
        self.scheduler._turns.strategy()  # its transaction should not meet a test's plans for the network
        if registered:
            self.lease.register()

    def _make_context(self, claim: Claim, permit: Permit | None) -> TaskContext:
        context = TaskContext(claim.task, claim.account, permit=permit)
        context.open_task_log = partial(self.logs.of_run, claim.task.id, claim.assignment_id)
        return context

    def _beat_arrived(self) -> None:
        self.beats += 1
        self.inbox.request_reconcile()

    def _began(self, run: Run) -> None:
        self.inbox.run_began(run)
        self.began.append(run.assignment_id)
        self._news.set()

    def _ended(self, run: Run, outcome: Outcome) -> None:
        self.inbox.run_ended(run, outcome)
        self.ended.append(run.assignment_id)
        self._news.set()

    def add(self, task_type: str, count: int = 1, **more: Any) -> list[int]:
        """Queue so many tasks; their ids."""
        return self.fleet.add_tasks([TaskSpec(task_type, **more)] * count)

    def turn(self) -> TurnResult | None:
        """One pass, and further ones while that waits for bodies to end."""
        turn = self.scheduler.run_once()
        while self.scheduler.alarm.lingering_since is not None:
            time.sleep(self.scheduler.next_wait())
            turn = self.scheduler.run_once()
        self.claimed += len(turn.claimed) if turn is not None else 0
        return turn

    def wait_began(self, count: int) -> None:
        """Until so many bodies began so far; makes no pass."""
        wait_until(lambda: len(self.began) >= count, what=f"{count} bodies to begin")

    def wait_ended(self, count: int | None = None) -> None:
        """Until so many bodies ended so far, or all that were claimed; makes no pass."""
        wait_until(lambda: len(self.ended) >= (self.claimed if count is None else count), what="bodies to end")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Passes, one after each report of the engine, until the condition holds."""

        def passed() -> bool:
            self._news.clear()
            self.turn()
            return bool(condition()) or (self._news.wait(0.01) and False)

        wait_until(passed, 20, what)

    def until_status(self, status: str, *task_ids: int) -> None:
        """Passes until all these tasks are in that state."""
        self.until(lambda: {self.status(each) for each in task_ids} == {status}, f"{task_ids} to be {status}")

    def status(self, task_id: int) -> str:
        return str(task(self.db, task_id)["status"])

    def run_states(self, task_id: int) -> list[object]:
        """The states of the task's runs, the oldest first."""
        return [run["status"] for run in runs(self.db, task_id)]

    def beat(self) -> None:
        """Write a beat now, with what the scheduler tells for it."""
        self.lease.beat(self.lease.epoch, delay_seconds=0.0)

    def close(self) -> None:
        self.scheduler.stop()
        self.engine.stop()
        self.db.close()


@contextmanager
def statements(db: Database) -> Iterator[list[str]]:
    """Every statement sent inside the block by the pool of `db`, and COMMIT."""
    sent: list[str] = []

    def executed(_connection: object, _cursor: object, text: str, *_: object) -> None:
        sent.append(text)

    def queue(self: Statements, statement: sa.TextClause, parameters: Any = None) -> Result:
        if statement is not BEGIN and statement is not COMMIT:
            sent.append(statement.text)
        return queue_it(self, statement, parameters)

    def commit(self: Transaction, at_once: bool) -> None:
        sent.append("COMMIT")
        commit_it(self, at_once)

    queue_it, commit_it = Statements.execute, Transaction.commit
    event.listen(db.engine, "before_cursor_execute", executed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Statements, "execute", queue)
        patch.setattr(Transaction, "commit", commit)
        yield sent
    event.remove(db.engine, "before_cursor_execute", executed)
