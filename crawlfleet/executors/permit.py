"""The calls that one run may send to its source, and when: where a budget of the database meets the wire.

The transport asks at the very moment at which it would send a request. All moments here are seconds of the monotonic
clock, into which the scheduler has turned the database's; no wall clock of a node is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from crawlfleet.core.errors import CallRefused

Moments = tuple[float, float]  # not before, not after


class Permit(Protocol):
    """What a context needs to know about the calls of its run."""

    def take(self, cancelled: threading.Event) -> bool:
        """Wait until the next call may be sent, and count it as sent now; False when `cancelled` was set meanwhile.

        Raises CallRefused for a call that the run does not hold, or whose time is over.
        """
        ...


class RunPermit:
    """The calls of one run, in its node. `calls` None: any number at any time.

    `trusted_until` is asked before each call: a process that has lost its lease without noticing must send nothing,
    since others count its calls as sent. `on_call` is told after each.
    """

    def __init__(
        self,
        calls: Sequence[Moments] | None,
        trusted_until: Callable[[], float],
        on_call: Callable[[RunPermit], None],
    ) -> None:
        self._calls = calls
        self._trusted_until = trusted_until
        self._on_call = on_call
        self._lock = threading.Lock()
        self._sent: list[float] = []
        self._revoked = False

    @property
    def sent(self) -> tuple[float, ...]:
        """When each call was sent, in order."""
        return tuple(self._sent)

    @property
    def is_counted(self) -> bool:
        """Whether any budget counts its calls."""
        return self._calls is None or bool(self._calls)

    def revoke(self) -> tuple[float, ...]:
        """Let nothing more be sent; when each call was, finally."""
        with self._lock:
            self._revoked = True
            return tuple(self._sent)

    def take(self, cancelled: threading.Event) -> bool:
        with self._lock:
            if self._calls is None:
                return self._send(cancelled)
            number = len(self._sent)
            if number >= len(self._calls):
                raise CallRefused(
                    f"the run holds {len(self._calls)} calls and needs another", calls_wanted=max(1, 2 * number)
                )
            not_before, not_after = self._calls[number]
            while (wait := not_before - time.monotonic()) > 0:
                if cancelled.wait(wait):
                    return False
            if time.monotonic() > not_after:
                raise CallRefused("the day of its budget was over before the call was sent")
            return self._send(cancelled)

    def _send(self, cancelled: threading.Event) -> bool:
        if self._revoked or cancelled.is_set() or time.monotonic() > self._trusted_until():
            return False
        self._sent.append(time.monotonic())
        self._on_call(self)
        return True
