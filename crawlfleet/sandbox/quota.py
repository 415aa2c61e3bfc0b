"""The quotas that the sandbox enforces, and its count of what it was asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

Check = tuple[tuple[str, ...], int, bool]  # (what is counted, calls allowed, per day instead of per minute)


class Quotas:
    """Accepted calls in a sliding minute, or in a day: the UTC day, or days of `day_seconds` from the start.

    A refused call counts against nothing. `clock` gives seconds of the Unix epoch.
    """

    def __init__(self, minute_seconds: float, day_seconds: float | None, clock: Callable[[], float]) -> None:
        self._minute_seconds = minute_seconds
        self._day_seconds = day_seconds
        self._clock = clock
        self._started_at = clock()
        self._lock = threading.Lock()
        self._stamps: dict[tuple[str, ...], deque[float]] = {}
        self._days: dict[tuple[str, ...], tuple[int, int]] = {}
        self.over_quota = 0  # calls that were one too many

    def take(self, checks: Sequence[Check]) -> float | None:
        """None when every check has room, which is then used; else the seconds until the first full one has room."""
        with self._lock:
            now = self._clock()
            for key, calls, is_daily in checks:
                wait = self._day_wait(key, calls, now) if is_daily else self._minute_wait(key, calls, now)
                if wait is not None:
                    self.over_quota += 1
                    return wait
            for key, _, is_daily in checks:
                if is_daily:
                    day, used = self._used_on_day(key, now)
                    self._days[key] = (day, used + 1)
                else:
                    self._stamps.setdefault(key, deque()).append(now)
            return None

    def _minute_wait(self, key: tuple[str, ...], calls: int, now: float) -> float | None:
        stamps = self._stamps.setdefault(key, deque())
        while stamps and stamps[0] + self._minute_seconds <= now:
            stamps.popleft()
        return None if len(stamps) < calls else stamps[0] + self._minute_seconds - now

    def _day_wait(self, key: tuple[str, ...], calls: int, now: float) -> float | None:
        _, used = self._used_on_day(key, now)
        if used < calls:
            return None
        length, origin = self._day_grid()
        return length - (now - origin) % length

    def _used_on_day(self, key: tuple[str, ...], now: float) -> tuple[int, int]:
        length, origin = self._day_grid()
        today = int((now - origin) // length)
        day, used = self._days.get(key, (today, 0))
        return (day, used) if day == today else (today, 0)

    def _day_grid(self) -> tuple[float, float]:
        return (86_400.0, 0.0) if self._day_seconds is None else (self._day_seconds, self._started_at)


class Tally:
    """How many calls came and how many of them were not answered with data, by endpoint and by account."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], list[int]] = {}

    def count(self, endpoint: str, username: str, refused: bool) -> None:
        with self._lock:
            entry = self._counts.setdefault((endpoint, username), [0, 0])
            entry[0] += 1
            entry[1] += refused

    def stats(self) -> dict[str, Any]:
        """`calls` counts every call, `refused` those among them that were refused or failed."""
        totals = {"calls": 0, "refused": 0}
        endpoints: dict[str, dict[str, int]] = {}
        accounts: dict[str, dict[str, dict[str, int]]] = {}
        with self._lock:
            counts = {key: tuple(entry) for key, entry in sorted(self._counts.items())}
        for (endpoint, username), (calls, refused) in counts.items():
            for entry in (totals, endpoints.setdefault(endpoint, {"calls": 0, "refused": 0})):
                entry["calls"] += calls
                entry["refused"] += refused
            accounts.setdefault(username, {})[endpoint] = {"calls": calls, "refused": refused}
        return {**totals, "endpoints": endpoints, "accounts": accounts}
