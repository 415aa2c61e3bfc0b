"""Backfills planned on each database: what is there, what is asked for, what the budgets still allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.core.errors import CrawlfleetError, UsageError
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.executors.registry import executors
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.range_store import replace_range
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import DEFAULT_REPORT, TaskSpec
from crawlfleet.planning.backfill import EXPIRING_PRIORITY, PRIORITY, Backfill
from crawlfleet.planning.planner import BackfillPlanner
from crawlfleet.planning.tariff import Tariff
from crawlfleet.services.fleet import Fleet, connect
from crawlfleet.sources.appsflyer.source import MASTER, REPORTS
from crawlfleet.sources.contract import Report
from tests.conftest import Backend
from tests.fleets import Device, ending, task

NOW = datetime(2026, 5, 20, 9, tzinfo=UTC)
TODAY = NOW.date()
YESTERDAY = TODAY - timedelta(1)
FIRST = TODAY - timedelta(40)  # settled long ago
TOMORROW_OPENS = datetime(2026, 5, 21, 0, 7, 12, tzinfo=UTC)
COST_OF = Tariff({}, executors).cost_of
REPORT = REPORTS[DEFAULT_REPORT]


@pytest.fixture
def fleet(backend: Backend) -> Iterator[Fleet]:
    made = connect(backend.url)
    made.accounts.add(Account("appsflyer", "u", token_env="T", app_ids=("a",)))
    yield made
    made.close()


def plan(
    fleet: Fleet,
    start: date = FIRST,
    end: date = FIRST + timedelta(9),
    apps: Sequence[str] = ("a",),
    report: Report = REPORT,
    now: datetime = NOW,
) -> Backfill:
    [account] = AccountDAO(fleet.db).find("u")
    with fleet.db.read(now) as reader:
        return BackfillPlanner(reader, account, report, COST_OF).plan(start, end, apps)


def queue(fleet: Fleet, *specs: TaskSpec, now: datetime = NOW) -> list[int]:
    return fleet.tasks.add(specs, TaskDefaults(cost_of=COST_OF), now)


def request(start: int, end: int, app_id: str | None = "a", task_type: str = "app_data", **more: object) -> TaskSpec:
    """A task for days counted from FIRST."""
    days = {"start_date": FIRST + timedelta(start), "end_date": FIRST + timedelta(end)}
    values = {"username": "u", "app_id": app_id, "report": DEFAULT_REPORT, **days, **more}
    return TaskSpec(task_type, source="appsflyer", **values)  # type: ignore[arg-type]


def fetch(
    fleet: Fleet, start: date, end: date, at: datetime, app_id: str = "a", rows: int = 1, report: str = DEFAULT_REPORT
) -> None:
    """Store so many rows for each day, fetched at this moment."""
    scope = ReportRange("appsflyer", "u", app_id, report, start, end)
    days = [start + timedelta(n) for n in range((end - start).days + 1)]
    figures = [Figures(day, campaign=str(n)) for day in days for n in range(rows)]
    fleet.db.write(lambda connection: replace_range(connection, scope, figures, at))


def asked(found: Backfill) -> set[int]:
    """The days that the plan's calls cover, counted from FIRST."""
    return {n for call in found.calls for n in range((call.start - FIRST).days, (call.end - FIRST).days + 1)}


def counted(found: Backfill) -> dict[str, int]:
    return {str(reason): count for reason, count in found.skipped.items() if count}


# -- days


def test_what_was_fetched_for_good_is_not_fetched_again(fleet: Fleet) -> None:
    assert asked(plan(fleet)) == set(range(10))
    fetch(fleet, FIRST, FIRST + timedelta(6), NOW - timedelta(1))
    found = plan(fleet)
    assert asked(found) == {7, 8, 9}
    assert counted(found) == {"final": 7}
    fetch(fleet, FIRST + timedelta(7), FIRST + timedelta(9), NOW)
    found = plan(fleet)
    assert (found.calls, found.finish_at, found.meters) == ([], None, [])


def test_days_that_still_change_are_fetched_once_a_day(fleet: Fleet) -> None:
    last = YESTERDAY - timedelta(1), YESTERDAY
    fetch(fleet, *last, NOW - timedelta(hours=1))
    found = plan(fleet, *last)
    assert counted(found) == {"fetched_today": 2}
    assert not found.calls
    [call] = plan(fleet, *last, now=NOW + timedelta(days=1)).calls
    assert (call.start, call.end) == last


def test_a_day_that_was_never_fetched_after_it_settled_is_fetched_again(fleet: Fleet) -> None:
    fetch(fleet, FIRST, FIRST, datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=1))
    assert asked(plan(fleet, FIRST, FIRST)) == {0}


