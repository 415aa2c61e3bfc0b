"""The permit of a run: which calls it may send to its source, and when.

The transport asks at the very moment at which it would send a request. All moments here are seconds of the monotonic
clock; the scheduler has turned the database's moments into them. No wall clock of a node is asked.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from crawlfleet.core.clock import SYSTEM_CLOCK, Clock
from crawlfleet.core.errors import CallRefused

FORKED = "a child process that a body forked may not call its source: only the body itself may"
SLEEP_SECONDS = 0.05  # two clocks that are read one after the other may differ by less
SendWindow = tuple[float, float, float]  # not before, not after, and how many seconds the call may be on its way


class Permit(Protocol):
    """What a context needs to know about the calls of its run."""

    def take(self, cancelled: threading.Event) -> bool:
        """Wait until the next call may be sent, and count it as sent now; False when `cancelled` was set meanwhile.

        Raises CallRefused for a call that the run does not hold, or whose time is over.
        """
        ...

    def answered(self) -> None:
        """The call that was sent last has been answered."""
        ...


class RunPermit:
    """The calls of one run, in its node: one for each of `windows`, in this order; None: any number at any time.

    `trusted_until` is asked before each call: a process that has lost its lease without noticing must send nothing,
    since others count its calls as sent. `on_answer` is called after each answer, with what `revoke` returns.
    """

    def __init__(
        self,
        windows: Sequence[SendWindow] | None,
        trusted_until: Callable[[], float],
        on_answer: Callable[[tuple[float, ...]], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._windows = windows
        self._trusted_until = trusted_until
        self._on_answer = on_answer
        self._clock = clock
        self._lock = threading.Lock()
        self._seen_by: list[float] = []  # for each call that was sent: when the vendor has seen it at the latest
        self._slept_before: float | None = None  # the machine, when it sent the call that is on its way
        self._way_seconds = 0.0  # of that call
        self._revoked = False
        self._closed = False
        self._waits_until = -math.inf
        self._process = os.getpid()
        self.leave_until = math.inf  # until when the call that `take` allowed last may leave, where others send it

    def revoke(self) -> tuple[float, ...]:
        """Let nothing more be sent. Returns, for each call that was sent, by when the vendor has seen it."""
        with self._lock:
            self._revoked = True
            if self._slept_on_the_way:  # it may leave this machine only now
                self._seen_by[-1] = self._clock.monotonic() + self._way_seconds
            return tuple(self._seen_by)

    def close(self) -> bool:
        """Refuse all further calls: their budget was closed. True when the run is just waiting for one."""
        with self._lock:
            self._closed = True
        return self.waits(0.0)

    def waits(self, seconds: float) -> bool:
        """Whether the run waits for the moment of its next call, and for longer than so many seconds."""
        with self._lock:
            return self._waits_until - self._clock.monotonic() > seconds

    def take(self, cancelled: threading.Event) -> bool:
        if os.getpid() != self._process:  # it would count in a copy, and send on a connection of its parent
            raise CallRefused(FORKED)
        while (wait := self._take(cancelled)) > 0:
            if cancelled.wait(wait):  # without the lock: `revoke` waits for nobody
                return False
        return wait == 0

    def give_back(self) -> None:
        """The call that `take` allowed last was not sent, and will not be: it is as if nobody had asked."""
        with self._lock:
            if self._seen_by:
                self._seen_by.pop()
                self._slept_before = None

    def answered(self) -> None:
        with self._lock:
            if not self._seen_by:
                return
            here = self._clock.monotonic()
            self._seen_by[-1] = here if self._slept_on_the_way else min(self._seen_by[-1], here)
            self._slept_before = None
            seen_by = tuple(self._seen_by)
        self._on_answer(seen_by)

    def _take(self, cancelled: threading.Event) -> float:
        """Seconds until the next call may be sent; 0 when it is taken, below 0 when nothing may be sent any more."""
        with self._lock:
            here = self._clock.monotonic()
            self._waits_until = -math.inf
            if self._closed:
                raise CallRefused("the vendor refused a call of its budget before this one was sent")
            if self._windows is None:
                self.leave_until = self._trusted_until()
                return 0 if self._may_send(cancelled) else -1
            number = len(self._seen_by)
            if number >= len(self._windows):
                raise CallRefused(
                    f"the run holds {len(self._windows)} calls and needs another", calls_wanted=max(1, 2 * number)
                )
            not_before, not_after, way_seconds = self._windows[number]
            if here < not_before:
                self._waits_until = not_before
                return not_before - here
            if here > not_after:
                raise CallRefused("the day of its budget was over before the call was sent")
            if not self._may_send(cancelled):
                return -1
            self._seen_by.append(here + way_seconds)
            self._slept_before, self._way_seconds = self._clock.slept_seconds, way_seconds
            # A day's call may be on its way all day; of another, half of the way is left for what is beyond this node.
            longest = way_seconds / 2 if way_seconds else math.inf
            self.leave_until = min(not_after, self._trusted_until(), here + longest)
            return 0

    @property
    def _slept_on_the_way(self) -> bool:
        """Whether the machine slept since it sent the call that is not answered yet."""
        return self._slept_before is not None and self._clock.slept_seconds - self._slept_before > SLEEP_SECONDS

    def _may_send(self, cancelled: threading.Event) -> bool:
        return not self._revoked and not cancelled.is_set() and self._clock.monotonic() < self._trusted_until()
