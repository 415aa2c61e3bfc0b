"""Which feeds there are, read-only: a feed is one report of one app of one account.

Those that were fetched have a row in cl_feed. An app that its account lists and that never was fetched is a feed, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, utc
from crawlfleet.model.task_spec import DEFAULT_REPORT
from crawlfleet.sources.contract import ALL_APPS, Report

ReportsOf = Callable[[str], Mapping[str, Report]]  # by the name of a source; empty for one that is not known here


@dataclass(frozen=True, slots=True)
class FeedFilter:
    """Which feeds are meant; None means any."""

    source: str | None = None
    username: str | None = None
    app_id: str | None = None
    report: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class FeedName:
    """What tells feeds apart, in the order in which they are shown."""

    source: str
    username: str
    report: str
    app_id: str


@dataclass(frozen=True, slots=True)
class Feed:
    """`id` is None for one that never was fetched; `refusal` says in words why nothing more will come of it. With
    `is_denied` that is the vendor's word, and it is asked again now and then."""

    name: FeedName
    id: int | None = None
    refusal: str | None = None
    is_denied: bool = False


def conditions(wanted: FeedFilter, *columns: str) -> tuple[str, dict[str, str]]:
    """What a filter says of these columns (all four unless named): ` AND column = :column ...` and the parameters."""
    names = columns or ("source", "username", "app_id", "report")
    parameters = {name: getattr(wanted, name) for name in names if getattr(wanted, name) is not None}
    return "".join(f" AND {name} = :{name}" for name in parameters), parameters


def find_feeds(db: Database, wanted: FeedFilter, reports_of: ReportsOf, now: datetime | None = None) -> list[Feed]:
    """The feeds that are meant, by their names.

    A listed app is expected to have the report of the filter; without one, those that its account fetches for any of
    its listed apps or for all at once, or the default one when that is none.
    """
    where, parameters = conditions(wanted, "source", "username")
    stored = sql(
        "SELECT id, source, username, report, app_id, denied_until, denied_reason FROM cl_feed"
        f" WHERE app_id <> ''{where}"
    )
    listed = sql(f"SELECT source, username, app_id FROM cl_user_app WHERE app_status = 'active'{where}")
    accounts = sql(f"SELECT source, username FROM cl_account WHERE 1 = 1{where}")
    apps: dict[tuple[str, str], set[str]] = defaultdict(set)
    feeds: dict[FeedName, Feed] = {}
    with db.read(now) as reader:
        moment = reader.now
        for feed_id, source, username, report, app_id, denied_until, reason in reader.execute(stored, parameters):
            name, until = FeedName(source, username, report, app_id), utc(denied_until)
            is_denied = until is not None and until > moment
            refusal = f"the vendor refuses it: {reason}" if is_denied else None
            feeds[name] = Feed(name, feed_id, refusal, is_denied)
        for source, username, app_id in reader.execute(listed, parameters):
            apps[source, username].add(app_id)
        known_accounts = {(source, username) for source, username in reader.execute(accounts, parameters)}
    fetched: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in feeds:
        account = name.source, name.username
        if name.app_id == ALL_APPS or name.app_id in apps.get(account, ()):
            fetched[account].add(name.report)
    for account in apps.keys() & known_accounts:
        for name in _expected(account, apps[account], fetched[account], wanted.report, reports_of(account[0])):
            feeds.setdefault(name, Feed(name))
    return [
        _unless_removed(feeds[name], known_accounts, reports_of)
        for name in sorted(feeds)
        if wanted.app_id in (None, name.app_id) and wanted.report in (None, name.report)
    ]


def _expected(
    account: tuple[str, str],
    apps: Collection[str],
    fetched: Collection[str],
    wanted: str | None,
    declared: Mapping[str, Report],
) -> Iterator[FeedName]:
    """The feeds that an account should have by its apps; `declared` are the reports of its source."""
    if wanted is not None:
        reports: Collection[str] = [wanted] if wanted in declared or not declared else []
    else:
        reports = fetched or [DEFAULT_REPORT if DEFAULT_REPORT in declared or not declared else next(iter(declared))]
    for report in reports:
        if report not in declared or not declared[report].account_wide:
            yield from (FeedName(*account, report, app_id) for app_id in apps)
        elif report not in fetched:  # else it is fetched in the way that somebody chose, for all apps or for some
            yield FeedName(*account, report, ALL_APPS)


def _unless_removed(feed: Feed, accounts: Collection[tuple[str, str]], reports_of: ReportsOf) -> Feed:
    """Nobody fetches for an account that was removed; a source of one's own may do without accounts."""
    if (feed.name.source, feed.name.username) in accounts or not reports_of(feed.name.source):
        return feed
    return replace(feed, refusal=f"there is no account {feed.name.username} any more", is_denied=False)
