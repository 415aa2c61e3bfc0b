"""How queued statements travel: each driver has its own way to send several at once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from crawlfleet.core.transaction import Result

BEGIN = {
    "sqlite": sa.text("BEGIN IMMEDIATE"),  # a reader that starts to write later could deadlock with another
    "mysql": sa.text("BEGIN"),
    "postgresql": sa.text("BEGIN"),
}
COMMIT = sa.text("COMMIT")
LOCK_WAIT_SECONDS = 20
IDLE_TRANSACTION_SECONDS = 30  # a stopped node must not hold its locks longer than this


def settings_of_session(local: str) -> str:
    """What sets a PostgreSQL session up, for a SELECT; for its transaction only where `local` is true."""
    settings = {
        "timezone": "UTC",
        "default_transaction_isolation": "read committed",
        "lock_timeout": f"{LOCK_WAIT_SECONDS}s",
        "jit": "off",  # with stale statistics it compiled for 26 ms what then ran for 3
        "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_SECONDS}s",
    }
    return ", ".join(f"set_config('{name}', '{value}', {local})" for name, value in settings.items())


# behind a pooler each transaction sets itself up
BEGIN_POOLED = (sa.text("BEGIN ISOLATION LEVEL READ COMMITTED"), sa.text(f"SELECT {settings_of_session('true')}"))


def _send_singly(raw: Any, queue: list[Result]) -> None:
    """sqlite3: there is no way to travel."""
    for result in queue:
        result.take(raw.execute(result.statement.text, result.parameters))


def _send_packet(raw: Any, queue: list[Result]) -> None:
    """PyMySQL: all statements in one packet, which the server leaves at the first that fails."""
    with raw.cursor() as cursor:
        packet = [cursor.mogrify(_text("mysql", each.statement.text), dict(each.parameters)) for each in queue]
        raw.in_transaction |= queue[0].statement is BEGIN["mysql"]
        cursor.execute(";\n".join(packet))
        for number, result in enumerate(queue):
            if number:
                cursor.nextset()
            result.take(cursor)
    raw.in_transaction &= queue[-1].statement is not COMMIT


def _send_pipeline(raw: Any, queue: list[Result]) -> None:
    """psycopg: in pipeline mode, where the server skips what follows a statement that fails."""
    cursors = [raw.cursor() for _ in queue]
    texts = [_text("postgresql", each.statement.text) for each in queue]
    with raw.pipeline():
        for cursor, text, result in zip(cursors, texts, queue, strict=True):
            # BEGIN and its like gain nothing from being prepared
            cursor.execute(text, result.parameters, prepare=None if result.parameters else False)
    for cursor, result in zip(cursors, queue, strict=True):
        result.take(cursor)


SEND = {"sqlite": _send_singly, "mysql": _send_packet, "postgresql": _send_pipeline}


@lru_cache(maxsize=512)
def _text(family: str, text: str) -> str:
    """The statement as these two drivers want it: %(name)s for :name."""
    return str(sa.text(text).compile(dialect=_pyformat(family)))


@lru_cache
def _pyformat(family: str) -> sa.Dialect:
    if family == "mysql":
        from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

        return MySQLDialect_pymysql(paramstyle="pyformat")
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    return PGDialect_psycopg()  # type: ignore[no-untyped-call]
