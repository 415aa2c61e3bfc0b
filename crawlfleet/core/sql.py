"""SQL fragments that differ between the three databases, side by side.

Statements are whole texts in `model/`; they borrow these fragments. Moments travel as UTC text
('2026-01-31 08:00:00.000000'), which every database here stores and compares as its own time type
(sessions run in UTC).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.clock import SYSTEM_CLOCK, Clock

# More than a subquery ever gives. MariaDB keeps the order of a subquery, in which rows are locked, only with a LIMIT.
MANY_ROWS = 1_000_000

# kind of a column -> its type in the two databases that need one
_POSTGRESQL_TYPES = {
    "int": "bigint",
    "real": "double precision",
    "text": "text",
    "moment": "timestamptz",
    "day": "date",
    "json": "json",
    "decimal": "numeric",
    "bytes": "bytea",
}
_MYSQL_TYPES = {
    "int": "BIGINT",
    "real": "DOUBLE",
    "text": "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "moment": "DATETIME(6)",
    "day": "DATE",
    "json": "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "decimal": "DECIMAL(24,6)",
    "bytes": "CHAR(64)",
}


BATCH_BYTES = 1024 * 1024  # of the rows of one statement; where statements must be smaller a quarter of those
_LIMITS = {  # bytes of a statement, and what limits it: constants of their source, or at MySQL what the server says
    "sqlite": (1_000_000_000, "SQLITE_MAX_LENGTH"),
    "postgresql": (2**28 - 1, "the size of a jsonb"),
    "mysql": (16 * 1024 * 1024, "max_allowed_packet"),
}
_NOW = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
    "postgresql": "clock_timestamp()",
    "mysql": "UTC_TIMESTAMP(6)",
}


@lru_cache(maxsize=1024)
def sql(statement: str) -> sa.TextClause:
    """A statement; made once, since finding its parameters takes as long as a short question to the database."""
    return sa.text(statement)


class SqlDialect:
    """SQL fragments of one database. `family` is sqlite, postgresql or mysql; `product` tells MariaDB from MySQL."""

    def __init__(self, family: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.family = family
        self.product = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}[family]
        self._clock = clock
        self.pooled = False  # PostgreSQL's sessions are a pooler's: nothing may be kept in one
        self.statement_bytes, self.limit_name = _LIMITS[family]
        # SQLite's BEGIN IMMEDIATE already locks everything; it would silently ignore FOR UPDATE.
        self.for_update = "" if family == "sqlite" else " FOR UPDATE"
        # The same for the table `t` of a join with `rows`: PostgreSQL can only lock what is a table.
        self.for_update_of_t = " FOR UPDATE OF t" if family == "postgresql" else self.for_update
        self.skip_locked = "" if family == "sqlite" else " SKIP LOCKED"  # after either of them
        self.greatest = "MAX" if family == "sqlite" else "GREATEST"  # of several values of one row

    @property
    def batch_bytes(self) -> int:
        """How many bytes of rows one statement should have: those of JSON may double on their way to MySQL."""
        return min(BATCH_BYTES, self.statement_bytes // 4)

    @property
    def now(self) -> str:
        """The database's clock at the statement."""
        # PostgreSQL's now() would be the start of the transaction, stale after waiting for a lock
        return self._ahead(_NOW[self.family])

    @property
    def now_of_statement(self) -> str:
        """The same in all rows of a statement."""
        return self._ahead("statement_timestamp()" if self.family == "postgresql" else _NOW[self.family])

    def _ahead(self, moment: str) -> str:
        seconds = self._clock.database_ahead_seconds
        if not seconds:
            return moment
        return {
            "sqlite": f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '{seconds:+f} seconds')",
            "postgresql": f"({moment} + INTERVAL '{seconds:f} seconds')",
            "mysql": f"({moment} + INTERVAL {seconds:f} SECOND)",
        }[self.family]

    def bound(self, parameter: str, kind: str) -> str:
        """A bound value in a place where PostgreSQL cannot guess its type."""
        return f"CAST(:{parameter} AS {_POSTGRESQL_TYPES[kind]})" if self.family == "postgresql" else f":{parameter}"

    def moment(self, parameter: str) -> str:
        """A bound moment."""
        return self.bound(parameter, "moment")

    def day(self, parameter: str) -> str:
        """A bound day."""
        return self.bound(parameter, "day")

    def integer(self, parameter: str) -> str:
        """A bound number."""
        return self.bound(parameter, "int")

    def milliseconds(self, moment: str) -> str:
        """How many milliseconds since 1970 this moment is."""
        return {
            "sqlite": f"CAST(ROUND((julianday({moment}) - 2440587.5) * 86400000) AS INTEGER)",
            "postgresql": f"CAST(ROUND(EXTRACT(EPOCH FROM {moment}) * 1000) AS bigint)",
            "mysql": f"ROUND(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {moment}) / 1000)",
        }[self.family]

    def span_number(self, column: str, seconds: int) -> str:
        """Which span of so many seconds since 1970 the moment in this column belongs to."""
        since_1970 = {
            "sqlite": f"CAST(strftime('%s', {column}) AS INTEGER)",
            "postgresql": f"CAST(FLOOR(EXTRACT(EPOCH FROM {column})) AS bigint)",
            "mysql": f"TIMESTAMPDIFF(SECOND, '1970-01-01', {column})",
        }[self.family]
        return f"{since_1970} {'DIV' if self.family == 'mysql' else '/'} {seconds}"

    def binary(self, column: str) -> str:
        """A column of kind bytes of `rows`, as the database stores it (hex text on SQLite)."""
        return f"UNHEX({column})" if self.family == "mysql" else column

    def rows(self, **columns: str) -> str:
        """A table expression `v` with these columns (name=kind) over one bound parameter `:rows`.

        `:rows` is the JSON of a list of lists, from `json_rows`. The text of a statement so never depends on how
        many rows it handles: one round trip and one cached plan for any batch.
        """
        cells = enumerate(columns.items())
        if self.family == "sqlite":
            # unhex() only exists from SQLite 3.41 on: bytes travel as hex text and stay text there
            picks = ", ".join(f"json_extract(value, '$[{i}]') AS {name}" for i, (name, _) in cells)
            return f"(SELECT {picks} FROM json_each(:rows)) AS v"
        if self.family == "postgresql":
            picks = ", ".join(
                f"decode(e->>{i}, 'hex') AS {name}"
                if kind == "bytes"
                else f"CAST(e->>{i} AS {_POSTGRESQL_TYPES[kind]}) AS {name}"
                for i, (name, kind) in cells
            )
            return f"(SELECT {picks} FROM jsonb_array_elements(CAST(:rows AS jsonb)) AS e) AS v"
        # Without ERROR ON ERROR a number that does not fit would silently become null.
        picks = ", ".join(f"{name} {_MYSQL_TYPES[kind]} PATH '$[{i}]' ERROR ON ERROR" for i, (name, kind) in cells)
        return f"JSON_TABLE(:rows, '$[*]' COLUMNS ({picks})) AS v"

    def is_among(self, column: str, parameter: str) -> str:
        """Whether a column of text is one of the strings of a bound JSON list.

        Unlike a join with `rows` it leaves a walk along an index as it is: in order, and ended by LIMIT.
        """
        if self.family == "sqlite":
            return f"{column} IN (SELECT value FROM json_each(:{parameter}))"
        if self.family == "postgresql":
            return f"{column} = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST(:{parameter} AS jsonb))))"
        return f"JSON_CONTAINS(:{parameter}, JSON_QUOTE({column}))"

    def by_key(self, source: str, table: str, key: str = "PRIMARY") -> str:
        """`source JOIN table t` for statements that lock rows of the table, which they name by this unique key.

        MariaDB would read a table of a few rows whole, and wait for whoever has locked any of them.
        """
        if self.family == "mysql":
            return f"{source} STRAIGHT_JOIN {table} AS t FORCE INDEX ({key})"
        return f"{source} JOIN {table} AS t"

    def update_from(self, table: str, assignments: dict[str, str], source: str, where: str) -> str:
        """`UPDATE table t SET ... FROM source WHERE ...`, which MySQL and MariaDB spell as a join."""
        if self.family == "mysql":
            pairs = ", ".join(f"t.{column} = {value}" for column, value in assignments.items())
            return f"UPDATE {self.by_key(source, table)} SET {pairs} WHERE {where}"
        pairs = ", ".join(f"{column} = {value}" for column, value in assignments.items())
        return f"UPDATE {table} AS t SET {pairs} FROM {source} WHERE {where}"

    def delete_from(self, table: str, source: str, where: str) -> str:
        """`DELETE FROM table t USING source WHERE ...`, which each database spells in its own way."""
        if self.family == "mysql":
            return f"DELETE t FROM {self.by_key(source, table)} ON {where}"
        if self.family == "postgresql":
            return f"DELETE FROM {table} AS t USING {source} WHERE {where}"
        return f"DELETE FROM {table} AS t WHERE EXISTS (SELECT 1 FROM {source} WHERE {where})"

    def upsert(self, statement: str, key: str, columns: Sequence[str]) -> str:
        """An INSERT ... SELECT that overwrites these columns of an existing row with the same unique `key` columns."""
        if self.family == "mysql":
            return f"{statement} ON DUPLICATE KEY UPDATE " + ", ".join(f"{c} = VALUES({c})" for c in columns)
        pairs = ", ".join(f"{c} = excluded.{c}" for c in columns)
        return f"{statement}{self._no_join} ON CONFLICT ({key}) DO UPDATE SET {pairs}"

    def insert_ignore(self, statement: str, key: str) -> str:
        """An INSERT ... SELECT that leaves an existing row with the same unique `key` columns alone."""
        if self.family == "mysql":
            column = key.split(",", maxsplit=1)[0].strip()
            return f"{statement} ON DUPLICATE KEY UPDATE {column} = VALUES({column})"
        return f"{statement}{self._no_join} ON CONFLICT ({key}) DO NOTHING"

    @property
    def _no_join(self) -> str:
        """SQLite's parser takes ON for the condition of a join unless the SELECT before it has a WHERE."""
        return " WHERE 1 = 1" if self.family == "sqlite" else ""


