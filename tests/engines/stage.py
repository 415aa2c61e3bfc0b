"""What the engine tests share: a stage that makes runs, keeps the reports and waits for them."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from crawlfleet.engines.asyncio_loop import AsyncioEngine
from crawlfleet.engines.contract import Engine, Reports, Run, Slots
from crawlfleet.engines.dask.engine import DaskEngine
from crawlfleet.engines.processes import ProcessesEngine
from crawlfleet.engines.threads import ThreadsEngine
from crawlfleet.executors.contract import TaskContext
from crawlfleet.executors.registry import executors
from crawlfleet.model.ending import Outcome
from crawlfleet.model.task_spec import Task
from tests.dask_cluster import shared_dask
from tests.waiting import wait_until

MODULES = ("tests.engines.bodies",)
DEADLINE_SECONDS = 30.0

MakeEngine = Callable[[Slots, Reports], Engine]
ENGINES: dict[str, MakeEngine] = {
    "threads": lambda slots, reports: ThreadsEngine(slots, reports, 8),
    "asyncio": AsyncioEngine,
    "processes": lambda slots, reports: ProcessesEngine(slots, reports, 4, MODULES),
    "dask": lambda slots, reports: DaskEngine(slots, reports, shared_dask().address, MODULES),
}


class Stage:
    """One or more engines on shared slots; counts what they report."""

    def __init__(self, *names: str, slots: int = 2) -> None:
        self.slots = Slots(slots)
        self.began: list[int] = []
        self.ended: list[int] = []
        self.outcomes: dict[int, Outcome] = {}
        self.most_at_once = 0
        self._now: Counter[int] = Counter()
        self._ids = itertools.count(1)
        self._changed = threading.Condition()
        self._executors = executors(MODULES)
        reports = Reports(self._began, self._ended)
        self.engines = {name: ENGINES[name](self.slots, reports) for name in names}
        self.engine = self.engines[names[0]]
        for engine in self.engines.values():
            engine.start()

    def _began(self, run: Run) -> None:
        with self._changed:
            self.began.append(run.assignment_id)
            self._now[run.assignment_id] += 1
            self.most_at_once = max(self.most_at_once, self._now.total())
            self._changed.notify_all()

    def _ended(self, run: Run, outcome: Outcome) -> None:
        with self._changed:
            self.ended.append(run.assignment_id)
            self._now[run.assignment_id] -= 1
            self.outcomes[run.assignment_id] = outcome
            self._changed.notify_all()

    def run(self, body: str, engine: str | None = None, **task_data: Any) -> Run:
        """A run of this body, in the form that the engine takes."""
        engine = engine or next(iter(self.engines))
        executor = self._executors[f"async_{body}" if engine == "asyncio" else body]
        number = next(self._ids)
        task = Task(number, executor.name, task_data=task_data)
        return Run(number, task, executor, TaskContext(task))

    def play(self, body: str, **task_data: Any) -> Outcome:
        """The outcome of one run from its start to its end."""
        run = self.run(body, **task_data)
        self.engine.submit([run])
        return self.outcome(run)

    def outcome(self, run: Run) -> Outcome:
        self.wait(lambda: run.assignment_id in self.outcomes, "the end of a run")
        return self.outcomes[run.assignment_id]

    def forget(self) -> None:
        """Drop what was reported so far."""
        for kept in (self.began, self.ended, self.outcomes, self._now):
            kept.clear()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_SECONDS), f"still waiting for {what}"

    def wait_began(self, count: int) -> None:
        self.wait(lambda: len(self.began) >= count, f"{count} begun, so far {len(self.began)}")

    def wait_ended(self, count: int) -> None:
        self.wait(lambda: len(self.ended) >= count, f"{count} ended, so far {len(self.ended)}")

    def wait_all_slots_free(self) -> None:
        """A slot is released just after `ended` was reported."""
        wait_until(lambda: self.slots.free == self.slots.count, what="all slots to be free")
