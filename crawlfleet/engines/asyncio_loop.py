"""Bodies that are `async def`: hundreds at once on one event loop in one thread.

A body that blocks (time.sleep, a synchronous source) blocks every other body of this engine, too: the scheduler asks
for that.
"""

from __future__ import annotations

import asyncio

from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.engines.event_loop import LoopEngine
from crawlfleet.executors.body import run_body_async


class AsyncioEngine(LoopEngine):
    """As many bodies at once as there are slots; `interrupt` cancels the coroutine at its next await."""

    def __init__(self, slots: Slots, reports: Reports) -> None:
        super().__init__(slots, reports)
        self._is_asked = False

    def responds(self) -> bool:
        if self._is_asked:
            return False
        self._is_asked = True  # before: the answer may come at once
        if not self._call(self._answer):
            self._is_asked = False
        return True

    def _answer(self) -> None:
        self._is_asked = False

    def holder(self) -> Run | None:
        current = asyncio.current_task(self.loop)
        return next((run for run, task in self._tasks.copy().items() if current is not None and task is current), None)

    def admits(self, run: Run) -> bool:
        return run.begin()

    async def play(self, run: Run) -> None:
        self.reports.began(run)
        outcome = await run_body_async(run.executor, run.task, run.context)
        run.ends_now()
        self.reports.ended(run, outcome)

    def cancel(self, run: Run) -> None:
        task = self.task_of(run)
        if task is not None:  # cancelled before its first step it would never report; its body sees `cancelled`
            task.cancel()
