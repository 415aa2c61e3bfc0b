"""How long something took, each time since the start, as counts that a histogram is drawn from."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)  # seconds


class Durations:
    """Counts by BOUNDS, and the sum. One thread observes; any thread may read, and then sees all but the newest."""

    def __init__(self) -> None:
        self.sum_seconds = 0.0
        self._counts = [0] * (len(BOUNDS) + 1)

    def observe(self, seconds: float) -> None:
        """Count one more."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum_seconds += seconds

    def up_to(self) -> list[tuple[str, int]]:
        """How many took at most so many seconds, for each of BOUNDS and "+Inf"."""
        found, total = [], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found
