"""Storing what a run fetched: a range is replaced exactly once.

A fetch replaces all rows of its range: what vanished at the vendor vanishes here. The feed's row is locked first,
so two fetches of one feed never mix; days that a later fetch has written are left alone. Which of two is the later one
is no matter of clocks: a run remembers how many fetches of its feed were stored when it was claimed.

An answer without rows is more often a hiccup of the vendor's than the truth: days that had some keep them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from crawlfleet.core.sql import json_batches, json_value, sql, stamp, utc
from crawlfleet.core.transaction import Answer, Transaction
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange, Scope
from crawlfleet.model import coverage, feed
from crawlfleet.model.coverage import Covered
from crawlfleet.model.coverage_state import LEAST_ROWS
from crawlfleet.model.feed import FeedKey, LockedFeed
from crawlfleet.model.figure_rows import COLUMNS, batches_of, extra_text, figures_row
from crawlfleet.model.staged_figures import StagedFigures

LEAST_VANISHED = 3  # apps that vanish at once, and are most of those known but not all, before the list is doubted

_APPS = {
    "app_id": "text",
    "app_name": "text",
    "platform": "text",
    "timezone": "text",
    "currency": "text",
    "extra": "json",
}


def lock_key(scope: Scope) -> FeedKey:
    """The feed that a result locks."""
    if isinstance(scope, AppList):
        return feed.app_list_of(scope.source, scope.username)
    return FeedKey(scope.source, scope.username, scope.app_id, scope.report)


class Targets:
    """Where results go: their feeds, locked, and what is known of their days; all is asked for at once.

    Locks are taken in one order, so that two transactions do not wait for each other.
    """

    def __init__(self, transaction: Transaction, scopes: Iterable[Scope]) -> None:
        self._transaction = transaction
        self._first: dict[FeedKey, Scope] = {}
        for scope in scopes:
            self._first.setdefault(lock_key(scope), scope)
        self._feeds = feed.ensure_feeds(transaction, self._first)
        self._days = self._ask_days([scope for scope in self._first.values() if isinstance(scope, ReportRange)])

    def feed_of(self, scope: Scope) -> LockedFeed:
        """The feed of one of the scopes."""
        return self._feeds.read()[lock_key(scope)]

    def former(self, scope: ReportRange, feed_id: int) -> dict[date, Covered]:
        """What is known of the days of one of the scopes, right before they are written."""
        is_first = self._first.pop(lock_key(scope), None) == scope
        days = self._days if is_first else self._ask_days([scope])  # another result of the feed was written meanwhile
        return days.read().get(feed_id, {})

    def _ask_days(self, ranges: Sequence[ReportRange]) -> Answer[dict[int, dict[date, Covered]]]:
        return coverage.ask_days(self._transaction, [(lock_key(scope), scope.start, scope.end) for scope in ranges])


class AppsVanished(Exception):
    """Most of an account's known apps are missing from its list, so it may be another account's. Nothing was stored."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a fetch did not replace: days, or an app list, that a later fetch wrote; days for which it had no rows."""

    newer: int = 0
    suspect: int = 0

    def as_dict(self) -> dict[str, int]:
        """As the summary of a task tells it; empty when all was replaced."""
        told = {"kept_newer": self.newer, "kept_suspect_days": self.suspect}
        return {name: count for name, count in told.items() if count}


def replace_range(
    transaction: Transaction,
    scope: Scope,
    rows: Iterable[Any],
    fetched_at: datetime,
    targets: Targets | None = None,
    fetch_count: int | None = None,
) -> Kept:
    """Make the stored rows of this scope equal to `rows`, but for days that a later fetch wrote or that are suspect.

    `fetched_at` is when the fetch began, by the database's clock; `fetch_count` is how many fetches of the feed were
    stored when its run was claimed, where that is known. Runs in the caller's transaction; `targets` are those of this
    scope and others, for a caller who has more to store.
    Raises AppsVanished, and DataError or IntegrityError for what the database refuses.
    """
    targets = targets or Targets(transaction, [scope])
    locked_feed = targets.feed_of(scope)
    feed.forget_denials(transaction, locked_feed)
    if isinstance(scope, AppList):
        had_none_since = fetch_count is not None and locked_feed.fetch_count == fetch_count
        kept = _replace_apps(transaction, scope, list(rows), fetched_at, had_none_since)
    else:
        number = None if fetch_count is None else fetch_count + 1
        target = _Target(locked_feed.id, targets.former(scope, locked_feed.id), fetched_at, number)
        kept = _replace_figures(transaction, target, scope, rows, number or locked_feed.fetch_count + 1)
    feed.count_fetch(transaction, locked_feed)
    return kept


def _replace_apps(
    transaction: Transaction, scope: AppList, apps: list[App], fetched_at: datetime, had_none_since: bool
) -> Kept:
    """`had_none_since`: no list was stored since this one's run was claimed, so it is the latest."""
    owner = {"source": scope.source, "username": scope.username, "at": stamp(fetched_at)}
    stored = transaction.execute(
        sql("SELECT app_id, app_status, fetched_at FROM cl_user_app WHERE source = :source AND username = :username"),
        owner,
    ).all()
    if not had_none_since and any(utc(at) > fetched_at for _, _, at in stored):  # type: ignore[operator]
        return Kept(newer=1)
    if not scope.by_hand:
        _check_vanished(scope, {app_id for app_id, status, _ in stored if status != "gone"}, {a.app_id for a in apps})
    transaction.execute(
        sql(
            "UPDATE cl_user_app SET app_status = 'gone', fetched_at = :at"
            " WHERE source = :source AND username = :username AND app_status <> 'gone'"
        ),
        owner,
    )
    if not apps:
        return Kept()
    names = ", ".join(_APPS)
    at = transaction.dialect.moment("at")
    statement = transaction.dialect.upsert(
        f"INSERT INTO cl_user_app ({names}, source, username, app_status, first_seen_at, fetched_at)"
        f" SELECT {names}, :source, :username, 'active', {at}, {at} FROM {transaction.dialect.rows(**_APPS)}",
        "source, username, app_id",
        ["app_name", "platform", "timezone", "currency", "extra", "app_status", "fetched_at"],
    )
    for batch in batches_of(apps):
        values = [
            (app.app_id, app.name, app.platform, app.time_zone, app.currency, extra_text(dict(app.extra)))
            for app in batch
        ]
        for rows in json_batches(values, transaction.dialect.batch_bytes):
            transaction.execute(sql(statement), {**owner, "rows": rows})
    return Kept()


