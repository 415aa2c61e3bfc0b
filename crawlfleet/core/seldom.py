"""Log lines that others can cause as often as they like, and that are written seldom."""

from __future__ import annotations

import threading
import time

SECONDS = 60.0


class Seldom:
    """Lets one of many equal lines through in `seconds`, and counts the others."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._count = 0

    def count(self) -> int:
        """How often it happened since the last line, this time included, when a line is due; else 0."""
        with self._lock:
            self._count += 1
            now = time.monotonic()
            if now < self._next_at:
                return 0
            count, self._count, self._next_at = self._count, 0, now + self._seconds
            return count
