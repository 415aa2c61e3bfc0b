"""What was fetched, read-only: the apps that accounts see, and the figures of apps.

Both are read along a key, all of them or a page at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import CURRENCY, UNKNOWN_CURRENCY
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.insights.pages import Page, no_key, opened_key, page_of
from crawlfleet.model import schema

PAGE_ROWS = 5000  # of one look at the figures
FEED_NAMES = ("source", "username", "app_id", "report")
KEY_COLUMNS = frozenset({"id", "feed_id", "row_hash"})


def apps(
    db: Database, wanted: FeedFilter, after: Sequence[str] | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """The apps that accounts see, as dicts of the columns of cl_user_app without its id, by source, account and app."""
    table = schema.user_app
    names = (table.c.source, table.c.username, table.c.app_id)
    query = sa.select(table).order_by(*names).limit(limit)
    for column in names:
        if getattr(wanted, column.name) is not None:
            query = query.where(column == getattr(wanted, column.name))
    if after is not None:
        query = query.where(sa.tuple_(*names) > tuple(after))
    with db.read() as reader:
        return [_shown(row) for row in reader.execute(query).mappings()]


def apps_page(db: Database, wanted: FeedFilter, limit: int, after: str | None = None) -> Page:
    """At most `limit` of them."""
    rows = apps(db, wanted, None if after is None else opened_key(after, 3), limit + 1)
    return page_of(rows, limit, [[row["source"], row["username"], row["app_id"]] for row in rows])


def data_rows(
    db: Database, wanted: FeedFilter, start: date | None = None, end: date | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Stored figures, by feed and day. A missing dimension or figure is None; revenue and cost are Decimals, in the
    `currency` of the row's app.

    They are read page by page along the primary key: a reader may take its time, since between two pages nothing
    is held at the server. What is written meanwhile may or may not be seen.
    """
    rows = _rows(db, wanted, start, end)
    return itertools.islice((_with_names(names, row, currency) for names, row, currency in rows), limit)


def rows_page(
    db: Database, wanted: FeedFilter, start: date | None, end: date | None, limit: int, after: str | None = None
) -> Page:
    """At most `limit` rows of stored figures, as `data_rows` yields them."""
    key = None if after is None else opened_key(after, 6)
    rows, keys = [], []
    for names, row, currency in itertools.islice(_rows(db, wanted, start, end, key, limit + 1), limit + 1):
        rows.append(_with_names(names, row, currency))
        digest = row["row_hash"]
        keys.append([*names.values(), str(row["date"]), digest if isinstance(digest, str) else bytes(digest).hex()])
    return page_of(rows, limit, keys)


def _rows(
    db: Database,
    wanted: FeedFilter,
    start: date | None,
    end: date | None,
    key: Sequence[str] | None = None,
    page_rows: int | None = None,
) -> Iterator[tuple[dict[str, str], sa.RowMapping, str]]:
    """Rows as they are stored, each with the names of its feed and its app's currency; from behind `key` on."""
    period = _days_between(start, end)
    for feed in _feeds_with_rows(db, wanted, period, None if key is None else tuple(key[:4])):
        names = {name: feed[name] for name in FEED_NAMES}
        for row in _feed_rows(db, feed["id"], period, _place_in(db, feed, key), page_rows):
            yield names, row, feed[CURRENCY] or UNKNOWN_CURRENCY


def _days_between(start: date | None, end: date | None) -> list[sa.ColumnElement[bool]]:
    """The condition that figures are of these days."""
    column, period = schema.app_data.c.date, []
    if start is not None:
        period.append(column >= start)
    if end is not None:
        period.append(column <= end)
    return period


def _feeds_with_rows(
    db: Database, wanted: FeedFilter, period: list[sa.ColumnElement[bool]], since: tuple[str, ...] | None = None
) -> Sequence[sa.RowMapping]:
    """The feeds that have figures of these days, with their app's currency, by their FEED_NAMES; only from `since` on,
    which is such names."""
    feed, data = schema.feed, schema.app_data
    names = [feed.c[name] for name in FEED_NAMES]
    # a row of each feed rather than EXISTS, for which MariaDB would read the figures of all feeds
    a_row = sa.select(data.c.feed_id).where(data.c.feed_id == feed.c.id, *period).limit(1).scalar_subquery()
    app = schema.user_app
    is_own = sa.and_(*(app.c[name] == feed.c[name] for name in ("source", "username", "app_id")))
    query = sa.select(feed, app.c.currency).join(app, is_own, isouter=True).where(a_row.is_not(None)).order_by(*names)
    for name in FEED_NAMES:
        if getattr(wanted, name) is not None:
            query = query.where(feed.c[name] == getattr(wanted, name))
    if since is not None:
        query = query.where(sa.tuple_(*names) >= since)
    with db.read() as reader:
        return reader.execute(query).mappings().all()


def _feed_rows(
    db: Database,
    feed_id: int,
    period: list[sa.ColumnElement[bool]],
    after: tuple[date, Any] | None = None,
    page_rows: int | None = None,
) -> Iterator[sa.RowMapping]:
    """The rows of a feed as they are stored, by day and hash, from behind `after`, which is such a pair."""
    data, most = schema.app_data, page_rows or PAGE_ROWS
    query = sa.select(data).where(data.c.feed_id == feed_id, *period).order_by(data.c.date, data.c.row_hash).limit(most)
    while True:
        behind = query
        if after is not None:
            same_day = sa.and_(data.c.date == after[0], data.c.row_hash > after[1])
            # the first condition says nothing new, but it alone lets every database enter the key there
            behind = query.where(data.c.date >= after[0], sa.or_(data.c.date > after[0], same_day))
        page = _page(db, behind)
        yield from page
        if len(page) < most:
            return
        after = page[-1]["date"], page[-1]["row_hash"]


def _page(db: Database, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
    with db.read() as reader:
        return reader.execute(query).mappings().all()


def _place_in(db: Database, feed: sa.RowMapping, key: Sequence[str] | None) -> tuple[date, Any] | None:
    """Behind which (day, hash) of this feed the page begins; None: with its first row."""
    if key is None or [feed[name] for name in FEED_NAMES] != list(key[:4]):
        return None
    try:
        day, digest = date.fromisoformat(key[4]), bytes.fromhex(key[5])
    except ValueError:
        raise no_key() from None
    return day, (key[5] if db.family == "sqlite" else digest)


def _with_names(names: dict[str, str], row: sa.RowMapping, currency: str) -> dict[str, Any]:
    shown = names | _shown(row)
    extra = shown.pop("extra")
    return shown | {CURRENCY: currency, "extra": extra}


def _shown(row: sa.RowMapping) -> dict[str, Any]:
    """A row without its keys."""
    return {name: value for name, value in row.items() if name not in KEY_COLUMNS}
