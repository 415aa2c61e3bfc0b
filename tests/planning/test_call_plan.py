"""The calls of a backfill, planned without a database: everything once, earliest, then fewest."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawlfleet.model.budget import DAY_MARGIN_SECONDS, Charge
from crawlfleet.planning.call_plan import CallPlanner, Need, PlannedCall, cover
from crawlfleet.planning.meters import BACKFILL_SHARE, BudgetState, Meter
from crawlfleet.sources.appsflyer.source import LIMITS, REPORTS
from crawlfleet.sources.contract import Limit, Report, Shape

NOW = datetime(2026, 5, 20, 21, tzinfo=UTC)
NEXT_DAY = datetime(2026, 5, 21, tzinfo=UTC) + timedelta(seconds=DAY_MARGIN_SECONDS)
MINUTE = timedelta(minutes=1)
FIRST = date(2025, 1, 1)
APPSFLYER = REPORTS["partners_by_date_report"]
SMALL = Report(  # AppsFlyer's shapes and limits, small enough to meet all borders
    "small", (Shape(("minute",), max_days=2), Shape(("app", "account"), min_days=3, max_days=8)), row_cap=100
)
SMALL_LIMITS = (
    Limit("minute", 1, 60, ("account", "app", "report")),
    Limit("app", 3, 86_400, ("account", "app")),
    Limit("account", 4, 86_400, ("account",)),
)


@dataclass
class Vendor:
    """The budgets of one account; `busy` says how many calls of a limit have been made already."""

    report: Report = APPSFLYER
    limits: Sequence[Limit] = LIMITS
    busy: dict[str, int] = field(default_factory=dict)
    opens_at: datetime = NOW
    meters: dict[tuple[str, str], Meter] = field(default_factory=dict)

    def meters_of(self, app_id: str, shape: Shape) -> list[Meter]:
        return [self.meter(limit, app_id) for limit in self.limits if limit.name in shape.limits]

    def meter(self, limit: Limit, app_id: str) -> Meter:
        owner = app_id if "app" in limit.scope else ""
        standing = BudgetState(limit.calls, self.opens_at, self.busy.get(limit.name, 0))
        charge = Charge("vendor", limit.name, limit.calls, limit.seconds, "u", owner)
        return self.meters.setdefault((limit.name, owner), Meter(charge, standing, NOW))

    def plan(self, *needs: Need, oldest: date | None = None) -> list[PlannedCall]:
        return CallPlanner(self.report, self.meters_of, NOW, oldest).plan(needs)


def days(count: int, first: date = FIRST) -> list[date]:
    return [first + timedelta(n) for n in range(count)]


def need(count: int, app_id: str = "a", rows_per_day: float | None = None) -> Need:
    return Need(app_id, days(count), rows_per_day)


def finish(calls: Sequence[PlannedCall]) -> timedelta:
    return max(call.at for call in calls) - NOW


def length(call: PlannedCall) -> int:
    return (call.end - call.start).days + 1


def is_long(call: PlannedCall) -> bool:
    return len(call.shape.limits) == 2


# -- the examples of docs/planning.md


def test_ninety_days_of_fifteen_apps_are_fifteen_calls() -> None:
    calls = Vendor().plan(*(need(90, f"a{n}") for n in range(15)))
    assert len(calls) == 15
    assert finish(calls) == timedelta(0)
    assert all(call.run_at is None for call in calls)


def test_three_hundred_apps_mix_both_ways_and_end_within_the_hour() -> None:
    calls = Vendor().plan(*(need(90, f"a{n}") for n in range(300)))
    assert finish(calls) == 44 * MINUTE
    assert sum(map(is_long, calls)) == 90  # three quarters of 120
    assert len(calls) == 90 + 210 * 45


# -- single rules


def test_a_long_call_covers_final_days_between_gaps() -> None:
    needed = [*days(10), *days(10, FIRST + timedelta(40))]
    [call] = Vendor().plan(Need("a", needed))
    assert (call.start, call.end) == (FIRST, FIRST + timedelta(49))


def test_two_days_are_a_call_of_the_minute_and_leave_the_daily_budgets_alone() -> None:
    [call] = Vendor().plan(need(2))
    assert call.shape.limits == ("aggregate_short_range",)


def test_with_the_day_spent_short_calls_are_made_when_they_end_before_the_next_one() -> None:
    spent = Vendor(busy={"aggregate_long_range_account": 120})
    calls = spent.plan(need(90))
    assert len(calls) == 45
    assert finish(calls) == 44 * MINUTE
    [late] = Vendor(busy={"aggregate_long_range_account": 120}).plan(need(900))  # 450 minutes: midnight is nearer
    assert late.run_at == late.at == NEXT_DAY


def test_what_is_left_of_the_day_is_not_planned_to_its_end() -> None:
    vendor = Vendor(busy={"aggregate_long_range_account": 112})
    calls = vendor.plan(*(need(900, f"a{n}") for n in range(8)))
    assert [call.run_at for call in calls] == [None] * 6 + [NEXT_DAY] * 2


def test_one_call_that_is_left_may_be_planned() -> None:
    [call] = Vendor(busy={"aggregate_long_range_account": 119}).plan(need(90))
    assert call.run_at is None


def test_calls_of_a_closed_budget_wait_until_it_opens() -> None:
    vendor = Vendor(opens_at=NOW + timedelta(minutes=7))
    assert finish(vendor.plan(need(90))) == timedelta(minutes=7)
    tomorrow = Vendor(opens_at=NOW + timedelta(hours=5))
    [call] = tomorrow.plan(need(90))
    assert call.run_at == NOW + timedelta(hours=5)


def test_what_expires_soon_comes_first_then_the_newest() -> None:
    vendor = Vendor(SMALL, [Limit("minute", 1, 60, ("app",)), *SMALL_LIMITS[1:]], busy={"account": 4})
    calls = vendor.plan(Need("a", days(24)), oldest=FIRST)
    starts = [(call.start - FIRST).days for call in calls]
    assert starts == [0, 2, 4, 6, 22, 20, 18, 16, 14, 12, 10, 8]
    assert [call.is_expiring for call in calls] == [True] * 4 + [False] * 8


def test_a_call_is_not_expected_to_reach_the_row_cap() -> None:
    calls = Vendor().plan(need(90, rows_per_day=10_000))
    assert max(map(length, calls)) <= 16  # of 160,000 rows
    assert len(calls) == 6
    single = Vendor().plan(need(4, rows_per_day=500_000))
    assert [length(call) for call in single] == [1] * 4


def test_a_report_of_one_shape_and_no_number_is_asked_for_at_once() -> None:
    vendor = Vendor(REPORTS["master_by_ad"])
    calls = vendor.plan(Need("all", days(90)))
    assert [length(call) for call in calls] == [28, 31, 31]
    assert finish(calls) == timedelta(0)


def test_pages_that_a_long_call_may_need_are_not_spent_where_short_ones_need_fewer() -> None:
    """Both ways cost the same budget, as of Apple's reviews."""
    report = Report("reviews", (Shape(("store",), 2, 1, 7), Shape(("store",), 10, 8, 1000)))
    limits = [Limit("store", 19, 60, ())]
    few = Vendor(report, limits).plan(need(10))
    assert [call.shape.calls for call in few] == [2, 2]
    more = Vendor(report, limits).plan(need(49, "a"), need(10, "b"))  # nine short ones would fit, too
    assert sorted(call.shape.calls for call in more) == [2, 2, 10]
    many = Vendor(report, limits).plan(need(100, "a"), need(100, "b"), need(10, "c"))
    assert sorted(call.shape.calls for call in many) == [2, 2, 10, 10]
    assert finish(many) == MINUTE