def json_rows(rows: Iterable[Sequence[Any]]) -> str:
    """The value for `:rows`; moments, dates, decimals and bytes become text."""
    return json.dumps([*rows], default=_as_text, ensure_ascii=False, separators=(",", ":"))


def json_batches(rows: Sequence[Sequence[Any]], most_bytes: int) -> Iterator[str]:
    """Values for `:rows` that hold these rows in their order, each of at most so many bytes, or of a single row."""
    return (text for text, _ in counted_batches(rows, most_bytes))


def counted_batches(rows: Sequence[Sequence[Any]], most_bytes: int) -> Iterator[tuple[str, int]]:
    """The same, each with the number of its rows."""
    text = json_rows(rows)
    size = len(text) if text.isascii() else len(text.encode())
    if size <= most_bytes or len(rows) < 2:
        yield text, len(rows)
        return
    middle = len(rows) // 2
    yield from counted_batches(rows[:middle], most_bytes)
    yield from counted_batches(rows[middle:], most_bytes)


def bindable(value: Any) -> str | int | float | None:
    """The value for a single parameter, in the same form."""
    return value if value is None or isinstance(value, str | int | float) else _as_text(value)


def _as_text(value: Any) -> str:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"cannot store a {type(value).__name__}")


def stamp(moment: datetime) -> str:
    """A moment as the databases read it: UTC, microseconds."""
    return moment.astimezone(UTC).isoformat(" ", "microseconds")[:26]  # half the time of strftime, four times a task


def utc(value: Any) -> datetime | None:
    """A moment as a database returned it (text on SQLite, naive on MySQL), with its zone."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    moment: datetime = value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def day(value: Any) -> date | None:
    """A calendar day as a database returned it (text on SQLite)."""
    return date.fromisoformat(value) if isinstance(value, str) else value


def json_value(value: Any) -> Any:
    """A JSON column as a database returned it: text on SQLite and MariaDB, decoded on PostgreSQL."""
    return json.loads(value) if isinstance(value, str | bytes) else value
