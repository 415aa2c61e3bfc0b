"""Waiting in the main thread so that a signal always ends the wait.

Python runs signal handlers between two instructions of the main thread. A signal that comes right before that thread
blocks in a lock, or that the kernel hands to another thread, would wait as long as the lock does: neither Event.wait
nor SimpleQueue.get is safe. The interpreter's own wake-up descriptor is.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import weakref
from collections.abc import Sequence

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # the terminal was closed; unknown to Windows


class Wakeup:
    """A wait that ends early: by `wake`, by a readable descriptor or, in the main thread, by every handled signal."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):  # closed when nobody is left who could wake or wait
            weakref.finalize(self, os.close, descriptor)
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)  # full, it wakes just as well

    def wake(self) -> None:
        """End the current wait, or the next one; may be called from a signal handler and from any thread."""
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            pass

    def wait(self, timeout: float | None = None, descriptors: Sequence[int] = ()) -> None:
        """Return after `wake`, after a signal's handler, when a descriptor can be read, or after `timeout` seconds."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False) if in_main_thread else -1
        try:
            select.select([self._reader, *descriptors], [], [], timeout)
        finally:
            if in_main_thread:
                signal.set_wakeup_fd(before)
        try:
            os.read(self._reader, 4096)
        except BlockingIOError:
            pass


def ending_signals() -> list[signal.Signals]:
    """The signals at which a program ends in good order; not a SIGHUP that is ignored, as by nohup."""
    if HANGUP is None or signal.getsignal(HANGUP) is signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, HANGUP]
