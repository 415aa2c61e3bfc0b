"""The calls that bring the missing days of many apps: done earliest, then fewest. Pure; docs/planning.md explains it.

A report may be asked for in short ranges, which cost a budget of minutes, or in long ones, which cost a budget of days.
The days of an app are cut into stretches that a long call could cover, and each stretch is fetched either way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby

from crawlfleet.model.budget import midnight_after
from crawlfleet.planning.meters import Bookings, Meter
from crawlfleet.sources.contract import Report, Shape

ROW_CAP_SHARE = 0.8  # of the vendor's row cap that a call may be expected to bring: days differ
EXPIRING_DAYS = 7  # before a day falls out of the vendor's window it comes before newer days

Range = tuple[date, date]
MetersOf = Callable[[str, Shape], Sequence[Meter]]


@dataclass(frozen=True, slots=True)
class Need:
    """The days of one app that must be fetched, in order; `rows_per_day` as far as it is known."""

    app_id: str
    days: Sequence[date]
    rows_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One task to be: a range of one app, and from when the budgets allow it."""

    app_id: str
    start: date
    end: date
    shape: Shape
    at: datetime
    is_expiring: bool
    run_at: datetime | None  # of a call that is meant for a later day of its budget


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Days of one app that one long call covers, or `parts` short ones of at most `part_days`."""

    app_id: str
    days: Sequence[date]
    part_days: int
    parts: int

    @property
    def whole(self) -> Range:
        return self.days[0], self.days[-1]


class CallPlanner:
    """Plans the calls of one report. `meters_of(app_id, shape)` gives the budgets of a call, shared where they are."""

    def __init__(self, report: Report, meters_of: MetersOf, now: datetime, oldest_possible: date | None = None) -> None:
        self._report = report
        self._meters_of = meters_of
        self._now = now
        self._expiring_before = None if oldest_possible is None else oldest_possible + timedelta(EXPIRING_DAYS)

    def plan(self, needs: Sequence[Need]) -> list[PlannedCall]:
        """Calls that cover every needed day once, in the order in which they should be made."""
        stretches = [stretch for need in needs for stretch in self._stretches(need)]
        if not stretches:
            return []
        splittable = {each for each in stretches if each.parts > 1}
        plans = [self._schedule(stretches, splittable)]
        if splittable:
            plans.append(self._schedule(stretches, set()))
            seconds = range(1 + round((min(map(_finish, plans)) - self._now).total_seconds()))
            found = bisect_left(seconds, True, key=lambda n: self._long_until(stretches, self._after(n)) is not None)
            chosen = self._long_until(stretches, self._after(found))
            if chosen is not None:
                plans.insert(0, self._schedule(stretches, chosen))
        best = min(plans, key=lambda calls: (_finish(calls), sum(call.shape.calls for call in calls)))
        return sorted(best, key=lambda call: (call.run_at or self._now, call.at, self._urgency(call.start, call.end)))

    def _after(self, seconds: int) -> datetime:
        return self._now + timedelta(seconds=seconds)

    def _stretches(self, need: Need) -> list[Stretch]:
        most_days = self._report.max_range_days
        if need.rows_per_day and self._report.row_cap:
            most_days = min(most_days, max(1, int(ROW_CAP_SHARE * self._report.row_cap / need.rows_per_day)))
        short = min(most_days, self._report.shapes[0].max_days)
        found = []
        for start, end in cover(need.days, most_days):
            days = [day for day in need.days if start <= day <= end]
            found.append(Stretch(need.app_id, days, short, len(cover(days, short))))
        return found

    def _urgency(self, start: date, end: date) -> tuple[int, int]:
        """What expires soon comes first, the oldest before the others; then the newest."""
        if self._expiring_before is not None and start < self._expiring_before:
            return 0, start.toordinal()
        return 1, -end.toordinal()

    def _long_until(self, stretches: Sequence[Stretch], moment: datetime) -> set[Stretch] | None:
        """Which stretches to fetch by a long call so that all is done at this moment; None when it cannot be.

        Until then short calls take what they can, the stretches of fewest parts first. Long calls must take the rest.
        Long calls that are left over go where each saves most.
        """
        spent: Counter[Meter] = Counter()

        def fits(calls: Counter[Meter]) -> bool:
            return all(spent[meter] + count <= meter.room_until(moment) for meter, count in calls.items())

        long: set[Stretch] = set()
        short: list[Stretch] = []
        for stretch in sorted(stretches, key=lambda each: each.parts):
            calls = self._calls_in_parts(stretch)
            if fits(calls):
                spent.update(calls)
                short.append(stretch)
            elif stretch.parts == 1:
                return None
            else:
                long.add(stretch)
        bookings = Bookings(self._now)
        for stretch in self._in_turn(long):
            calls = self._calls_as_whole(stretch)
            if not fits(calls) or self._book(bookings, stretch.app_id, stretch.whole, moment) is None:
                return None
            spent.update(calls)
        for stretch in sorted(short, key=lambda each: -self._saving(each)):
            if self._saving(stretch) <= 0:
                break
            in_parts, calls = self._calls_in_parts(stretch), self._calls_as_whole(stretch)
            spent.subtract(in_parts)
            if fits(calls) and self._book(bookings, stretch.app_id, stretch.whole, moment) is not None:
                spent.update(calls)
                long.add(stretch)
            else:
                spent.update(in_parts)
        return long

    def _saving(self, stretch: Stretch) -> int:
        """How many calls one long call saves for a stretch."""
        return stretch.parts * self._report.shapes[0].calls - self._shape(stretch.whole).calls

    def _calls_in_parts(self, stretch: Stretch) -> Counter[Meter]:
        shape = self._report.shapes[0]
        meters = self._meters_of(stretch.app_id, shape)
        return Counter({meter: stretch.parts * min(shape.calls, meter.most) for meter in meters})

    def _calls_as_whole(self, stretch: Stretch) -> Counter[Meter]:
        shape = self._shape(stretch.whole)
        meters = self._meters_of(stretch.app_id, shape)
        return Counter({meter: min(shape.calls, meter.most) for meter in meters})

    def _schedule(self, stretches: Sequence[Stretch], long: Collection[Stretch]) -> list[PlannedCall]:
        """The calls of these stretches, each at its earliest moment."""
        bookings = Bookings(self._now)
        wanted = [(each.app_id, each.whole) for each in self._in_turn(long)]
        parts: list[tuple[str, Range]] = []
        for (app_id, fetched_whole), group in groupby(stretches, key=lambda each: (each.app_id, each in long)):
            if not fetched_whole:  # neighbours together: a short call may lie across their border
                near = list(group)
                days = [day for each in near for day in each.days]
                parts += [(app_id, part) for part in cover(days, near[0].part_days)]
        wanted += sorted(parts, key=lambda each: self._urgency(*each[1]))
        calls = []
        for app_id, asked in wanted:
            at = self._book(bookings, app_id, asked)
            assert at is not None
            calls.append(self._call(app_id, asked, at))
        return calls

    def _in_turn(self, long: Collection[Stretch]) -> list[Stretch]:
        """Long calls in turns, the app with most of them first: its own budget must not make all others wait."""
        ordered = sorted(long, key=lambda each: (*self._urgency(*each.whole), each.app_id))
        left = Counter(each.app_id for each in ordered)
        turns = []
        for stretch in ordered:
            turns.append((-left[stretch.app_id], stretch))
            left[stretch.app_id] -= 1
        return [stretch for _, stretch in sorted(turns, key=lambda turn: turn[0])]

    def _book(self, bookings: Bookings, app_id: str, days: Range, until: datetime | None = None) -> datetime | None:
        shape = self._shape(days)
        return bookings.book(self._meters_of(app_id, shape), shape.calls, until)

    def _call(self, app_id: str, days: Range, at: datetime) -> PlannedCall:
        shape = self._shape(days)
        is_later = at >= midnight_after(self._now) and any(m.is_daily for m in self._meters_of(app_id, shape))
        is_expiring = self._urgency(*days)[0] == 0
        return PlannedCall(app_id, *days, shape, at, is_expiring, at if is_later else None)

    def _shape(self, days: Range) -> Shape:
        return self._report.shape_of((days[1] - days[0]).days + 1)


def cover(days: Sequence[date], most_days: int) -> list[Range]:
    """The fewest ranges of at most so many days that hold all of these, each once; they begin and end with one."""
    ranges: list[Range] = []
    for day in days:
        if ranges and (day - ranges[-1][0]).days < most_days:
            ranges[-1] = ranges[-1][0], day
        else:
            ranges.append((day, day))
    return ranges


def _finish(calls: Sequence[PlannedCall]) -> datetime:
    return max(call.at for call in calls)
