"""The clocks that code may read, and how a moment of one becomes a moment of another.

Three clocks matter: the database's, which alone decides anything that nodes share; this machine's monotonic clock,
which measures how long something took; and this machine's wall clock, for what people read. A `Clock` is made at the
edge and handed down, so that a test can let a week pass in one process.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# Linux's CLOCK_MONOTONIC stands still while the machine sleeps; that of macOS does not, but time.monotonic() does.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def _steady_seconds() -> float:
    return time.monotonic() if _STEADY_CLOCK is None else time.clock_gettime(_STEADY_CLOCK)


class Clock:
    """The clocks of this machine, as they are. Tests hand in one that they move."""

    @property
    def database_ahead_seconds(self) -> float:
        """How far what the database says of its clock is moved; 0 outside tests."""
        return 0.0

    def monotonic(self) -> float:
        """Seconds of the clock that never goes back, and goes on while the machine sleeps: leases do, too."""
        return _steady_seconds()

    @property
    def slept_seconds(self) -> float:
        """How long the machine has slept since it was started; it only grows. 0 where nobody can tell."""
        return _steady_seconds() - time.monotonic()

    def wall(self) -> datetime:
        """The time of day (UTC), for people; a node may have it wrong."""
        return datetime.now(UTC)


SYSTEM_CLOCK = Clock()


def pause(seconds: float) -> None:
    """Wait so long, whatever becomes of the wall clock. time.sleep fails where the clock of a process is shifted."""
    threading.Event().wait(seconds)


DRIFT_SHARE = 0.0005  # by which two clocks that nobody moves may differ in their pace
LEAST_STEP_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The database's clock read `now` at some moment between `asked_at` and `answered_at` of the monotonic clock.

    Which of the two ends counts decides on which side a conversion may be wrong. So each says its side in its name.
    """

    now: datetime
    asked_at: float
    answered_at: float

    def earliest_date(self, monotonic_at: float) -> datetime:
        """The database's moment of something that happened here: no later than it was, early by the answer's time."""
        return self.now - timedelta(seconds=self.answered_at - monotonic_at)

    def latest_date(self, monotonic_at: float) -> datetime:
        """The same, no earlier than it was: a call is dated so, since a budget must not reopen before the vendor's."""
        return self.now - timedelta(seconds=self.asked_at - monotonic_at)

    def surely_after(self, moment: datetime) -> float:
        """From when on, here, the database's clock has surely passed this moment."""
        return self.answered_at + (moment - self.now).total_seconds()

    def surely_before(self, moment: datetime) -> float:
        """Until when, here, the database's clock surely has not passed this moment."""
        return self.asked_at + (moment - self.now).total_seconds()

    def moved_since(self, before: ClockReading) -> float:
        """By how many seconds the database's clock was surely moved since, against this machine's; 0: perhaps not."""
        said = (self.now - before.now).total_seconds()
        least, most = self.asked_at - before.answered_at, self.answered_at - before.asked_at
        slack = LEAST_STEP_SECONDS + DRIFT_SHARE * most
        if said > most + slack:
            return said - most
        return said - least if said < least - slack else 0.0