def test_a_thin_day_gets_one_more_look(fleet: Fleet) -> None:
    fetch(fleet, FIRST, FIRST + timedelta(9), NOW - timedelta(days=2), rows=20)
    fetch(fleet, FIRST + timedelta(12), FIRST + timedelta(12), NOW - timedelta(days=2), rows=1)
    thin = FIRST + timedelta(12), FIRST + timedelta(12)  # its neighbours lie outside of what is asked for
    assert asked(plan(fleet, *thin)) == {12}
    fetch(fleet, *thin, NOW - timedelta(days=1), rows=1)
    assert counted(plan(fleet, *thin)) == {"final": 1}


def test_days_that_are_not_over_are_left_out_and_told(fleet: Fleet) -> None:
    found = plan(fleet, YESTERDAY, TODAY + timedelta(2))
    [call] = found.calls
    assert call.end == YESTERDAY
    assert counted(found) == {"not_over": 3}
    assert "after 2026-05-19" in found.notes[0]


def test_days_that_the_vendor_forgot_are_left_out_and_those_that_it_will_forget_come_first(fleet: Fleet) -> None:
    report = replace(REPORT, lookback_days=35, shapes=REPORT.shapes[:1])
    found = plan(fleet, FIRST, FIRST + timedelta(19), report=report)
    assert counted(found) == {"too_old": 5}
    assert "days before 2026-04-15" in found.notes[0]
    assert [(call.start - FIRST).days for call in found.calls] == [5, 7, 9, 11, 19, 17, 15, 13]
    assert [spec.priority for spec in found.specs()] == [EXPIRING_PRIORITY] * 4 + [PRIORITY] * 4


def test_a_denied_feed_is_left_alone_until_it_may_be_asked_again(fleet: Fleet) -> None:
    fetch(fleet, FIRST, FIRST, NOW)
    with fleet.db.plain.begin() as connection:
        connection.execute(sa.text("UPDATE cl_feed SET denied_until = '2026-05-20 10:00:00', denied_reason = 'no'"))
    found = plan(fleet, apps=["a", "b"])
    assert {call.app_id for call in found.calls} == {"b"}
    assert counted(found) == {"denied": 9, "final": 1}
    assert found.notes == [f"the vendor denies report {DEFAULT_REPORT} of a"]
    assert asked(plan(fleet, now=NOW + timedelta(hours=1))) == set(range(1, 10))


# -- open tasks


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        (request(0, 4), {5, 6, 7, 8, 9}),
        (request(2, 7), {0, 1, 8, 9}),
        (request(0, 9, app_id=None), set()),
        (request(0, 9, app_id=None, task_type="user_apps", report=None), set()),
        (request(0, 9, report=None), set()),
        (request(0, 9, run_at=NOW + timedelta(days=3)), set()),
        (request(0, 9, app_id="b"), set(range(10))),
        (request(0, 9, report="daily_report"), set(range(10))),
        (request(0, 9, username="other"), set(range(10))),
        (request(0, 9, start_date=None, end_date=None, task_data={"days": 33}), set(range(7))),
        (request(0, 9, start_date=None, end_date=None), set(range(10))),  # it fetches yesterday
    ],
    ids=[
        *("first half", "middle", "all apps", "all apps, listed", "usual report", "later"),
        *("other app", "other report", "other account", "last days", "no days"),
    ],
)
def test_what_an_open_task_asks_for_is_not_asked_for_again(fleet: Fleet, spec: TaskSpec, left: set[int]) -> None:
    if spec.username == "other":
        fleet.accounts.add(Account("appsflyer", "other", token_env="T"))
    queue(fleet, spec)
    found = plan(fleet)
    needed = {n for n in asked(found) if n in left}
    assert needed == left
    assert counted(found) == ({"asked_for": 10 - len(left)} if len(left) < 10 else {})


def test_yesterday_is_asked_for_by_a_task_without_days(fleet: Fleet) -> None:
    queue(fleet, request(0, 0, start_date=None, end_date=None))
    assert counted(plan(fleet, YESTERDAY, YESTERDAY)) == {"asked_for": 1}


def test_a_running_task_counts_until_it_ends(fleet: Fleet) -> None:
    queue(fleet, request(0, 9))
    device = Device(fleet.db, types=("app_data",))
    device.register(now=NOW)
    [claim] = device.claim(now=NOW)
    assert counted(plan(fleet)) == {"asked_for": 10}
    device.end(ending(claim, "permanent", message="no"), now=NOW)
    assert asked(plan(fleet)) == set(range(10))


