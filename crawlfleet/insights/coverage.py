"""Which days of which feeds are there: questions about completeness, read-only, without a look at the figures."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.core.sql import day, json_rows, sql, utc
from crawlfleet.insights.feeds import Feed, FeedFilter, FeedName, ReportsOf, conditions, find_feeds
from crawlfleet.insights.pages import Page, closed_key, opened_key
from crawlfleet.model.coverage_state import NEIGHBOUR_DAYS, DayState, day_states
from crawlfleet.sources.contract import Report

DEFAULT_DAYS = 30
LONGEST_DAYS = 10_000  # of a period
PAGE_DAYS = 20_000  # days of feeds that are read at once
SHOWN_DAYS = 5_000  # of all feeds of a page of coverage or gaps
DAY_COLUMNS = ("day", "state", "rows", "fetched_at", "settles_at")
WHY = {
    DayState.MISSING: "never fetched",
    DayState.SUSPECT: "the vendor's last answer had no rows for days that had some, which are kept: worth another look;"
    " if it is right, `tasks backfill --believe-empty`",
    DayState.THIN: "far fewer rows than on the days around: worth another look",
    DayState.SETTLING: "fetched before the vendor's figures were final, which they are now",
}
GAP_STATES = (DayState.MISSING, DayState.SUSPECT, DayState.DENIED, DayState.THIN)
UNDECLARED = Report("", ())  # of a source that is not known here


@dataclass(frozen=True, slots=True)
class CoveredDay:
    """One day of a feed; `rows` and `fetched_at` are None when it never was fetched.

    From `settles_at` on the vendor no longer changes it.
    """

    day: date
    state: DayState
    rows: int | None
    fetched_at: datetime | None
    settles_at: datetime


@dataclass(frozen=True, slots=True)
class FeedCoverage:
    """Every day of the period, in order."""

    feed: Feed
    days: list[CoveredDay]


@dataclass(frozen=True, slots=True)
class Gap:
    """Successive days of a feed in one state, both ends included, that should be fetched (again)."""

    feed: Feed
    start: date
    end: date
    state: DayState

    @property
    def why(self) -> str:
        """In words; of what is denied, those of the vendor."""
        return WHY.get(self.state) or self.feed.refusal or self.state.value

    def as_dict(self) -> dict[str, Any]:
        """As `data gaps --json` prints it, but for the command."""
        name = self.feed.name
        return {
            "source": name.source,
            "username": name.username,
            "app_id": name.app_id,
            "report": name.report,
            "start_date": self.start,
            "end_date": self.end,
            "days": (self.end - self.start).days + 1,
            "state": self.state.value,
            "why": self.why,
        }


class _Fetched(NamedTuple):
    row_count: int
    settled_fetches: int
    suspect_fetches: int
    fetched_at: datetime


def period(
    db: Database, start: date | None = None, end: date | None = None, now: datetime | None = None
) -> tuple[date, date]:
    """The days that are meant: 30 days up to yesterday by the database's clock, unless these say otherwise.

    Raises UsageError for a period that ends before it starts or after today, or that has more than 10,000 days.
    """
    today = (now or _clock(db)).date()
    last = end or today - timedelta(1)
    first = start or date.fromordinal(max(1, last.toordinal() - DEFAULT_DAYS + 1))
    if last > today:
        raise UsageError(f"end_date must not be after today, which is {today} for the database (got {last})")
    if first > last:
        raise UsageError(f"start_date must not be after end_date (got {first} and {last})")
    if (last - first).days >= LONGEST_DAYS:
        raise UsageError(f"at most {LONGEST_DAYS} days can be looked at (got {first} to {last})")
    return first, last


def coverage(
    db: Database,
    wanted: FeedFilter,
    start: date,
    end: date,
    reports_of: ReportsOf,
    now: datetime | None = None,
    after: FeedName | None = None,
    limit: int | None = None,
) -> Iterator[FeedCoverage]:
    """The state of each day from `start` to `end` of each feed, by source, account, report and app; `after` and `limit`
    choose among the feeds.

    Days are read for a page of feeds at a time: between two pages nothing is held at the server.
    """
    moment = now or _clock(db)
    meant = (feed for feed in find_feeds(db, wanted, reports_of, moment) if after is None or feed.name > after)
    feeds = itertools.islice(meant, limit)
    while page := list(itertools.islice(feeds, feeds_within(PAGE_DAYS, start, end))):
        fetched = _fetched_days(db, [feed.id for feed in page if feed.id is not None], start, end)
        for feed in page:
            report = reports_of(feed.name.source).get(feed.name.report, UNDECLARED)
            fetched_days = {} if feed.id is None else fetched.get(feed.id, {})
            yield FeedCoverage(feed, _days(feed, fetched_days, report, start, end, moment.date()))


def gaps(
    db: Database,
    wanted: FeedFilter,
    start: date,
    end: date,
    reports_of: ReportsOf,
    now: datetime | None = None,
) -> Iterator[Gap]:
    """Days that are missing, suspect, denied or thin, or settling although the vendor no longer changes them."""
    moment = now or _clock(db)
    for covered in coverage(db, wanted, start, end, reports_of, moment):
        yield from gaps_of(covered, moment)


def coverage_page(
    db: Database,
    wanted: FeedFilter,
    start: date,
    end: date,
    reports_of: ReportsOf,
    limit: int,
    after: str | None = None,
) -> Page:
    """The state of each day of at most `limit` feeds: fewer where the period is long."""
    most = min(limit, feeds_within(SHOWN_DAYS, start, end))
    covered, following = _covered_page(db, wanted, start, end, reports_of, most, after)
    rows: list[dict[str, Any]] = []
    for feed_days in covered:
        days = [{column: getattr(day, column) for column in DAY_COLUMNS} for day in feed_days.days]
        rows.append({**asdict(feed_days.feed.name), "refusal": feed_days.feed.refusal, "days": days})
    return Page(rows, following)


def gaps_page(
    db: Database,
    wanted: FeedFilter,
    start: date,
    end: date,
    reports_of: ReportsOf,
    limit: int,
    after: str | None = None,
) -> Page:
    """The gaps of at most `limit` feeds: fewer where the period is long. A page without any may have a next one."""
    now = _clock(db)
    most = min(limit, feeds_within(SHOWN_DAYS, start, end))
    covered, following = _covered_page(db, wanted, start, end, reports_of, most, after)
    return Page([gap.as_dict() for each in covered for gap in gaps_of(each, now)], following)


def _covered_page(
    db: Database,
    wanted: FeedFilter,
    start: date,
    end: date,
    reports_of: ReportsOf,
    limit: int,
    after: str | None,
) -> tuple[list[FeedCoverage], str | None]:
    key = None if after is None else FeedName(*opened_key(after, 4))
    covered = list(coverage(db, wanted, start, end, reports_of, after=key, limit=limit + 1))
    following = closed_key([*asdict(covered[limit - 1].feed.name).values()]) if len(covered) > limit else None
    return covered[:limit], following


def gaps_of(covered: FeedCoverage, now: datetime) -> Iterator[Gap]:
    """The gaps of one feed."""
    for state, days in itertools.groupby(covered.days, key=lambda each: _gap_state(each, now)):
        if state is not None:
            stretch = [each.day for each in days]
            yield Gap(covered.feed, stretch[0], stretch[-1], state)


def feeds_within(days: int, start: date, end: date) -> int:
    """How many feeds have so many days in this period, at least one."""
    return max(1, days // ((end - start).days + 1))


def stored_rows(db: Database, wanted: FeedFilter, start: date | None, end: date | None) -> int:
    """How many rows of figures these days have, by what was noted when they were stored; None is without an end."""
    where, parameters = conditions(wanted)
    query = sql(
        "SELECT COALESCE(SUM(c.row_count), 0) FROM cl_feed f JOIN cl_coverage c ON c.feed_id = f.id"
        f" WHERE c.day BETWEEN {db.dialect.day('first')} AND {db.dialect.day('last')}{where}"
    )
    days = {"first": (start or date.min).isoformat(), "last": (end or date.max).isoformat()}
    with db.read() as reader:
        return int(reader.execute(query, parameters | days).scalar_one())


def _clock(db: Database) -> datetime:
    with db.read() as reader:
        return reader.now


def _gap_state(covered_day: CoveredDay, now: datetime) -> DayState | None:
    is_overdue = covered_day.state is DayState.SETTLING and covered_day.settles_at <= now
    return covered_day.state if is_overdue or covered_day.state in GAP_STATES else None


def _days(
    feed: Feed, fetched_days: Mapping[date, _Fetched], report: Report, start: date, end: date, today: date
) -> list[CoveredDay]:
    oldest = None if report.lookback_days is None else today - timedelta(report.lookback_days)
    if feed.refusal is not None and not feed.is_denied:
        oldest = date.max
    days = []
    for which, state in day_states(fetched_days, start, end, oldest, feed.is_denied).items():
        fetched = fetched_days.get(which)
        rows, fetched_at = (fetched.row_count, fetched.fetched_at) if fetched else (None, None)
        settles_at = datetime.combine(which, time(), UTC) + timedelta(1 + report.settle_days)
        days.append(CoveredDay(which, state, rows, fetched_at, settles_at))
    return days


def _fetched_days(
    db: Database, feed_ids: Sequence[int], start: date, end: date
) -> Mapping[int, Mapping[date, _Fetched]]:
    """What is known of these feeds, with a week on either side of the period, by which thin days are told."""
    if not feed_ids:
        return {}
    query = sql(
        "SELECT c.feed_id, c.day, c.row_count, c.settled_fetches, c.suspect_fetches, c.fetched_at"
        f" FROM {db.dialect.rows(id='int')} JOIN cl_coverage c ON c.feed_id = v.id"
        f" WHERE c.day BETWEEN {db.dialect.day('first')} AND {db.dialect.day('last')}"
    )
    parameters = {
        "rows": json_rows([each] for each in feed_ids),
        "first": date.fromordinal(max(1, start.toordinal() - NEIGHBOUR_DAYS)).isoformat(),
        "last": (end + timedelta(NEIGHBOUR_DAYS)).isoformat(),
    }
    fetched_days: dict[int, dict[date, _Fetched]] = defaultdict(dict)
    with db.read() as reader:
        for feed_id, which, row_count, settled, suspect, fetched_at in reader.execute(query, parameters):
            calendar_day, moment = day(which), utc(fetched_at)
            assert calendar_day is not None
            assert moment is not None
            fetched_days[feed_id][calendar_day] = _Fetched(row_count, settled, suspect, moment)
    return fetched_days