def test_the_app_that_needs_most_days_of_its_budget_begins_first() -> None:
    """Else newer days of others would take the account's calls of today, and it would need a third day."""
    report = Report("r", (Shape(("short",), max_days=1), Shape(("app", "account"), min_days=2, max_days=100)))
    limits = [Limit("short", 1, 86_400, ("app",)), Limit("app", 4, 86_400, ("app",)), Limit("account", 6, 86_400)]
    newer = days(100, FIRST + timedelta(600))
    calls = Vendor(report, limits).plan(need(600, "a"), Need("b", newer), Need("c", newer))
    assert Counter(call.run_at for call in calls) == {None: 4, NEXT_DAY: 4}


def test_nothing_to_fetch_is_no_call() -> None:
    assert Vendor().plan() == []


# -- any case

day_sets = st.sets(st.integers(0, 40), min_size=1).map(lambda found: [FIRST + timedelta(n) for n in sorted(found)])
rows = st.one_of(st.none(), st.floats(1, 120))
cases = st.lists(st.tuples(day_sets, rows), min_size=1, max_size=5)
loads = st.fixed_dictionaries({"minute": st.integers(0, 3), "app": st.integers(0, 3), "account": st.integers(0, 5)})


@settings(deadline=None)
@given(cases, loads)
def test_every_plan_is_whole_legal_and_no_worse_than_the_plain_ones(
    wanted: list[tuple[list[date], float | None]], busy: dict[str, int]
) -> None:
    vendor = Vendor(SMALL, SMALL_LIMITS, busy)
    needs = [Need(f"a{n}", found, rows_per_day) for n, (found, rows_per_day) in enumerate(wanted)]
    calls = vendor.plan(*needs)
    for each in needs:
        own = [call for call in calls if call.app_id == each.app_id]
        asked = [day for call in own for day in days(length(call), call.start)]
        assert len(asked) == len(set(asked))
        assert set(each.days) <= set(asked)
        most = max(1, int(80 / each.rows_per_day)) if each.rows_per_day else 8
        assert all(call.shape.min_days <= length(call) <= min(most, call.shape.max_days) for call in own)
    assert_within_budgets(vendor, calls)
    short = all_short(needs, busy["minute"])
    assert len(calls) <= short.calls
    assert finish(calls) <= short.finish