def test_repeating_a_backfill_queues_nothing_twice(fleet: Fleet) -> None:
    first = fleet.backfill("u", FIRST, FIRST + timedelta(9))
    assert len(first.ids) == len(first.calls) == 1
    again = fleet.backfill("u", FIRST, FIRST + timedelta(9))
    assert (again.ids, again.finish_at) == ([], None)
    assert fleet.tasks.add(first.specs()) == first.ids  # as of two that planned at the same moment
    assert fleet.tasks.stats()["total"] == 1


def test_a_dry_run_leaves_the_database_as_it_was(fleet: Fleet) -> None:
    tables = ("cl_crawl_task", "cl_lane", "cl_budget", "cl_budget_call", "cl_feed")
    found = fleet.backfill("u", FIRST, FIRST + timedelta(9), dry_run=True)
    assert (len(found.calls), found.ids) == (1, ())
    with fleet.db.read() as connection:
        assert [connection.execute(sa.text(f"SELECT COUNT(*) FROM {name}")).scalar_one() for name in tables] == [0] * 5


def test_the_tasks_of_a_backfill_say_what_the_plan_says(fleet: Fleet) -> None:
    found = fleet.backfill("u", str(FIRST), str(FIRST + timedelta(9)), app_ids=["b", "b"])
    [spec], [task_id] = found.specs(), found.ids
    stored = task(fleet.db, task_id)
    for name in ("task_type", "username", "source", "app_id", "start_date", "end_date", "report", "unique_key"):
        assert stored[name] == getattr(spec, name)
    assert (stored["priority"], stored["wake_at"]) == (PRIORITY, None)
    assert spec.unique_key is not None
    assert spec.unique_key.startswith("backfill:")


def test_a_day_fetched_by_a_clock_that_was_ahead_is_fetched_again(fleet: Fleet) -> None:
    """It counted as fetched today until its moment had passed."""
    fetch(fleet, YESTERDAY, YESTERDAY, NOW + timedelta(days=1))
    [call] = plan(fleet, YESTERDAY, YESTERDAY).calls
    assert (call.start, call.end) == (YESTERDAY, YESTERDAY)


# -- apps


def test_the_apps_are_those_named_or_else_seen_or_else_given_by_hand(fleet: Fleet) -> None:
    def apps(*named: str) -> list[str]:
        return sorted(call.app_id for call in plan(fleet, apps=named).calls)

    assert apps("x", "y") == ["x", "y"]
    assert apps() == ["a"]  # by hand
    for moment, seen in ((NOW, ["b", "c"]), (NOW + timedelta(1), ["c", "d"])):
        scope = AppList("appsflyer", "u")
        fleet.db.write(lambda c, s=scope, n=seen, m=moment: replace_range(c, s, [App(i) for i in n], m))
    assert apps() == ["c", "d"]


def test_without_a_known_app_the_error_says_what_to_do(fleet: Fleet) -> None:
    fleet.accounts.change("appsflyer", "u", {"app_ids": ()})
    with pytest.raises(CrawlfleetError, match="tasks add --type user_apps --username u --source appsflyer"):
        plan(fleet, apps=())


def test_an_account_wide_report_is_asked_for_once_for_all_apps(fleet: Fleet) -> None:
    found = plan(fleet, FIRST - timedelta(49), FIRST + timedelta(40 - 1), apps=(), report=REPORTS[MASTER])
    assert [call.app_id for call in found.calls] == ["all"] * 3
    assert max((call.end - call.start).days + 1 for call in found.calls) == 31
    assert found.as_dict()["calls"] == 6  # two for each task
    queue(fleet, request(0, 9, app_id=None, report=MASTER))
    assert counted(plan(fleet, apps=(), report=REPORTS[MASTER])) == {"asked_for": 10}
    assert asked(plan(fleet, apps=("a",), report=REPORTS[MASTER])) == set(range(10))
    with pytest.raises(UsageError, match="'all' is not for report partners_by_date_report"):
        plan(fleet, apps=("all",))


def test_what_is_only_a_snapshot_cannot_be_fetched_later(fleet: Fleet) -> None:
    fleet.accounts.add(Account("apple", "123"))
    with pytest.raises(UsageError, match="report app_details is a snapshot of its day"):
        fleet.backfill("123", FIRST, YESTERDAY, app_ids=["id1"])
    found = fleet.backfill("123", FIRST, FIRST + timedelta(39), app_ids=["id1"], report="reviews", dry_run=True)
    assert [(call.start, call.end, call.shape.calls) for call in found.calls] == [(FIRST, FIRST + timedelta(39), 10)]


