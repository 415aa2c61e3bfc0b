"""The quotas that the sandbox enforces, and its count of what it was asked."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from crawlfleet.sandbox.answer import Answer

Check = tuple[tuple[str, ...], int, bool]  # (what is counted, calls allowed, per day instead of per minute)
NOTED_CALLS = 100_000  # the newest


class Full(NamedTuple):
    """A quota without room: so many seconds until it has some, and whether it said so in its documents."""

    wait: float
    is_one_too_many: bool = True

    @property
    def mood(self) -> str:
        """What to note of a call that it refuses."""
        return "over-quota" if self.is_one_too_many else "pace"


class Quotas:
    """Accepted calls in a sliding minute, or in a day: the UTC day, or days of `day_seconds` from the start.

    A refused call counts against nothing. `clock` gives seconds of the Unix epoch. With a `pace` above 1 the minute is
    in truth so many times as long: a call between the two is refused, but is none too many.
    """

    def __init__(
        self, minute_seconds: float, day_seconds: float | None, clock: Callable[[], float], pace: float = 1.0
    ) -> None:
        self._minute_seconds = minute_seconds
        self._pace = pace
        self._day_seconds = day_seconds
        self._clock = clock
        self._started_at = clock()
        self._lock = threading.Lock()
        self._stamps: dict[tuple[str, ...], deque[float]] = {}
        self._days: dict[tuple[str, ...], tuple[int, int]] = {}
        self.over_quota = 0  # calls that were one too many

    def take(self, checks: Sequence[Check]) -> Full | None:
        """None when every check has room, which is then used; else what is known of the first full one."""
        with self._lock:
            now = self._clock()
            for key, calls, is_daily in checks:
                full = self._full_day(key, calls, now) if is_daily else self._full_minute(key, calls, now)
                if full is not None:
                    self.over_quota += full.is_one_too_many
                    return full
            for key, _, is_daily in checks:
                if is_daily:
                    day, used = self._used_on_day(key, now)
                    self._days[key] = (day, used + 1)
                else:
                    self._stamps.setdefault(key, deque()).append(now)
            return None

    def _full_minute(self, key: tuple[str, ...], calls: int, now: float) -> Full | None:
        minute = self._minute_seconds * self._pace
        stamps = self._stamps.setdefault(key, deque())
        while stamps and stamps[0] + minute <= now:
            stamps.popleft()
        if len(stamps) < calls:
            return None
        declared = sum(stamp + self._minute_seconds > now for stamp in stamps)
        return Full(stamps[0] + minute - now, is_one_too_many=declared >= calls)

    def _full_day(self, key: tuple[str, ...], calls: int, now: float) -> Full | None:
        _, used = self._used_on_day(key, now)
        if used < calls:
            return None
        length, origin = self._day_grid()
        return Full(length - (now - origin) % length)

    def _used_on_day(self, key: tuple[str, ...], now: float) -> tuple[int, int]:
        length, origin = self._day_grid()
        today = int((now - origin) // length)
        day, used = self._days.get(key, (today, 0))
        return (day, used) if day == today else (today, 0)

    def _day_grid(self) -> tuple[float, float]:
        return (86_400.0, 0.0) if self._day_seconds is None else (self._day_seconds, self._started_at)


class Tally:
    """How many calls came and how many of them were not answered with data, by endpoint and by account; and each of the
    newest calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._moods: Counter[str] = Counter()
        self._calls: deque[dict[str, Any]] = deque(maxlen=NOTED_CALLS)

    def count(self, answer: Answer, at: float) -> None:
        """Count the call that is answered so, which came at this moment (seconds of the Unix epoch)."""
        refused = answer.status != 200 or answer.fault is not None
        _, _, app_id, start, end = answer.call or ("",) * 5
        mood = answer.mood or answer.fault or ""
        call = {
            "at": at,
            "account": answer.account,
            "endpoint": answer.endpoint,
            "app_id": app_id,
            "from": start,
            "to": end,
            "status": answer.status,
            "mood": mood,
        }
        with self._lock:
            entry = self._counts.setdefault((answer.endpoint, answer.account), [0, 0])
            entry[0] += 1
            entry[1] += refused
            if mood:
                self._moods[mood] += 1
            self._calls.append(call)

    def calls(self) -> list[dict[str, Any]]:
        """The newest calls in their order: `at` (seconds of the Unix epoch), `account`, `endpoint`, `app_id`, `from`,
        `to`, `status`, and as `mood` what kept the vendor from its usual answer."""
        with self._lock:
            return list(self._calls)

    def stats(self) -> dict[str, Any]:
        """`calls` counts every call, `refused` those among them that were refused or failed, `moods` why."""
        totals = {"calls": 0, "refused": 0}
        endpoints: dict[str, dict[str, int]] = {}
        accounts: dict[str, dict[str, dict[str, int]]] = {}
        with self._lock:
            counts = {key: tuple(entry) for key, entry in sorted(self._counts.items())}
            moods = dict(sorted(self._moods.items()))
        for (endpoint, username), (calls, refused) in counts.items():
            for entry in (totals, endpoints.setdefault(endpoint, {"calls": 0, "refused": 0})):
                entry["calls"] += calls
                entry["refused"] += refused
            accounts.setdefault(username, {})[endpoint] = {"calls": calls, "refused": refused}
        return {**totals, "moods": moods, "endpoints": endpoints, "accounts": accounts}
