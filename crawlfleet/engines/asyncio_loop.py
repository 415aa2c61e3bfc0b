"""Bodies that are `async def`: hundreds at once on one event loop in one thread.

A body that blocks (time.sleep, a synchronous source) blocks every other body of this engine, too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.executors.body import run_body_async

log = logging.getLogger(__name__)


class AsyncioEngine:
    """As many bodies at once as there are slots; `interrupt` cancels the coroutine at its next await."""

    def __init__(self, slots: Slots, reports: Reports) -> None:
        self._slots = slots
        self._reports = reports
        self._loop: asyncio.AbstractEventLoop
        self._queued: deque[Run] = deque()
        self._tasks: dict[Run, asyncio.Task[None] | None] = {}  # None before the first step; the loop's thread only
        self._wake_pending = False
        self._stopping = False
        self._over = asyncio.Event()  # it stops, and no body is left
        self._closed = True
        self._close_lock = threading.Lock()
        self._waiter = self._granted  # bound once: Slots compares it

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closed = False
        threading.Thread(target=self._serve, name="asyncio-bodies", daemon=True).start()

    def submit(self, runs: Sequence[Run]) -> None:
        self._queued.extend(runs)
        # Two threads may both see False: one wake-up too many, never one too few.
        if not self._wake_pending:
            self._wake_pending = True
            self._call(self._begin_queued)

    def interrupt(self, run: Run) -> bool:
        run.context.cancelled.set()
        self._call(self._cancel, run)
        return True

    def stop(self) -> None:
        self._call(self._stop)

    def _call(self, function: Callable[..., object], *arguments: object) -> bool:
        """Call it in the loop's thread, soon; False when the loop is gone."""
        with self._close_lock:
            if self._closed:
                return False
            self._loop.call_soon_threadsafe(function, *arguments)
            return True

    # -- in the loop's thread

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._live())
        with self._close_lock:
            self._closed = True
        self._loop.call_soon(self._loop.stop)  # once more: a slot may just have been handed to us
        self._loop.run_forever()
        self._loop.close()

    def _begin_queued(self) -> None:
        self._wake_pending = False
        if self._stopping:
            self._queued.clear()
        while self._queued and self._slots.take(self._waiter):
            self._begin_next()

    def _begin_next(self) -> None:
        """Use a slot that is taken, or release it."""
        while self._queued and not self._stopping:
            run = self._queued.popleft()
            if self._admits(run):
                self._tasks[run] = None
                self._loop.create_task(self._perform(run))
                return
        self._slots.release()

    def _granted(self) -> None:
        """Slots took one for us, because we stood in line; called in any thread."""
        if not self._call(self._use_grant):
            self._slots.release()

    def _use_grant(self) -> None:
        self._begin_next()
        self._begin_queued()

    async def _perform(self, run: Run) -> None:
        self._tasks[run] = asyncio.current_task()
        try:
            await self._play(run)
        except Exception:
            log.exception("run lost in its engine: assignment=%d task=%d", run.assignment_id, run.task.id)
        del self._tasks[run]
        if not self._queued:
            self._slots.release()
        elif self._slots.keep(self._waiter):
            self._begin_next()
        if self._stopping and not self._tasks:
            self._over.set()

    def _admits(self, run: Run) -> bool:
        """Whether a run that has its slot now is still wanted."""
        return run.begin()

    async def _play(self, run: Run) -> None:
        """Run the body to its end, and report."""
        self._reports.began(run)
        outcome = await run_body_async(run.executor, run.task, run.context)
        run.ends_now()
        self._reports.ended(run, outcome)

    async def _live(self) -> None:
        await self._over.wait()

    def _cancel(self, run: Run) -> None:
        task = self._tasks.get(run)
        if task is not None:  # cancelled before its first step it would never report; its body sees `cancelled`
            task.cancel()

    def _stop(self) -> None:
        self._stopping = True
        self._queued.clear()
        for run in self._tasks:
            run.context.cancelled.set()
            self._cancel(run)
        if not self._tasks:
            self._over.set()
