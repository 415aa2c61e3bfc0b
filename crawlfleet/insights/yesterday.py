"""Whether yesterday's figures are there for every app, in UTC, and since when an app has none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from crawlfleet.core.db import Database
from crawlfleet.core.sql import day, sql
from crawlfleet.insights.feeds import Feed, FeedFilter, FeedName, ReportsOf, find_feeds
from crawlfleet.model.account import AccountDAO
from crawlfleet.sources.contract import Report

KEPT_DAYS = 7  # a report is kept up to date while one of so many days before has been fetched
UNDECLARED = Report("", ())  # of a source that is not known here

AccountKey = tuple[str, str]  # source and username
AppKey = tuple[str, str, str]  # and app id


@dataclass(frozen=True)
class Yesterday:
    """`apps` should have figures of the `day`; those that lack some are `missing`, each with its last day before (None:
    never fetched). `unsynced` are accounts of which no app is known."""

    day: date
    apps: int = 0
    missing: Mapping[AppKey, date | None] = field(default_factory=dict)
    unsynced: tuple[AccountKey, ...] = ()


def yesterday(db: Database, reports_of: ReportsOf, now: datetime) -> Yesterday:
    """What should be there of yesterday, and what is not. A feed that the vendor refuses is not waited for.

    A report that nobody fetched for a week counts only where its account keeps no other: one look at it is no habit. A
    snapshot, which can only be taken on its day, may also be today's.
    """
    which = now.date() - timedelta(1)
    feeds = find_feeds(db, FeedFilter(), reports_of, now)
    last = _last_days(db, [feed for feed in feeds if feed.refusal is None], which, reports_of)
    kept: dict[AccountKey, set[str]] = defaultdict(set)
    for name, newest in last.items():
        if newest is not None and newest >= which - timedelta(KEPT_DAYS):
            kept[name.source, name.username].add(name.report)
    apps: set[AppKey] = set()
    missing: dict[AppKey, date | None] = {}
    for name, newest in last.items():
        account = name.source, name.username
        if account in kept and name.report not in kept[account]:
            continue
        app = (*account, name.app_id)
        apps.add(app)
        if newest is None or newest < which:
            days = [each for each in (newest, missing.get(app)) if each is not None]
            missing[app] = max(days, default=None)
    known_accounts = {(feed.name.source, feed.name.username) for feed in feeds}
    accounts = {(account_row["source"], account_row["username"]) for account_row in AccountDAO(db).find()}
    return Yesterday(which, len(apps), missing, tuple(sorted(accounts - known_accounts)))


def _last_days(db: Database, feeds: list[Feed], which: date, reports_of: ReportsOf) -> dict[FeedName, date | None]:
    """The last fetched day of each feed, not after that one; of a snapshot also the day after."""
    latest = sql(
        "SELECT f.id, (SELECT MAX(c.day) FROM cl_coverage c WHERE c.feed_id = f.id"
        f" AND c.day <= {db.dialect.day('day')}), (SELECT MAX(c.day) FROM cl_coverage c WHERE c.feed_id = f.id"
        f" AND c.day <= {db.dialect.day('next')}) FROM cl_feed f"
    )
    days = {"day": which.isoformat(), "next": (which + timedelta(1)).isoformat()}
    with db.read() as reader:
        last_days = {feed_id: (day(last), day(later)) for feed_id, last, later in reader.execute(latest, days)}
    newest: dict[FeedName, date | None] = {}
    for feed in feeds:
        last, later = (None, None) if feed.id is None else last_days.get(feed.id, (None, None))
        is_snapshot = reports_of(feed.name.source).get(feed.name.report, UNDECLARED).is_snapshot
        newest[feed.name] = later if is_snapshot else last
    return newest
