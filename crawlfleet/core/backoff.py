"""How long to wait before trying again."""

from __future__ import annotations

from collections.abc import Callable
from random import random as _random

JITTER = 0.1  # so that what failed together does not come back together
RECONNECT_FIRST_SECONDS = 0.2
RECONNECT_CAP_SECONDS = 5.0
_DOUBLINGS = 64  # beyond any cap; keeps the power from overflowing


def retry_delay(
    attempt: int, base_seconds: float, cap_seconds: float = 3600, random: Callable[[], float] = _random
) -> float:
    """Seconds until the next try after `attempt` failed ones (counted from 1): base, doubled each time up to the cap.

    Spread evenly by 10 % to both sides, at the cap only downwards: the cap is never passed. A base above the cap is
    its own cap. `random` gives numbers from 0 to 1.
    """
    cap = max(cap_seconds, base_seconds)
    middle = min(base_seconds * 2.0 ** min(max(attempt, 1) - 1, _DOUBLINGS), cap)
    shortest, longest = middle * (1 - JITTER), min(middle * (1 + JITTER), cap)
    return shortest + (longest - shortest) * random()


class Backoff:
    """The waits of a reconnect loop: 0.2 s, doubled up to 5 s, from the start again after `reset`."""

    def __init__(
        self, first_seconds: float = RECONNECT_FIRST_SECONDS, cap_seconds: float = RECONNECT_CAP_SECONDS
    ) -> None:
        self._first_seconds = first_seconds
        self._cap_seconds = cap_seconds
        self.failures = 0

    def next(self) -> float:
        """Count one more failure; the seconds to wait now."""
        self.failures += 1
        return retry_delay(self.failures, self._first_seconds, self._cap_seconds)

    def reset(self) -> None:
        self.failures = 0