def check_apps(transaction: Transaction, scope: AppList, listed: Collection[str]) -> None:
    """Raise AppsVanished for a list that is used and not stored, unless a person named the account's apps."""
    owner = {"source": scope.source, "username": scope.username}
    own = "source = :source AND username = :username"
    by_hand = transaction.execute(sql(f"SELECT app_ids FROM cl_account WHERE {own}"), owner)
    active = transaction.execute(sql(f"SELECT app_id FROM cl_user_app WHERE {own} AND app_status <> 'gone'"), owner)
    if not json_value(by_hand.scalar()):
        _check_vanished(scope, set(active.scalars()), listed)


def _check_vanished(scope: AppList, stored: Collection[str], listed: Collection[str]) -> None:
    """Raise AppsVanished when none of the known apps is listed, or when many and most of them are not."""
    vanished = sum(app_id not in listed for app_id in stored)
    if vanished and (vanished == len(stored) or (vanished >= LEAST_VANISHED and 2 * vanished > len(stored))):
        raise AppsVanished(
            f"{vanished} of the {len(stored)} known apps are missing from the vendor's list of {len(listed)}: is the"
            " token that of another account? Nothing was changed. Set the token right and resume the account; if the"
            f" list is right, `accounts resume {scope.username} --accept-apps`"
        )


class _Target(NamedTuple):
    """The feed that a fetch writes, what was known of its days, when the fetch began, and its number if it has one."""

    feed_id: int
    former: Mapping[date, Covered]
    fetched_at: datetime
    number: int | None


def _replace_figures(
    transaction: Transaction, target: _Target, scope: ReportRange, rows: Iterable[Figures], number: int
) -> Kept:
    feed_id, former = target.feed_id, target.former
    newer = {which for which, covered in former.items() if covered.is_newer_than(target.fetched_at, target.number)}
    days = [which for which in _days(scope) if which not in newer]
    staged = rows if isinstance(rows, StagedFigures) else None
    batches = batches_of(row for row in (rows if staged is None else ()) if row.day not in newer)
    first = next(batches, [])
    has_rows = bool(first or (staged is not None and staged.totals.keys() - newer))
    # of a report with rows, a day of which all are gone is believed unless there were many
    least = LEAST_ROWS if has_rows else 1
    doubted = {
        which for which in days if not scope.believe_empty and which in former and former[which].row_count >= least
    }
    _delete(transaction, feed_id, [which for which in days if which not in doubted])
    day_totals = {which: coverage.DayTotals() for which in days}
    seen: Counter[bytes] = Counter()
    names = ", ".join(COLUMNS)
    columns = names.replace("row_hash", transaction.dialect.binary("row_hash"))
    insert = sql(
        f"INSERT INTO cl_app_data (feed_id, {names}) SELECT {transaction.dialect.integer('feed')}, {columns}"
        f" FROM {transaction.dialect.rows(**COLUMNS)}"
    )
    for batch in itertools.chain([first] if first else [], batches):
        confirmed = doubted & {row.day for row in batch}
        _delete(transaction, feed_id, confirmed)
        doubted -= confirmed
        values = [figures_row(row, seen) for row in batch]
        for row, stored in zip(batch, values, strict=True):
            day_totals[row.day].add(row, stored)
        for texts in json_batches(values, transaction.dialect.batch_bytes):
            transaction.execute(insert, {"feed": feed_id, "rows": texts})
    if staged is not None:
        _delete(transaction, feed_id, doubted & staged.totals.keys())
        doubted -= staged.totals.keys()
        day_totals |= {which: totals for which, totals in staged.totals.items() if which not in newer}
        staged.insert(transaction, feed_id, newer)
    if doubted:
        coverage.suspect(transaction, feed_id, doubted)
        if not has_rows:  # what it says of days without rows is not believed either
            day_totals.clear()
    written = {which: totals for which, totals in day_totals.items() if which not in doubted}
    coverage.write(transaction, feed_id, written, former, target.fetched_at, number, scope.settle_days)
    return Kept(len(newer), len(doubted))


def _delete(transaction: Transaction, feed_id: int, days: Collection[date]) -> None:
    statement = sql(
        "DELETE FROM cl_app_data WHERE feed_id = :feed"
        f" AND date BETWEEN {transaction.dialect.day('start')} AND {transaction.dialect.day('end')}"
    )
    for first, last in _stretches(sorted(days)):
        transaction.execute(statement, {"feed": feed_id, "start": first.isoformat(), "end": last.isoformat()})


def _days(scope: ReportRange) -> list[date]:
    return [scope.start + timedelta(days=n) for n in range((scope.end - scope.start).days + 1)]


def _stretches(days: list[date]) -> Iterator[tuple[date, date]]:
    """Unbroken runs of days, as (first, last)."""
    for _, group in itertools.groupby(enumerate(days), key=lambda pair: pair[1].toordinal() - pair[0]):
        stretch = [each for _, each in group]
        yield stretch[0], stretch[-1]
