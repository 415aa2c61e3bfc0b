"""cl_coverage: what is known of each day of each feed, written in the transaction that stores its rows.

A day that is fetched again with other figures leaves a restatement: what it was, and what it is now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from crawlfleet.core.sql import day, json_batches, json_rows, json_value, sql, stamp, utc
from crawlfleet.core.transaction import Answer, Statements, Transaction
from crawlfleet.core.vendor_data import AMOUNTS, COUNTS, Figures
from crawlfleet.model.feed import FeedKey

FIGURES = (*COUNTS, *AMOUNTS)
_BITS = 2**128


@dataclass
class DayTotals:
    """The rows of one day as they are stored: how many, the sum of each figure, and a sum of their hashes, which does
    not depend on the order in which the vendor sent them. A figure that no row has is missing."""

    row_count: int = 0
    totals: dict[str, int | Decimal] = field(default_factory=dict)
    _sum: int = 0

    def add(self, row: Figures, stored: tuple[Any, ...]) -> None:
        """Count one row; `stored` is all of it, as it goes into the table."""
        self.row_count += 1
        for name in FIGURES:
            value = getattr(row, name)
            if value is not None:
                self.totals[name] = self.totals.get(name, 0) + value
        content = json.dumps(stored[2:], default=str, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._sum += int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "big")

    @property
    def checksum(self) -> str:
        return f"{self._sum % _BITS:032x}"

    @property
    def totals_json(self) -> str:
        return json.dumps({name: as_number(value) for name, value in self.totals.items()})


@dataclass(frozen=True, slots=True)
class Covered:
    """One row of cl_coverage."""

    row_count: int
    checksum: str
    totals: Mapping[str, Any]
    settled_fetches: int
    fetched_at: datetime
    fetch_number: int = 0
    suspect_fetches: int = 0

    def is_newer_than(self, fetched_at: datetime, fetch_number: int | None) -> bool:
        """Whether the fetch that wrote the day began after the one with this number, which began at this moment.

        The moments decide only between two of one number: the feed's store did not change from the claim of the one to
        that of the other. None: it is not known what was stored when the other was claimed.
        """
        if fetch_number is None or fetch_number == self.fetch_number:
            return self.fetched_at > fetched_at
        return self.fetch_number > fetch_number


def as_number(value: int | Decimal) -> int | float:
    """A total as JSON holds it."""
    return value if isinstance(value, int) else float(round(value, 6))


def is_settled(which: date, fetched_at: datetime, settle_days: int) -> bool:
    """Whether a fetch that began at this moment saw the final figures of the day."""
    return fetched_at >= datetime.combine(which, time(), UTC) + timedelta(days=1 + settle_days)


def ask_days(
    transaction: Transaction, ranges: Collection[tuple[FeedKey, date, date]]
) -> Answer[dict[int, dict[date, Covered]]]:
    """Ask what is known of these days of feeds, first to last; the answer is one of `of_feeds`."""
    if not ranges:
        return Answer.of({})
    columns = {**dict.fromkeys(FeedKey._fields, "text"), "first": "day", "last": "day"}
    match = " AND ".join(f"f.{name} = v.{name}" for name in FeedKey._fields)
    statement = sql(
        f"SELECT {_COVERED} FROM {transaction.dialect.rows(**columns)} JOIN cl_feed f ON {match}"
        " JOIN cl_coverage c ON c.feed_id = f.id AND c.day BETWEEN v.first AND v.last"
    )
    rows = json_rows((*key, first, last) for key, first, last in ranges)
    return transaction.execute(statement, {"rows": rows}).map(_by_feed)


def of_feeds(reader: Statements, feed_ids: Iterable[int], start: date, end: date) -> dict[int, dict[date, Covered]]:
    """What is known of these days of feeds; feeds and days that were never fetched are missing."""
    statement = sql(
        f"SELECT {_COVERED} FROM {reader.dialect.rows(id='int')} JOIN cl_coverage c ON c.feed_id = v.id"
        f" WHERE c.day BETWEEN {reader.dialect.day('first')} AND {reader.dialect.day('last')}"
    )
    rows = json_rows([each] for each in sorted(feed_ids))
    return _by_feed(reader.execute(statement, {"rows": rows, "first": start.isoformat(), "last": end.isoformat()}))


_COVERED = (
    "c.feed_id, c.day, c.row_count, c.checksum, c.totals, c.settled_fetches, c.fetched_at, c.fetch_number,"
    " c.suspect_fetches"
)


def _by_feed(rows: Iterable[Any]) -> dict[int, dict[date, Covered]]:
    by_feed: dict[int, dict[date, Covered]] = {}
    for feed_id, which, row_count, checksum, totals, settled_fetches, fetched_at, number, suspect in rows:
        moment, calendar_day = utc(fetched_at), day(which)
        assert moment is not None
        assert calendar_day is not None
        covered = Covered(row_count, checksum, json_value(totals), settled_fetches, moment, number, suspect)
        by_feed.setdefault(feed_id, {})[calendar_day] = covered
    return by_feed


def write(
    transaction: Transaction,
    feed_id: int,
    totals_of: Mapping[date, DayTotals],
    former: Mapping[date, Covered],
    fetched_at: datetime,
    fetch_number: int,
    settle_days: int,
) -> None:
    """Note what a fetch found for these days, and what it changed."""
    if not totals_of:
        return
    rows, changes = [], []
    for which, totals in sorted(totals_of.items()):
        before = former.get(which)
        settled = (before.settled_fetches if before else 0) + is_settled(which, fetched_at, settle_days)
        rows.append((which, totals.row_count, totals.checksum, totals.totals_json, settled))
        if before is not None and before.checksum != totals.checksum:
            changes.append(
                (
                    which,
                    before.row_count,
                    totals.row_count,
                    json.dumps(before.totals),
                    totals.totals_json,
                    before.fetched_at,
                )
            )
    feed, at = transaction.dialect.integer("feed"), transaction.dialect.moment("at")
    columns = {"day": "day", "row_count": "int", "checksum": "text", "totals": "json", "settled_fetches": "int"}
    names = ", ".join(columns)
    statement = transaction.dialect.upsert(
        f"INSERT INTO cl_coverage (feed_id, {names}, fetched_at, fetch_number, suspect_fetches)"
        f" SELECT {feed}, {names}, {at}, {transaction.dialect.integer('number')}, 0"
        f" FROM {transaction.dialect.rows(**columns)}",
        "feed_id, day",
        ["row_count", "checksum", "totals", "settled_fetches", "fetched_at", "fetch_number", "suspect_fetches"],
    )
    parameters = {"feed": feed_id, "at": stamp(fetched_at)}
    for texts in json_batches(rows, transaction.dialect.batch_bytes):
        transaction.execute(sql(statement), {**parameters, "number": fetch_number, "rows": texts})
    if changes:
        columns = {
            "day": "day",
            "rows_before": "int",
            "rows_after": "int",
            "totals_before": "json",
            "totals_after": "json",
            "fetched_before": "moment",
        }
        names = ", ".join(columns)
        statement = (
            f"INSERT INTO cl_restatement (feed_id, {names}, fetched_at) SELECT {feed}, {names}, {at}"
            f" FROM {transaction.dialect.rows(**columns)}"
        )
        for texts in json_batches(changes, transaction.dialect.batch_bytes):
            transaction.execute(sql(statement), {**parameters, "rows": texts})


def suspect(transaction: Transaction, feed_id: int, days: Collection[date]) -> None:
    """The vendor had no rows for these days, which have some: they stay, and are to be looked at again."""
    statement = transaction.dialect.update_from(
        "cl_coverage",
        {"suspect_fetches": "t.suspect_fetches + 1"},
        transaction.dialect.rows(day="day"),
        f"t.feed_id = {transaction.dialect.integer('feed')} AND t.day = v.day",
    )
    transaction.execute(sql(statement), {"feed": feed_id, "rows": json_rows([each] for each in sorted(days))})
