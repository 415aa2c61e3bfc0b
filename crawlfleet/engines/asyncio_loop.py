"""Bodies that are `async def`: hundreds at once on one event loop in one thread.

A body that blocks (time.sleep, a synchronous source) blocks every other body of this engine, too.
"""

from __future__ import annotations

from crawlfleet.engines.contract import Run
from crawlfleet.engines.event_loop import LoopEngine
from crawlfleet.executors.body import run_body_async


class AsyncioEngine(LoopEngine):
    """As many bodies at once as there are slots; `interrupt` cancels the coroutine at its next await."""

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
