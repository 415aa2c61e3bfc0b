"""Runs on an event loop in a thread of its own: what the engines have in common whose bodies are awaited."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakSet

from crawlfleet.engines.contract import Reports, Run, Slots

log = logging.getLogger(__name__)

_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()  # of this process


def _end_in_a_child() -> None:
    """In a process that a body forked: end once the body gives way to others.

    They are its parent's, and so is what the loop waits with.
    """
    for loop in (each for each in _loops if not each.is_closed()):
        getattr(loop, "_ready", deque()).clear()  # what asyncio would call before
        loop.call_soon(os._exit, 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_a_child)


class LoopEngine(ABC):
    """As many runs at once as there are slots. What is abstract here is called in the loop's thread."""

    def __init__(self, slots: Slots, reports: Reports) -> None:
        self.reports = reports
        self.loop: asyncio.AbstractEventLoop
        self.is_stopping = False
        self._slots = slots
        self._queued: deque[Run] = deque()
        self._tasks: dict[Run, asyncio.Task[None] | None] = {}  # None before the first step; the loop's thread only
        self._wake_pending = False
        self._over = asyncio.Event()  # it stops, and no run is left
        self._closed = True
        self._close_lock = threading.Lock()
        self._waiter = self._granted  # bound once: Slots compares it

    @abstractmethod
    def admits(self, run: Run) -> bool:
        """Whether a run that has its slot now is still wanted."""

    @abstractmethod
    async def play(self, run: Run) -> None:
        """Run the body to its end, and report."""

    @abstractmethod
    def cancel(self, run: Run) -> None:
        """Make a run end that is being played."""

    def prepare_stop(self) -> None:  # noqa: B027  (most engines keep nothing)
        """Called once, before all runs are cancelled."""

    async def close(self) -> None:  # noqa: B027
        """Called once, when no run is left."""

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        _loops.add(self.loop)
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
        self._call(self.cancel, run)
        return True

    def stop(self) -> None:
        self._call(self._stop)

    def task_of(self, run: Run) -> asyncio.Task[None] | None:
        """The asyncio task that plays a run; None before its first step, and when it is over."""
        return self._tasks.get(run)

    def _call(self, function: Callable[..., object], *arguments: object) -> bool:
        """Call it in the loop's thread, soon; False when the loop is gone."""
        with self._close_lock:
            if self._closed:
                return False
            self.loop.call_soon_threadsafe(function, *arguments)
            return True

    # -- in the loop's thread

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._live())
        with self._close_lock:
            self._closed = True
        self.loop.call_soon(self.loop.stop)  # once more: a slot may just have been handed to us
        self.loop.run_forever()
        self.loop.close()

    async def _live(self) -> None:
        await self._over.wait()
        await self.close()

    def _begin_queued(self) -> None:
        self._wake_pending = False
        if self.is_stopping:
            self._queued.clear()
        while self._queued and self._slots.take(self._waiter):
            self._begin_next()

    def _begin_next(self) -> None:
        """Use a slot that is taken, or release it."""
        while self._queued and not self.is_stopping:
            run = self._queued.popleft()
            if self.admits(run):
                self._tasks[run] = None
                self.loop.create_task(self._perform(run))
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
            await self.play(run)
        except Exception:
            log.exception("run lost in its engine: assignment=%d task=%d", run.assignment_id, run.task.id)
        del self._tasks[run]
        if not self._queued:
            self._slots.release()
        elif self._slots.keep(self._waiter):
            self._begin_next()
        if self.is_stopping and not self._tasks:
            self._over.set()

    def _stop(self) -> None:
        self.is_stopping = True
        self._queued.clear()
        self.prepare_stop()
        for run in self._tasks:
            run.context.cancelled.set()
            self.cancel(run)
        if not self._tasks:
            self._over.set()
