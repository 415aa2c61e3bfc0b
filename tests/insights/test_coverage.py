"""Which days are there, which are not, and what makes a gap; on every database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.core.vendor_data import App, AppList
from crawlfleet.insights import coverage as coverage_module
from crawlfleet.insights.coverage import CoveredDay, Gap, coverage, gaps, period, stored_rows
from crawlfleet.insights.feeds import FeedFilter, find_feeds
from crawlfleet.model import feed
from crawlfleet.model.coverage_state import DayState
from crawlfleet.model.feed import FeedKey
from crawlfleet.sources.contract import Report
from tests.conftest import Backend
from tests.fleets import fresh
from tests.stored_figures import add_account, add_days, store

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
DAY = date(2026, 3, 10)
DEFAULT = "partners_by_date_report"
REPORTS = {
    "appsflyer": {
        DEFAULT: Report(DEFAULT, ()),
        "geo": Report("geo", (), settle_days=5),
        "short": Report("short", (), lookback_days=20),
        "wide": Report("wide", (), account_wide=True),
    },
    "other": {"first": Report("first", ()), "second": Report("second", ())},
}
ANY = FeedFilter()
M, T, S, F, X = DayState.MISSING, DayState.THIN, DayState.SETTLING, DayState.FINAL, DayState.IMPOSSIBLE
D = DayState.DENIED


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    database = fresh(backend.url)
    yield database
    database.close()


def reports_of(source: str) -> Mapping[str, Report]:
    return REPORTS.get(source, {})


def names(db: Database, wanted: FeedFilter = ANY) -> list[tuple[str, ...]]:
    found = [each.name for each in find_feeds(db, wanted, reports_of)]
    return [(name.source, name.username, name.report, name.app_id) for name in found]


def states(
    db: Database, start: date = DAY, end: date = DAY, wanted: FeedFilter = ANY, now: datetime = NOW
) -> dict[str, list[DayState]]:
    found = coverage(db, wanted, start, end, reports_of, now)
    return {each.feed.name.app_id: [covered.state for covered in each.days] for each in found}


def found_gaps(db: Database, start: date, end: date, now: datetime = NOW) -> list[Gap]:
    return list(gaps(db, ANY, start, end, reports_of, now))


def deny(db: Database, app_id: str, now: datetime = NOW) -> None:
    """The vendor says no: a pause of a day, as the first time."""
    key = FeedKey("appsflyer", "u", app_id, DEFAULT)
    db.write(lambda connection: feed.deny(connection, key, "no plan"), now)


def test_apps_that_never_were_fetched_are_feeds_without_a_day(db: Database) -> None:
    add_account(db, "a", "应用")
    assert names(db) == [("appsflyer", "u", DEFAULT, "a"), ("appsflyer", "u", DEFAULT, "应用")]
    assert states(db, DAY, DAY + timedelta(1)) == {"a": [M, M], "应用": [M, M]}


def test_an_app_is_expected_to_have_the_reports_of_its_account(db: Database) -> None:
    add_account(db, "a", "b")
    add_days(db, "a", DAY, [1], report="geo")
    add_days(db, "unlisted", DAY, [1], report="short")
    geo = [("appsflyer", "u", "geo", app_id) for app_id in "ab"]
    assert names(db) == [*geo, ("appsflyer", "u", "short", "unlisted")]
    assert names(db, FeedFilter(report=DEFAULT)) == [("appsflyer", "u", DEFAULT, app_id) for app_id in "ab"]


def test_a_report_that_one_call_fetches_for_all_apps_is_one_feed(db: Database) -> None:
    add_account(db, "a", "b")
    assert names(db, FeedFilter(report="wide")) == [("appsflyer", "u", "wide", "all")]
    add_days(db, "all", DAY, [1], report="wide")
    assert names(db) == [("appsflyer", "u", "wide", "all")], "nobody asked for another report"


def test_a_report_for_all_apps_that_is_fetched_for_one_is_expected_of_no_other(db: Database) -> None:
    add_account(db, "a", "b")
    add_days(db, "a", DAY, [1], report="wide")
    assert names(db) == names(db, FeedFilter(report="wide")) == [("appsflyer", "u", "wide", "a")]


def test_a_source_without_the_default_report_has_its_first(db: Database) -> None:
    add_account(db, "a", source="other")
    add_account(db, "a", source="elsewhere")
    assert names(db) == [("elsewhere", "u", DEFAULT, "a"), ("other", "u", "first", "a")]
    assert names(db, FeedFilter(report="second")) == [("elsewhere", "u", "second", "a"), ("other", "u", "second", "a")]
    assert names(db, FeedFilter("other", report=DEFAULT)) == []


def test_an_app_that_left_the_list_is_a_feed_only_when_it_was_fetched(db: Database) -> None:
    add_account(db, "a", "b", "c")
    add_days(db, "a", DAY, [1])
    store(db, AppList("appsflyer", "u"), [App("c")], NOW + timedelta(100))
    assert names(db) == [("appsflyer", "u", DEFAULT, "a"), ("appsflyer", "u", DEFAULT, "c")]


def test_feeds_are_filtered(db: Database) -> None:
    add_account(db, "a", "b")
    add_account(db, "a", username="李")
    add_days(db, "b", DAY, [1])
    add_days(db, "a", DAY, [1], username="李", report="geo")
    assert names(db, FeedFilter(username="李")) == [("appsflyer", "李", "geo", "a")]
    assert names(db, FeedFilter(app_id="b")) == [("appsflyer", "u", DEFAULT, "b")]
    assert names(db, FeedFilter(username="u", app_id="a")) == [("appsflyer", "u", DEFAULT, "a")]
    assert names(db, FeedFilter(source="other")) == []


def test_a_fetched_day_is_settling_until_it_was_fetched_after_it_settled(db: Database) -> None:
    add_account(db, "a")
    settles_at = datetime(2026, 3, 13, tzinfo=UTC)
    add_days(db, "a", DAY, [3], settles_at - timedelta(seconds=1))
    [found] = coverage(db, ANY, DAY, DAY, reports_of, NOW)
    assert found.days == [CoveredDay(DAY, S, 3, settles_at - timedelta(seconds=1), settles_at)]
    add_days(db, "a", DAY, [1], settles_at)
    [found] = coverage(db, ANY, DAY, DAY, reports_of, NOW)
    assert found.days == [CoveredDay(DAY, F, 1, settles_at, settles_at)]


def test_settling_lasts_as_long_as_the_report_says(db: Database) -> None:
    add_account(db, "a")
    for report, month_day in (("geo", 16), ("unknown", 13)):
        add_days(db, "a", DAY, [1], report=report)
        [found] = coverage(db, FeedFilter(report=report), DAY, DAY, reports_of, NOW)
        assert found.days[0].settles_at == datetime(2026, 3, month_day, tzinfo=UTC)


def test_thin_days_are_told_by_days_beyond_the_period(db: Database) -> None:
    add_account(db, "a")
    add_days(db, "a", DAY - timedelta(4), [100] * 4 + [5] + [100] * 4)
    assert states(db) == {"a": [T]}


def test_a_missing_day_that_the_vendor_no_longer_has_is_impossible(db: Database) -> None:
    add_account(db, "a")
    add_days(db, "a", date(2026, 3, 9), [1], report="short")
    oldest = date(2026, 3, 11)  # 20 days ago
    assert states(db, oldest - timedelta(3), oldest) == {"a": [X, F, X, M]}


def test_what_the_vendor_refuses_is_a_gap_of_its_own_kind(db: Database) -> None:
    """A day that the vendor denied was no gap, so nobody heard that it was missing."""
    add_account(db, "a")
    add_days(db, "a", DAY, [1])
    for hours in (2, 0):
        deny(db, "a", NOW - timedelta(hours=hours))
    assert states(db, DAY, DAY + timedelta(1)) == {"a": [F, D]}
    [found] = find_feeds(db, ANY, reports_of, NOW)
    assert found.refusal == "the vendor refuses it: no plan"
    [gap] = found_gaps(db, DAY, DAY + timedelta(1))
    assert (gap.start, gap.state, gap.why) == (DAY + timedelta(1), D, "the vendor refuses it: no plan")


def test_a_day_that_still_settled_when_the_vendor_refused_it_is_not_final(db: Database) -> None:
    add_account(db, "a")
    add_days(db, "a", DAY, [1], datetime(2026, 3, 11, tzinfo=UTC))
    assert states(db) == {"a": [S]}
    for hours in (2, 0):
        deny(db, "a", NOW - timedelta(hours=hours))
    assert states(db) == {"a": [D]}
    assert [gap.state for gap in found_gaps(db, DAY, DAY)] == [D]


def test_what_the_vendor_refused_is_missing_again_when_it_may_be_asked_again(db: Database) -> None:
    add_account(db, "a")
    deny(db, "a")
    assert states(db, now=NOW + timedelta(days=1, seconds=-1)) == {"a": [D]}
    assert states(db, now=NOW + timedelta(days=1)) == {"a": [M]}


def test_nothing_is_expected_of_an_account_that_was_removed(db: Database) -> None:
    add_account(db, "a", "never")
    add_days(db, "a", DAY, [1])
    add_days(db, "a", DAY, [1], source="own")  # whose fetchers may need no account
    db.write(lambda connection: connection.execute(sa.text("DELETE FROM cl_account")))
    feeds = find_feeds(db, ANY, reports_of)
    assert [(each.name.source, each.name.app_id, each.refusal) for each in feeds] == [
        ("appsflyer", "a", "there is no account u any more"),
        ("own", "a", None),
    ]


def test_gaps_are_stretches_of_one_state(db: Database) -> None:
    add_account(db, "a", "b")
    first = date(2026, 3, 1)
    add_days(db, "a", first, [50] * 20, NOW)
    add_days(db, "a", first + timedelta(2), [50, 50], datetime(2026, 3, 5, tzinfo=UTC) + timedelta(90))
    add_days(db, "b", first, [50] * 7 + [1, 1] + [50] * 7, NOW)
    add_days(db, "b", first + timedelta(20), [50] * 10, NOW)
    found = [(gap.feed.name.app_id, gap.start.day, gap.end.day, gap.state) for gap in found_gaps(db, first, NOW.date())]
    assert found == [
        ("a", 21, 31, M),
        ("b", 8, 9, T),
        ("b", 17, 20, M),
        ("b", 31, 31, M),
    ]


def test_a_settling_day_is_a_gap_once_it_settled(db: Database) -> None:
    add_account(db, "a")
    add_days(db, "a", DAY, [1, 1], datetime(2026, 3, 12, tzinfo=UTC))
    second = DAY + timedelta(1)
    settled = datetime(2026, 3, 13, tzinfo=UTC)
    assert found_gaps(db, DAY, second, settled - timedelta(seconds=1)) == []
    assert [(gap.start, gap.end, gap.state) for gap in found_gaps(db, DAY, second, settled)] == [(DAY, DAY, S)]
    [gap] = found_gaps(db, DAY, second, settled + timedelta(1))
    assert (gap.start, gap.end, gap.state) == (DAY, second, S)


@pytest.mark.parametrize("page_days", [1, 4, 5, 1000])
def test_feeds_are_read_in_pages_without_losing_one(
    db: Database, monkeypatch: pytest.MonkeyPatch, page_days: int
) -> None:
    monkeypatch.setattr(coverage_module, "PAGE_DAYS", page_days)
    add_account(db, *"abcdef")
    for app_id in "bdf":
        add_days(db, app_id, DAY, [1, 1])
    assert states(db, DAY, DAY + timedelta(1)) == {each: [F, F] if each in "bdf" else [M, M] for each in "abcdef"}


def test_completeness_is_told_without_a_look_at_the_figures(db: Database) -> None:
    add_account(db, "a")
    add_days(db, "a", DAY, [3, 4])
    db.write(lambda connection: connection.execute(sa.text("DROP VIEW v_app_data")))
    db.write(lambda connection: connection.execute(sa.text("DROP TABLE cl_app_data")))
    assert states(db, DAY, DAY + timedelta(1)) == {"a": [F, F]}
    assert stored_rows(db, ANY, None, None) == 7
    assert stored_rows(db, FeedFilter(app_id="a"), DAY, DAY) == 3
    assert stored_rows(db, FeedFilter(app_id="b"), None, None) == 0


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_period_is_30_days_up_to_yesterday(db: Database) -> None:
    assert period(db, now=NOW) == (date(2026, 3, 1), date(2026, 3, 30))
    assert period(db, end=date(2026, 3, 31), now=NOW) == (date(2026, 3, 2), date(2026, 3, 31))
    assert period(db, date(2026, 3, 29), now=NOW) == (date(2026, 3, 29), date(2026, 3, 30))
    assert period(db, end=date.min, now=NOW) == (date.min, date.min)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("start", "end", "part"),
    [
        (None, date(2026, 4, 1), "2026-03-31"),
        (date(2026, 3, 31), None, "got 2026-03-31 and 2026-03-30"),
        (date(2026, 3, 2), date(2026, 3, 1), "got 2026-03-02 and 2026-03-01"),
        (date.min, None, "10000 days"),
    ],
)
def test_an_impossible_period_is_explained(db: Database, start: date | None, end: date | None, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        period(db, start, end, NOW)