# -- budgets


def test_calls_of_queued_and_running_tasks_are_left_to_them(fleet: Fleet) -> None:
    names = [f"a{n}" for n in range(10)]
    queue(fleet, *(request(20, 39, app_id=name) for name in names))
    queue(fleet, request(20, 39, app_id="b"), request(0, 9, app_id="b", report="geo_by_date_report"))
    device = Device(fleet.db, types=("app_data",))
    device.register(now=NOW)
    claims = device.claim(slots=3, now=NOW)
    device.end(ending(claims[0], calls=[NOW]), ending(claims[1], "transient", calls=[]), now=NOW)
    left = {meter.charge.limit_name: meter.left for meter, _ in plan(fleet, apps=["b"]).meters}
    assert left["aggregate_long_range_account"] == 120 - 12
    assert left["aggregate_long_range_app"] == 24 - 2


def test_a_backfill_of_many_apps_takes_the_minutes_of_those_beyond_the_day(fleet: Fleet) -> None:
    start = FIRST - timedelta(49)
    found = plan(fleet, start, FIRST + timedelta(39), [f"a{n:03}" for n in range(300)])
    assert found.finish_at is not None
    assert found.finish_at <= NOW + timedelta(hours=1)
    queue(fleet, *found.specs())
    more = plan(fleet, start, FIRST + timedelta(39), [f"b{n:03}" for n in range(30)])
    [account] = [meter for meter, _ in more.meters if not meter.charge.app_id]
    assert account.left == 30
    assert sum(len(call.shape.limits) == 2 for call in more.calls) == 22  # three quarters of it


def test_tasks_for_a_later_day_count_on_that_day(fleet: Fleet) -> None:
    start, evening = TODAY - timedelta(1000), NOW.replace(hour=20)  # single minutes would take until the morning
    spent = [request(20, 39, app_id=f"s{n}") for n in range(120)]
    queue(fleet, *spent)
    found = plan(fleet, start, YESTERDAY, [f"a{n}" for n in range(60)], now=evening)
    assert {call.run_at for call in found.calls} == {TOMORROW_OPENS}
    queue(fleet, *found.specs())
    later = plan(fleet, start, YESTERDAY, [f"b{n}" for n in range(60)], now=evening)
    days = [call.run_at and call.run_at.date() - TODAY for call in later.calls if len(call.shape.limits) == 2]
    assert days.count(timedelta(1)) == 45  # three quarters of the 60 that are left of tomorrow


def test_a_closed_budget_is_waited_for(fleet: Fleet) -> None:
    queue(fleet, request(20, 39))
    with fleet.db.plain.begin() as connection:
        connection.execute(
            sa.text("UPDATE cl_budget SET closed_until = '2026-05-20 09:30:00' WHERE limit_name = :name"),
            {"name": "aggregate_long_range_account"},
        )
    found = plan(fleet, FIRST, FIRST + timedelta(79), now=NOW + timedelta(minutes=29))
    assert found.finish_at == NOW + timedelta(minutes=30)


def test_full_reports_are_split_by_what_the_account_usually_brings(fleet: Fleet) -> None:
    report = replace(REPORT, row_cap=100)
    fetch(fleet, FIRST + timedelta(20), FIRST + timedelta(24), NOW - timedelta(1), app_id="b", rows=16)
    found = plan(fleet, apps=["a", "b"], report=report)
    assert max((call.end - call.start).days + 1 for call in found.calls) == 5
    assert len(found.calls) == 4


# -- wrong usage


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"username": "nobody"}, "'nobody' has no account"),
        ({"source": "apple"}, "'u' has no account at apple"),
        ({"report": "geo"}, "report must be one of daily_report, .*got 'geo'"),
        ({"start_date": FIRST + timedelta(2)}, "start_date must not be after end_date"),
        ({"start_date": date(2999, 1, 1), "end_date": date(2999, 1, 1)}, "must not be after .*yesterday in UTC"),
        ({"start_date": date(2001, 1, 1)}, "at most 3660 days .*got 2001-01-01"),
        ({"start_date": "2026"}, "start_date must be a date"),
    ],
)
def test_wrong_usage_is_named(url: str, values: dict[str, object], message: str) -> None:
    fleet = connect(url)
    fleet.accounts.add(Account("appsflyer", "u", token_env="T", app_ids=("a",)))
    given = {"username": "u", "start_date": FIRST, "end_date": FIRST + timedelta(1), **values}
    with pytest.raises(UsageError, match=message):
        fleet.backfill(**given)  # type: ignore[arg-type]
    fleet.close()
