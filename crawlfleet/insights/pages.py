"""Long lists a page at a time, each along a key: what a page costs does not depend on how long the list is.

A page's `next` is where the one after it begins; None on the last. Where no index knows a filter, a page looks at no
more than LOOK_ROWS rows: it may be short, or empty, and still have a next one.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.core.sql import day, json_value, sql, utc
from crawlfleet.core.transaction import Reader
from crawlfleet.insights.coverage import FeedCoverage, feeds_within, gaps_of
from crawlfleet.insights.coverage import coverage as coverage_of_feeds
from crawlfleet.insights.feeds import FeedFilter, FeedName, ReportsOf
from crawlfleet.insights.overview import FEED_NAMES, days_between, feed_rows, feeds_with_rows, figures
from crawlfleet.model import schema

LOOK_ROWS = 20_000
PAGE_DAYS = 5_000  # of all feeds of a page of coverage or gaps
DAY_COLUMNS = ("day", "state", "rows", "fetched_at", "settles_at")
LONG_COLUMNS = frozenset({"task_data", "task_ret", "result_data"})  # left out of lists
DAYS = frozenset({"start_date", "end_date"})
MESSAGE_CHARS = 300  # of an error in a list


@dataclass(frozen=True)
class Page:
    """Some rows of a list."""

    rows: list[dict[str, Any]]
    next: str | None = None


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks are meant; None means any."""

    status: str | None = None
    task_type: str | None = None
    username: str | None = None
    source: str | None = None
    app_id: str | None = None


def tasks(db: Database, wanted: TaskFilter, limit: int, before: int | None = None) -> Page:
    """Tasks with an id below `before`, newest first, without `task_data` and `task_ret`."""
    filters = {name: value for name, value in vars(wanted).items() if value is not None}
    return _newest_first(db, schema.crawl_task, filters, ("username", "status"), limit, before)


def assignments(
    db: Database,
    limit: int,
    before: int | None = None,
    task_id: int | None = None,
    device_id: str | None = None,
    status: str | None = None,
) -> Page:
    """Runs with an id below `before`, those of the newest registration first, without `result_data`."""
    given = {"task_id": task_id, "device_id": device_id, "status": status}
    filters = {name: value for name, value in given.items() if value is not None}
    return _newest_first(db, schema.task_assignment, filters, ("task_id", "device_id"), limit, before)


def task_events(db: Database, task_id: int, limit: int, before: int | None = None) -> Page:
    """What happened to a task that its runs cannot show, newest first."""
    return _newest_first(db, schema.task_event, {"task_id": task_id}, ("task_id",), limit, before)


def audit(db: Database, limit: int, before: int | None = None) -> Page:
    """Changes, newest first."""
    return _newest_first(db, schema.audit, {}, (), limit, before)


def assignment(db: Database, assignment_id: int) -> dict[str, Any] | None:
    """One run with its `result_data`; None when there is none of this id."""
    table = schema.task_assignment
    with db.read() as reader:
        row = reader.execute(sa.select(table).where(table.c.id == assignment_id)).mappings().first()
    return None if row is None else _plain(row)


def _newest_first(
    db: Database,
    table: sa.Table,
    filters: Mapping[str, Any],
    indexed: Sequence[str],
    limit: int,
    before: int | None,
) -> Page:
    """Rows by falling id. The first of the `indexed` columns that is filtered by leads; the other filters then look at
    LOOK_ROWS rows."""
    lead = next((name for name in indexed if name in filters), None)
    others = {name: value for name, value in filters.items() if name != lead}
    parameters = {**filters, "limit": limit + 1, "look": LOOK_ROWS}
    conditions = [f"{lead} = :{lead}"] if lead else []
    if before is not None:
        parameters["before"] = before
        conditions.append("id < :before")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    walk = f"SELECT id FROM {table.name}{where} ORDER BY id DESC LIMIT"
    with db.read() as reader:
        if not others:
            ids = _ids(reader, f"{walk} :limit", parameters)
            rest = None
        else:
            fits = " AND ".join(f"t.{name} = :{name}" for name in others)
            ids = _ids(
                reader,
                f"SELECT w.id FROM ({walk} :look) AS w JOIN {table.name} t ON t.id = w.id"
                f" WHERE {fits} ORDER BY w.id DESC LIMIT :limit",
                parameters,
            )
            rest = None if len(ids) > limit else _lowest(reader, f"{walk} :look", parameters)
        columns = [column for column in table.c if column.name not in LONG_COLUMNS]
        query = sa.select(*columns).where(table.c.id.in_(ids[:limit])).order_by(table.c.id.desc())
        rows = [_plain(row) for row in reader.execute(query).mappings()]
    for row in rows:
        message = row.get("error_message")
        if message is not None and len(message) > MESSAGE_CHARS:
            row["error_message"] = f"{message[: MESSAGE_CHARS - 1]}…"
    following = ids[limit - 1] if len(ids) > limit else rest
    return Page(rows, None if following is None else str(following))


def _ids(connection: Reader, statement: str, parameters: Mapping[str, Any]) -> list[int]:
    used = {name: value for name, value in parameters.items() if f":{name}" in statement}
    return list(connection.execute(sql(statement), used).scalars())


def _lowest(connection: Reader, walk: str, parameters: Mapping[str, Any]) -> int | None:
    """The last id of a walk; None when the walk has come to its end."""
    statement = f"SELECT MIN(w.id), COUNT(*) FROM ({walk}) AS w"
    used = {name: value for name, value in parameters.items() if f":{name}" in statement}
    lowest, count = connection.execute(sql(statement), used).one()
    return int(lowest) if count == LOOK_ROWS else None