@dataclass
class Plain:
    calls: int
    finish: timedelta


def all_short(needs: Sequence[Need], busy: int) -> Plain:
    """Every day by calls of the minute."""
    counts = [len(cover(n.days, 1 if n.rows_per_day and n.rows_per_day > 40 else 2)) for n in needs]
    return Plain(sum(counts), max(busy + count - 1 for count in counts) * MINUTE)


def assert_within_budgets(vendor: Vendor, calls: Sequence[PlannedCall]) -> None:
    made: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for call in calls:
        for limit in vendor.limits:
            if limit.name in call.shape.limits:
                made[limit.name, call.app_id if "app" in limit.scope else ""].append(call.at)
                if limit.seconds == 86_400:
                    assert call.run_at == (call.at if call.at.date() > NOW.date() else None)
    for (name, _), moments in made.items():
        limit = next(each for each in vendor.limits if each.name == name)
        assert limit.calls is not None
        if limit.seconds == 60:
            ordered = [NOW - MINUTE] * vendor.busy[name] + sorted(moments)
            assert all(later - earlier >= MINUTE for earlier, later in itertools.pairwise(ordered[vendor.busy[name] :]))
            assert ordered[-1] >= NOW + (len(ordered) - 1) * MINUTE
            continue
        for day, count in Counter(moment.date() for moment in moments).items():
            left = max(0, limit.calls - vendor.busy[name]) if day == NOW.date() else limit.calls
            assert count <= max(BACKFILL_SHARE * left, min(left, 1))


@settings(deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(0, 5))
def test_no_choice_between_long_and_short_is_better(day_counts: list[int], busy: int) -> None:
    vendor = Vendor(SMALL, SMALL_LIMITS, {"account": busy})
    calls = vendor.plan(*(need(count, f"a{n}") for n, count in enumerate(day_counts)))
    today = max(0, 4 - busy) * 3 // 4 or min(1, max(0, 4 - busy))
    best = min(
        outcome(day_counts, long, today)
        for size in range(len(day_counts) + 1)
        for long in itertools.combinations([n for n, count in enumerate(day_counts) if count > 2], size)
    )
    assert (finish(calls), len(calls)) == best


def outcome(day_counts: Sequence[int], long: Sequence[int], today: int) -> tuple[timedelta, int]:
    """When all is done and how many calls it takes if these apps are fetched by one long call each."""
    short = [(count + 1) // 2 for n, count in enumerate(day_counts) if n not in long]
    done = max(short, default=1) * MINUTE - MINUTE
    later = len(long) - today
    if later > 0:  # three a day from tomorrow on
        done = max(done, NEXT_DAY + timedelta((later - 1) // 3) - NOW)
    return done, len(long) + sum(short)


@pytest.mark.parametrize(
    ("owed", "room"),
    [
        ([], [18, 18, 18]),
        ([(NOW, 24)], [0, 18, 18]),
        ([(NOW, 30)], [0, 13, 18]),  # six of them are made tomorrow
        ([(NEXT_DAY, 20)], [18, 3, 18]),
        ([(NOW - timedelta(hours=3), 4)], [15, 18, 18]),
    ],
)
def test_calls_of_queued_tasks_take_the_room_of_their_day(owed: list[tuple[datetime, int]], room: list[int]) -> None:
    meter = Meter(Charge("vendor", "app", 24, 86_400), BudgetState(24, NOW, 0, owed), NOW)
    assert [meter.room(n) for n in range(3)] == room
