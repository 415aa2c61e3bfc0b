"""Long lists a page at a time, each along a key: what a page costs does not depend on how long the list is.

A page's `next` is where the one after it begins; None on the last. Where no index knows a filter, a page looks at no
more than LOOK_ROWS rows: it may be short, or empty, and still have a next one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.core.json_text import parse_json
from crawlfleet.core.sql import sql, stamp, utc
from crawlfleet.core.transaction import Reader

LOOK_ROWS = 20_000
MESSAGE_CHARS = 300  # of an error in a list
OUT_OF_ORDER = timedelta(hours=1)  # by which a row may be older than one with a lower id: transactions overlap


@dataclass(frozen=True)
class Span:
    """Rows that were made from `since` on and before `until`; None: no such end."""

    since: datetime | None = None
    until: datetime | None = None

    @property
    def conditions(self) -> list[str]:
        """What a row `t` must fulfil."""
        ends = ("t.created_at >= :since", self.since), ("t.created_at < :until", self.until)
        return [condition for condition, moment in ends if moment is not None]

    @property
    def parameters(self) -> dict[str, str]:
        """The moments of the conditions."""
        ends = {"since": self.since, "until": self.until}
        return {name: stamp(moment) for name, moment in ends.items() if moment is not None}


NEVER_MIND = Span()


@dataclass(frozen=True)
class Page:
    """Some rows of a list."""

    rows: list[dict[str, Any]]
    next: str | None = None


def newest_first(
    db: Database,
    table: sa.Table,
    filters: Mapping[str, Any],
    indexed: Sequence[str],
    limit: int,
    before: int | None,
    without: Collection[str] = (),
    added: Span = NEVER_MIND,
) -> Page:
    """Rows by falling id. The first of the `indexed` columns that is filtered by leads; the other filters then look at
    LOOK_ROWS rows, and no further than a little before `added` begins. The columns `without` are left out; where there
    are such, long error messages are cut."""
    lead = next((name for name in indexed if name in filters), None)
    others = {name: value for name, value in filters.items() if name != lead}
    parameters = {**filters, **added.parameters, "limit": limit + 1, "look": LOOK_ROWS}
    conditions = [f"{lead} = :{lead}"] if lead else []
    if before is not None:
        parameters["before"] = before
        conditions.append("id < :before")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    walk = f"SELECT id FROM {table.name}{where} ORDER BY id DESC LIMIT"
    with db.read() as reader:
        fitting = [*(f"t.{name} = :{name}" for name in others), *added.conditions]
        if not fitting:
            ids = _ids(reader, f"{walk} :limit", parameters)
            rest = None
        else:
            ids = _ids(
                reader,
                f"SELECT w.id FROM ({walk} :look) AS w JOIN {table.name} t ON t.id = w.id"
                f" WHERE {' AND '.join(fitting)} ORDER BY w.id DESC LIMIT :limit",
                parameters,
            )
            rest = None if len(ids) > limit else _lowest(reader, f"{walk} :look", parameters)
            if rest is not None and added.since is not None:
                look = sa.select(table.c.created_at).where(table.c.id == rest)
                oldest = utc(reader.execute(look).scalar())
                rest = None if oldest is None or oldest < added.since - OUT_OF_ORDER else rest
        columns = [column for column in table.c if column.name not in without]
        query = sa.select(*columns).where(table.c.id.in_(ids[:limit])).order_by(table.c.id.desc())
        rows = [dict(row) for row in reader.execute(query).mappings()]
    for row in rows if without else ():
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


def page_of(rows: list[dict[str, Any]], limit: int, keys: Sequence[Sequence[str]]) -> Page:
    """The page of `limit` rows, of which one more was read to see whether there is a next."""
    return Page(rows[:limit], closed_key(keys[limit - 1]) if len(rows) > limit else None)


def closed_key(parts: Sequence[str]) -> str:
    """A key of several names as one word that a client hands back."""
    return base64.urlsafe_b64encode(json.dumps([*parts], ensure_ascii=False).encode()).decode().rstrip("=")


def opened_key(key: str, parts: int) -> list[str]:
    """The names in a word that `closed_key` made; raises UsageError for any other text."""
    try:
        names = parse_json(base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)))
    except ValueError:
        raise no_key() from None
    if not isinstance(names, list) or len(names) != parts or not all(_is_name(each) for each in names):
        raise no_key()
    return names


def _is_name(part: object) -> bool:
    return isinstance(part, str) and part.isprintable()


def no_key() -> UsageError:
    """The error for a key that no page gave."""
    return UsageError("after must be the `next` of the page before (got something else)")
