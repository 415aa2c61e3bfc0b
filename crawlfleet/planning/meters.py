"""When a vendor's quotas allow calls: the budgets of a plan, and the calls that it books against them.

Pure arithmetic on what `model.planning_facts` read. A budget is a row of periods, each with room for so many calls.
Periods are sliding windows of its length from now on, or UTC days.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from crawlfleet.model.budget import DAY_MARGIN_SECONDS, DAY_SECONDS, Charge, midnight_after

BACKFILL_SHARE = 0.75  # of what is left of a daily budget; the rest is for the figures of the day
UNLIMITED = sys.maxsize


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What a budget allows at present: `allowed` calls a period (None: any number), from `opens_at` on.

    `busy` calls are held or count still; `owed` are those of queued tasks, each as (when it is due, calls).
    """

    allowed: int | None
    opens_at: datetime
    busy: int = 0
    owed: Sequence[tuple[datetime, int]] = ()


class Meter:
    """One budget over time, as a plan made at `now` may use it."""

    def __init__(self, charge: Charge, standing: BudgetState, now: datetime) -> None:
        self.charge = charge
        self.allowed = standing.allowed
        self.is_daily = charge.seconds == DAY_SECONDS
        self._opens_at = max(now, standing.opens_at)
        self._origin = now if self.is_daily else self._opens_at
        self._next_day = midnight_after(now)
        self._seconds = timedelta(seconds=charge.seconds)
        self._closed = self.period_of(self._opens_at)
        self._load = Counter({0: standing.busy})
        for due, calls in standing.owed:
            self._load[self.period_of(due)] += calls
        self.left = self.allowed
        if self.allowed is not None:
            self.left = 0 if self._closed else max(0, self.allowed - self._load[0])
        self.resets_at = self.start_of(1)
        self._over = 0  # calls that found no room in the periods so far
        self._room_before = [0]  # for each period, the room of all before it

    @property
    def most(self) -> int:
        """Calls that an empty period has room for."""
        return UNLIMITED if self.allowed is None else self._share(self.allowed)

    def period_of(self, moment: datetime) -> int:
        """The number of the period of a moment, from 0."""
        if self.is_daily:
            return max(0, (moment.date() - self._origin.date()).days)
        return max(0, (moment - self._origin) // self._seconds)

    def start_of(self, period: int) -> datetime:
        """The first moment of a period at which a call may be made."""
        if not self.is_daily:
            return self._origin + period * self._seconds
        if period == 0:
            return self._opens_at
        start = self._next_day + timedelta(days=period - 1, seconds=DAY_MARGIN_SECONDS)
        return max(start, self._opens_at) if period == self._closed else start

    def room(self, period: int) -> int:
        """Calls that a plan may make in this period."""
        return UNLIMITED if self.allowed is None else self._before(period + 1) - self._before(period)

    def room_until(self, moment: datetime) -> int:
        """Calls that a plan may make from now until this moment, which is included."""
        if self.allowed is None:
            return UNLIMITED if moment >= self._opens_at else 0
        period = self.period_of(moment)
        return self._before(period + 1 if self.start_of(period) <= moment else period)

    def _before(self, period: int) -> int:
        assert self.allowed is not None
        while len(self._room_before) <= period:
            number = len(self._room_before) - 1
            self._over += self._load[number]
            room = 0
            if number >= self._closed:
                used = min(self._over, self.allowed)
                self._over -= used
                room = self._share(self.allowed - used)
            self._room_before.append(self._room_before[-1] + room)
        return self._room_before[period]

    def _share(self, left: int) -> int:
        if not self.is_daily or left == 0:
            return left
        return max(1, math.floor(BACKFILL_SHARE * left))


class Bookings:
    """The calls of one plan, each at the earliest moment at which all of its budgets have room."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._used: Counter[tuple[Meter, int]] = Counter()
        self._first: Counter[Meter] = Counter()  # all periods before this one are full

    def book(self, meters: Iterable[Meter], calls: int, until: datetime | None = None) -> datetime | None:
        """Book a task's calls; when they may be made. None when that is after `until`, and nothing is booked."""
        needs = [(meter, min(calls, meter.most)) for meter in meters]
        at = self._now
        while True:
            opening = max((self._opening(meter, need, at) for meter, need in needs), default=at)
            if until is not None and opening > until:
                return None
            if opening == at:
                break
            at = opening
        for meter, need in needs:
            self._used[meter, meter.period_of(at)] += need
        return at

    def _opening(self, meter: Meter, need: int, at: datetime) -> datetime:
        first = self._first[meter]
        while meter.room(first) <= self._used[meter, first]:
            first += 1
        self._first[meter] = first
        period = max(first, meter.period_of(at))
        while meter.room(period) - self._used[meter, period] < need:
            period += 1
        return max(at, meter.start_of(period))
