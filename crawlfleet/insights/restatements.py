"""What vendors changed in days that were fetched before, read-only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.sql import day, json_rows, json_value, sql, utc
from crawlfleet.core.transaction import AnyRow
from crawlfleet.core.vendor_data import AMOUNTS, UNKNOWN_CURRENCY
from crawlfleet.insights.feeds import FeedFilter, FeedName, conditions
from crawlfleet.model.coverage import FIGURES

PAGE_FEEDS = 200  # whose restatements are read at once
ROWS, DETAILS = "rows", "details"  # beside the figures: how many rows, and what no sum shows


@dataclass(frozen=True, slots=True)
class Restatement:
    """One figure of one day of a feed, summed up over its rows, that a later fetch brought with another value.

    `figure` may also be "rows", their number, and "details" where all sums are what they were: then a dimension or
    `extra` changed, or figures moved from one row to another. None is a figure that no row had, or has. `currency` is
    that of an amount, None of any other figure.
    """

    feed: FeedName
    day: date
    figure: str
    before: int | Decimal | None
    after: int | Decimal | None
    fetched_before: datetime
    fetched_at: datetime
    currency: str | None = None

    @property
    def difference(self) -> int | Decimal | None:
        return None if self.before is None or self.after is None else self.after - self.before


def restatements(db: Database, wanted: FeedFilter, start: date, end: date) -> Iterator[Restatement]:
    """What changed in the days from `start` to `end`, by source, account, report, app and day, the oldest first."""
    where, parameters = conditions(wanted)
    currency = " AND ".join(f"a.{name} = cl_feed.{name}" for name in ("source", "username", "app_id"))
    query = sql(
        f"SELECT id, (SELECT a.currency FROM cl_user_app a WHERE {currency}), source, username, report, app_id"
        f" FROM cl_feed WHERE app_id <> ''{where}"
    )
    with db.read() as reader:
        rows = reader.execute(query, parameters).all()
    currencies = {feed_id: currency or UNKNOWN_CURRENCY for feed_id, currency, *_ in rows}
    feeds = iter(sorted((FeedName(*name), feed_id) for feed_id, _, *name in rows))
    while page := {feed_id: name for name, feed_id in itertools.islice(feeds, PAGE_FEEDS)}:
        yield from _of_feeds(db, page, currencies, start, end)


def _of_feeds(
    db: Database, names: Mapping[int, FeedName], currencies: Mapping[int, str], start: date, end: date
) -> Iterator[Restatement]:
    query = sql(
        "SELECT r.id, r.feed_id, r.day, r.rows_before, r.rows_after, r.totals_before, r.totals_after,"
        f" r.fetched_before, r.fetched_at FROM {db.dialect.rows(id='int')} JOIN cl_restatement r ON r.feed_id = v.id"
        f" WHERE r.day BETWEEN {db.dialect.day('first')} AND {db.dialect.day('last')}"
    )
    parameters = {
        "rows": json_rows([feed_id] for feed_id in names),
        "first": start.isoformat(),
        "last": end.isoformat(),
    }
    with db.read() as reader:
        rows = reader.execute(query, parameters).mappings().all()
    for row in sorted(rows, key=lambda row: (names[row["feed_id"]], str(row["day"]), row["id"])):
        yield from _changes(names[row["feed_id"]], currencies[row["feed_id"]], row)


def _changes(feed: FeedName, currency: str, row: AnyRow) -> Iterator[Restatement]:
    which, fetched_before, fetched_at = day(row["day"]), utc(row["fetched_before"]), utc(row["fetched_at"])
    assert which is not None
    assert fetched_before is not None
    assert fetched_at is not None
    totals_before, totals_after = json_value(row["totals_before"]), json_value(row["totals_after"])
    before = _sums(row["rows_before"], totals_before, totals_after)
    after = _sums(row["rows_after"], totals_after, totals_before)
    changed = [name for name in (ROWS, *FIGURES) if before[name] != after[name]]
    for name in changed or [DETAILS]:
        of_amount = currency if name in AMOUNTS else None
        yield Restatement(feed, which, name, before.get(name), after.get(name), fetched_before, fetched_at, of_amount)


def _sums(rows: int, totals: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, int | Decimal | None]:
    """Every figure. A day without any row has 0 of what it has at the other time; rows may lack a figure, though."""
    sums: dict[str, int | Decimal | None] = {ROWS: rows}
    for name in FIGURES:
        value = totals.get(name, 0 if rows == 0 and name in others else None)
        sums[name] = Decimal(str(value)) if isinstance(value, float) else value
    return sums
