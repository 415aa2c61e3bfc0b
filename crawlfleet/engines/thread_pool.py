"""Threads that work through runs in order. The threads engine and the processes engine share it.

A thread that has ended a body takes the next run itself, so a busy pool hands no run from one thread to another. A
thread is woken only when a slot was taken for it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from crawlfleet.engines.contract import Run, Slots

log = logging.getLogger(__name__)


class ThreadPool:
    """At most `size` daemon threads, made when they are needed; each calls `perform(run)` with a slot held."""

    def __init__(self, name: str, size: int, slots: Slots, perform: Callable[[Run], None]) -> None:
        self._name = name
        self._size = size
        self._slots = slots
        self._perform = perform
        self._lock = threading.Lock()
        self._queued: deque[Run] = deque()
        self._woken: SimpleQueue[bool] = SimpleQueue()  # True: take runs, a slot is held; False: end
        self._on_the_way = 0  # threads that are woken, but have not looked at the queue yet
        self._busy = 0  # threads that are woken or at work
        self._threads = 0
        self._waiter = self._granted  # bound once: Slots compares it

    def submit(self, runs: Sequence[Run]) -> None:
        """Queue runs; none is begun after `stop`."""
        with self._lock:
            if self._size:
                self._queued.extend(runs)
        self._wake_threads()

    def stop(self) -> None:
        """Drop what is queued; threads leave when their body ends."""
        with self._lock:
            self._queued.clear()
            leaving, self._threads, self._size = self._threads, 0, 0
        for _ in range(leaving):
            self._woken.put(False)

    def _wants_slot(self) -> bool:
        return len(self._queued) > self._on_the_way and self._busy < self._size

    def _wake_threads(self) -> None:
        while True:
            with self._lock:
                if not self._wants_slot() or not self._slots.take(self._waiter):
                    return
                self._wake_one()

    def _granted(self) -> None:
        """A slot was taken for this pool, because it stood in line."""
        with self._lock:
            wanted = self._wants_slot()
            if wanted:
                self._wake_one()
        if wanted:
            self._wake_threads()  # there may be more to do: stand in line again
        else:
            self._slots.release()

    def _wake_one(self) -> None:
        self._busy += 1
        self._on_the_way += 1
        self._woken.put(True)
        if self._busy > self._threads:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system gives no more: the threads that exist do the work
                log.error("thread refused by the system: threads=%d reason=%s", self._threads, error)
            else:
                self._threads += 1

    def _work(self) -> None:
        while self._woken.get():
            with self._lock:
                self._on_the_way -= 1
            while (run := self._next()) is not None:
                try:
                    self._perform(run)
                except Exception:
                    log.exception("run lost in its engine: assignment=%d task=%d", run.assignment_id, run.task.id)
                if not self._slots.keep(self._waiter):
                    with self._lock:
                        self._busy -= 1
                    break
            else:
                self._slots.release()
            self._wake_threads()  # a slot may have been refused while this thread still counted as busy

    def _next(self) -> Run | None:
        """The next run, begun; None when there is none, and this thread counts as free.

        The queue is read without the lock. Threads that meet at a lock after every body hand the lock and the
        interpreter to each other, which doubles the cost of a short run.
        """
        while True:
            try:
                run = self._queued.popleft()
            except IndexError:
                with self._lock:
                    if not self._queued:
                        self._busy -= 1
                        return None
            else:
                if run.begin():
                    return run
