"""Whether the database's clock was set, and how long a node sends no calls after it was set ahead."""

from __future__ import annotations

from crawlfleet.core.clock import Clock, ClockReading

COMPARE_SECONDS = 60.0  # for so long the database's clock is compared with one reading


class ClockWatch:
    """Compares readings of the database's clock. Used by the scheduler's thread alone.

    After a step ahead all nodes have to date their calls anew before one of them calls again: `pause_seconds` is within
    which each of them has noticed.
    """

    def __init__(self, clock: Clock, pause_seconds: float) -> None:
        self.before: ClockReading | None = None  # with which the next one is compared
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._no_calls_until = 0.0

    @property
    def pause_left(self) -> float:
        """For how many seconds calls are not to be claimed; 0 or less when they may be."""
        return self._no_calls_until - self._clock.monotonic()

    def was_set(self, reading: ClockReading) -> bool:
        """Whether the clock was set since the reading before; the first one is kept."""
        if self.before is None:
            self.before = reading
            return False
        return bool(reading.moved_since(self.before))

    def after_turn(self, reading: ClockReading, moved_seconds: float) -> None:
        """Take over what a turn saw, which has dated the calls of this node anew when the clock was moved."""
        # Not each time, or a clock that is slowly put right would go unnoticed in small steps.
        before = self.before
        if before is None or moved_seconds or reading.asked_at - before.asked_at > COMPARE_SECONDS:
            self.before = reading
        if moved_seconds > 0:
            self._no_calls_until = self._clock.monotonic() + self._pause_seconds
