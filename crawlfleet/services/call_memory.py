"""What a node remembers of its calls: when it sent them, by its own clock."""

from __future__ import annotations

from collections.abc import Sequence

from crawlfleet.core.clock import Clock
from crawlfleet.services.uncommitted import SentCalls

MOST_RUNS = 1000
LONGEST_SECONDS = 86_400.0


class CallMemory:
    """The calls of the last runs. The database dates them by its clock; when that is moved, they are dated anew."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._runs: dict[int, SentCalls] = {}

    def note(self, assignment_id: int, task_id: int, moments: Sequence[float]) -> None:
        """A run has sent these calls so far."""
        if moments:
            self._runs.pop(assignment_id, None)  # the newest come last
            self._runs[assignment_id] = SentCalls(assignment_id, task_id, tuple(moments))
            if len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]

    def recent(self) -> list[SentCalls]:
        """All that may still count."""
        since = self._clock.monotonic() - LONGEST_SECONDS
        return [each for each in self._runs.values() if max(each.moments) > since]
