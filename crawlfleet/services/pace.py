"""How long turns and bodies take of late, and what follows from it: how far ahead a node claims, and what it waits for.

A turn is a transaction at a database that may be far away; a body is a task's own work. All is in seconds of the
monotonic clock. Medians, since one slow turn tells of a busy moment.
"""

from __future__ import annotations

from collections import deque
from statistics import median

TURNS, BODIES = 16, 64  # the last so many count
FIRST_TURN_SECONDS = 0.01  # until one is known
MAX_RESERVE = 2000  # tasks held ready beyond the slots, so that a far database does not starve them
MAX_LEAD_SECONDS = 2.0  # a task is claimed at most so long before its budget reopens, and fills a slot meanwhile
LINGER_SHARE = 0.5  # of a turn: more would cost those that have ended more than the others gain
LINGER_SECONDS = (0.02, 1.0)  # what is worth it: a database nearby is asked at once; and at most


class Pace:
    """Told of each turn and body by one thread; any thread may ask."""

    def __init__(self) -> None:
        self._turns: deque[float] = deque([FIRST_TURN_SECONDS], maxlen=TURNS)
        self._bodies: deque[float] = deque(maxlen=BODIES)

    def note_turn(self, seconds: float) -> None:
        """A turn took so long."""
        self._turns.append(seconds)

    def note_body(self, seconds: float) -> None:
        """A body ran so long."""
        self._bodies.append(seconds)

    @property
    def turn(self) -> float:
        """Usual time of a turn."""
        return median(list(self._turns))

    @property
    def body(self) -> float | None:
        """Usual time of a body, None when none has ended."""
        bodies = list(self._bodies)
        return median(bodies) if bodies else None

    @property
    def lead(self) -> float:
        """How long before its budget reopens a task is claimed: as long as that may take; its permit waits the rest."""
        return min(MAX_LEAD_SECONDS, 0.05 + 3 * self.turn)

    def reserve(self, slots: int, running: float) -> int:
        """Tasks to hold ready beyond the slots: slots x (time of two turns / time of a body).

        As many as the slots use up while a turn is away: half of the turns take longer than the median, and a body may
        end just after one has begun. `running` is how long the youngest body has run by now: those under way may be
        slower than those that ended.
        """
        if self.body is None:
            return 0
        return min(MAX_RESERVE, round(slots * 2 * self.turn / max(self.body, running, 1e-5)))

    @property
    def linger(self) -> float:
        """How long a turn may wait for bodies that just began, to end them with those that have ended; 0: not at all.

        Without, the slots of a node whose database is far away fall into two groups, each of which ends and claims with
        a turn of its own while the other's bodies have long ended: half as many tasks in the same time.
        """
        longest = min(LINGER_SHARE * self.turn, LINGER_SECONDS[1])
        if longest < LINGER_SECONDS[0] or self.body is None or self.body > longest:
            return 0.0
        return longest