def _plain(row: sa.RowMapping) -> dict[str, Any]:
    """A row with moments, days and JSON as Python values."""
    values = dict(row)
    for name, value in row.items():
        if name.endswith("_at"):
            values[name] = utc(value)
        elif name in DAYS:
            values[name] = day(value)
    if "result_data" in values:
        values["result_data"] = json_value(values["result_data"])
    if "action" in values:  # an audit's detail is JSON, an event's is text
        values["detail"] = json_value(values["detail"])
    return values


# -- apps and figures


def apps(db: Database, wanted: FeedFilter, limit: int, after: str | None = None) -> Page:
    """The apps that accounts see, by source, account and app."""
    table = schema.user_app
    names = (table.c.source, table.c.username, table.c.app_id)
    query = sa.select(table).order_by(*names).limit(limit + 1)
    for column in names:
        if getattr(wanted, column.name) is not None:
            query = query.where(column == getattr(wanted, column.name))
    if after is not None:
        query = query.where(sa.tuple_(*names) > tuple(opened_key(after, 3)))
    with db.read() as reader:
        rows = [dict(row) for row in reader.execute(query).mappings()]
    for row in rows:
        del row["id"]
        row["extra"] = json_value(row["extra"])
        row["first_seen_at"], row["fetched_at"] = utc(row["first_seen_at"]), utc(row["fetched_at"])
    return _page(rows, limit, [[row[column.name] for column in names] for row in rows])


def data_rows(
    db: Database,
    wanted: FeedFilter,
    start: date | None,
    end: date | None,
    limit: int,
    after: str | None = None,
) -> Page:
    """Stored figures by source, account, app, report and day, as `insights.data_rows` yields them."""
    key = opened_key(after, 6) if after is not None else None
    period = days_between(db, start, end)
    feeds = feeds_with_rows(db, wanted, period, None if key is None else tuple(key[:4]))
    found = (
        (feed, row) for feed in feeds for row in feed_rows(db, feed["id"], period, _place_in(db, feed, key), limit + 1)
    )
    rows, keys = [], []
    for feed, row in itertools.islice(found, limit + 1):
        names = {name: feed[name] for name in FEED_NAMES}
        rows.append(names | figures(row))
        keys.append([*names.values(), str(row["date"]), _hash_text(row["row_hash"])])
    return _page(rows, limit, keys)


def _place_in(db: Database, feed: sa.RowMapping, key: Sequence[str] | None) -> tuple[Any, Any] | None:
    """Behind which (day, hash) of this feed the page begins; None: with its first row."""
    if key is None or [feed[name] for name in FEED_NAMES] != list(key[:4]):
        return None
    if db.family == "sqlite":
        return key[4], key[5]
    try:
        return date.fromisoformat(key[4]), bytes.fromhex(key[5])
    except ValueError:
        raise _no_key() from None


def _hash_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else bytes(value).hex()


def coverage(
    db: Database,
    wanted: FeedFilter,
    start: date,
    end: date,
    reports_of: ReportsOf,
    limit: int,
    after: str | None = None,
) -> Page:
    """The state of each day of at most `limit` feeds: fewer where the period is long."""
    most = min(limit, feeds_within(PAGE_DAYS, start, end))
    covered, following = _feeds(db, wanted, start, end, reports_of, most, after)
    rows: list[dict[str, Any]] = []
    for each in covered:
        days = [{column: getattr(day, column) for column in DAY_COLUMNS} for day in each.days]
        rows.append({**asdict(each.feed.name), "refusal": each.feed.refusal, "days": days})
    return Page(rows, following)


def gaps(
    db: Database,
    wanted: FeedFilter,
    start: date,
    end: date,
    reports_of: ReportsOf,
    limit: int,
    after: str | None = None,
) -> Page:
    """The gaps of at most `limit` feeds: fewer where the period is long. A page without any may have a next one."""
    with db.read() as reader:
        now = reader.now
    most = min(limit, feeds_within(PAGE_DAYS, start, end))
    covered, following = _feeds(db, wanted, start, end, reports_of, most, after)
    return Page([gap.as_dict() for each in covered for gap in gaps_of(each, now)], following)


def _feeds(
    db: Database,
    wanted: FeedFilter,
    start: date,
    end: date,
    reports_of: ReportsOf,
    limit: int,
    after: str | None,
) -> tuple[list[FeedCoverage], str | None]:
    key = None if after is None else FeedName(*opened_key(after, 4))
    found = list(coverage_of_feeds(db, wanted, start, end, reports_of, after=key, limit=limit + 1))
    following = closed_key([*asdict(found[limit - 1].feed.name).values()]) if len(found) > limit else None
    return found[:limit], following


def _page(rows: list[dict[str, Any]], limit: int, keys: Sequence[Sequence[str]]) -> Page:
    """The page of `limit` rows, of which one more was read to see whether there is a next."""
    return Page(rows[:limit], closed_key(keys[limit - 1]) if len(rows) > limit else None)


def closed_key(parts: Sequence[str]) -> str:
    """A key of several names as one word that a client hands back."""
    return base64.urlsafe_b64encode(json.dumps([*parts], ensure_ascii=False).encode()).decode().rstrip("=")


def opened_key(key: str, parts: int) -> list[str]:
    """The names in a word that `closed_key` made; raises UsageError for any other text."""
    try:
        found = json.loads(base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)))
    except ValueError:
        raise _no_key() from None
    if not isinstance(found, list) or len(found) != parts or not all(_is_name(each) for each in found):
        raise _no_key()
    return found


def _is_name(part: object) -> bool:
    return isinstance(part, str) and part.isprintable()


def _no_key() -> UsageError:
    return UsageError("after must be the `next` of the page before (got something else)")
