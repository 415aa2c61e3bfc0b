"""Bodies of plain functions in threads of this process: cheap, but nobody can end a body from outside."""

from __future__ import annotations

from collections.abc import Sequence

from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.engines.thread_pool import ThreadPool
from crawlfleet.executors.body import run_body


class ThreadsEngine:
    """At most `threads` bodies at once; `interrupt` asks a body to end, which it does when it looks at its context."""

    def __init__(self, slots: Slots, reports: Reports, threads: int) -> None:
        self._reports = reports
        self._pool = ThreadPool("body", threads, slots, self._perform)
        self._running: set[Run] = set()

    def start(self) -> None:
        """Nothing to do: threads are made when they are needed."""

    def submit(self, runs: Sequence[Run]) -> None:
        self._pool.submit(runs)

    def interrupt(self, run: Run) -> bool:
        run.context.cancelled.set()
        return False

    def stop(self) -> None:
        self._pool.stop()
        for run in list(self._running):
            run.context.cancelled.set()

    def _perform(self, run: Run) -> None:
        self._running.add(run)
        self._reports.began(run)
        outcome = run_body(run.executor, run.task, run.context)
        run.ends_now()
        self._running.discard(run)
        self._reports.ended(run, outcome)
