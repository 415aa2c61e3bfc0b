"""One way to start and stop: everything that works in the background is a Service."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod

from crawlfleet.core.backoff import Backoff
from crawlfleet.core.errors import CrawlfleetError, cause_of


class Service(ABC):
    """A loop in a daemon thread: `run_once`, then a wait of `interval` seconds that `wake` cuts short.

    A pass that raises is tried again after a growing wait, which `wake` does not cut short. The first failure is
    logged with its cause, the same failure again is not, and one line says when the service works again.
    All methods may be called from any thread, in any order, any number of times; a stopped service stays stopped.
    """

    def __init__(self, name: str, interval: float) -> None:
        self.name = name
        self.interval = interval
        self._log = logging.getLogger(type(self).__module__)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._backoff = Backoff()
        self._failure = ""
        self._failing_since = 0.0

    @abstractmethod
    def run_once(self) -> object:
        """One pass; returns what it did."""

    def next_wait(self) -> float:
        """Seconds until the next pass when nobody wakes the service; asked after each pass that did not raise."""
        return self.interval

    def finish(self) -> None:  # noqa: B027  (most services keep nothing)
        """Give up what the passes kept; called in the thread, after the last one. Must not raise."""

    @property
    def stopping(self) -> bool:
        """True once `stop` was called; a long pass looks at it."""
        return self._stopping.is_set()

    @property
    def running(self) -> bool:
        """True while the thread lives."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self) -> None:
        """Begin with a pass at once; does nothing when started or stopped before."""
        with self._lock:
            if self._thread is None and not self.stopping:
                thread = threading.Thread(target=self._loop, name=self.name, daemon=True)
                thread.start()
                self._thread = thread

    def wake(self) -> None:
        """Make the next pass begin now, or right after the one that is running."""
        self._awake.set()

    def stop(self) -> None:
        """Begin no further pass; returns at once, see `join`."""
        with self._lock:
            self._stopping.set()
            self._awake.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the running pass to end; True when no thread is left, or when called from that pass."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            # Cleared before the pass: a wake-up during it means that there may be news it did not see.
            self._awake.clear()
            if self._stopping.is_set():
                break
            try:
                self.run_once()
                wait_seconds = self.next_wait()
            except Exception as error:  # whatever it is, the loop must outlive it
                self._note_failure(error)
                self._stopping.wait(self._backoff.next())
            else:
                self._note_success()
                self._awake.wait(max(wait_seconds, 0))
        self.finish()

    def _note_failure(self, error: Exception) -> None:
        if self._backoff.failures == 0:
            self._failing_since = time.monotonic()
        failure = f"{type(error).__name__}: {cause_of(error)}"
        if failure != self._failure:
            self._failure = failure
            cause = None if isinstance(error, CrawlfleetError) else error  # a message for people needs no traceback
            self._log.error("%s failed and will be tried again: %s", self.name, failure, exc_info=cause)

    def _note_success(self) -> None:
        if self._backoff.failures:
            seconds = time.monotonic() - self._failing_since
            self._log.info("%s works again: failures=%d after=%.1fs", self.name, self._backoff.failures, seconds)
            self._backoff.reset()
            self._failure = ""
