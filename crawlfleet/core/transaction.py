"""A transaction that sends its statements together: a database may be far away, and each round trip counts.

`execute` only queues a statement. All that is queued travels when somebody reads an answer, and the rest with COMMIT,
so statements whose answers nobody waits for cost no round trip of their own, and those that are asked before the
first answer is read share one:

    first = transaction.execute(...)
    second = transaction.execute(...)
    first.one()                         # one round trip brings both

The order of the statements is kept. An error of a statement shows when it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import DBAPIError

MAX_PACKET_BYTES = 1024 * 1024  # of queued parameters; servers refuse packets that are too large
BEGIN = {
    "sqlite": sa.text("BEGIN IMMEDIATE"),  # a reader that starts to write later could deadlock with another
    "mysql": sa.text("BEGIN"),
    "postgresql": sa.text("BEGIN"),
}
COMMIT = sa.text("COMMIT")
SAVEPOINT = sa.text("SAVEPOINT stored")
RELEASE = sa.text("RELEASE SAVEPOINT stored")
ROLLBACK_TO = sa.text("ROLLBACK TO SAVEPOINT stored")


T = TypeVar("T")


class Rows(Generic[T]):
    """What an answer consists of; the same words as SQLAlchemy's results, which take longer to make than to read."""

    def __init__(self, rows: Sequence[T]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[T]:
        return iter(self._rows)

    def all(self) -> list[T]:
        return list(self._rows)

    def first(self) -> T | None:
        return self._rows[0] if self._rows else None

    def one(self) -> T:
        (row,) = self._rows
        return row


class Answer:
    """What the database says to one statement; reading it sends what is queued."""

    def __init__(self, statement: sa.TextClause, parameters: Mapping[str, Any], send: Callable[[], None]) -> None:
        self.statement = statement
        self.parameters = parameters
        self._send = send
        self._come = False
        self._must_change: int | None = None
        self._columns: list[str] = []
        self._rows: Sequence[Any] = ()
        self._rowcount = -1
        self._lastrowid: Any = None

    def take(self, result: Any) -> None:
        """Called when it has come, with a driver's cursor that stands at this statement's result."""
        if result.description is not None:
            self._columns = [column[0] for column in result.description]
            self._rows = result.fetchall()
        self._rowcount = result.rowcount
        self._lastrowid = getattr(result, "lastrowid", None)
        self._come = True
        if self._must_change is not None and self._rowcount != self._must_change:
            raise AssertionError(f"changed {self._rowcount} rows instead of {self._must_change}: {self.statement.text}")

    def must_change(self, count: int) -> None:
        """Raise AssertionError, when the statement has been sent, if it changed another number of rows."""
        self._must_change = count

    def _tuples(self) -> Rows[tuple[Any, ...]]:
        if not self._come:
            self._send()
        return Rows(self._rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._tuples())

    def all(self) -> list[tuple[Any, ...]]:
        return self._tuples().all()

    def first(self) -> tuple[Any, ...] | None:
        return self._tuples().first()

    def one(self) -> tuple[Any, ...]:
        return self._tuples().one()

    def scalar(self) -> Any:
        row = self.first()
        return None if row is None else row[0]

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalars(self) -> Rows[Any]:
        """The first column."""
        return Rows([row[0] for row in self._tuples()])

    def mappings(self) -> Rows[dict[str, Any]]:
        """Each row by the names of its columns."""
        rows = self._tuples()
        return Rows([dict(zip(self._columns, row, strict=True)) for row in rows])

    @property
    def rowcount(self) -> int:
        """Rows that the statement found or changed."""
        self._tuples()
        return self._rowcount

    @property
    def lastrowid(self) -> Any:
        self._tuples()
        return self._lastrowid


class Statements:
    """What is asked of a connection in autocommit mode: several together, and past SQLAlchemy, which for a short
    question takes as much time as its driver."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._family = connection.dialect.name
        self._queue: list[Answer] = []
        self._queued_bytes = 0

    def execute(self, statement: sa.TextClause, parameters: Mapping[str, Any] | None = None) -> Answer:
        """Queue a statement; parameters are text, numbers or None."""
        parameters = parameters or {}
        size = len(statement.text) + sum(len(each) for each in parameters.values() if isinstance(each, str))
        if self._queued_bytes + size > MAX_PACKET_BYTES:
            self.send()
        self._queued_bytes += size
        answer = Answer(statement, parameters, self.send)
        self._queue.append(answer)
        return answer

    def send(self) -> None:
        """Send what is queued; raises DBAPIError for the first statement that fails, and none after it is executed."""
        queue, self._queue, self._queued_bytes = self._queue, [], 0
        if not queue:
            return
        if self._family == "sqlite":
            self._guarded(queue, _send_singly)
        elif self._family == "postgresql":
            self._guarded(queue, _send_pipeline)
        else:
            self._guarded(queue, _send_packet)

    def _guarded(self, queue: list[Answer], send: Callable[[Any, list[Answer]], None]) -> None:
        """Errors of the driver become those that SQLAlchemy would raise."""
        raw = self._connection.connection.driver_connection
        dialect = self._connection.dialect
        driver_error = dialect.loaded_dbapi.Error
        try:
            send(raw, queue)
        except driver_error as error:
            gone = dialect.is_disconnect(error, raw, None)
            if gone:
                self._connection.invalidate(error)
            texts = "; ".join(dict.fromkeys(answer.statement.text for answer in queue))
            raise DBAPIError.instance(
                texts, None, error, driver_error, connection_invalidated=gone, dialect=dialect
            ) from error


class Transaction(Statements):
    """One open transaction; made by `Database.write`, which also commits it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.execute(BEGIN[self._family])
        self.committing = False  # from here on nobody can tell whether a statement without an answer was executed

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What the block queues is sent with its end; an error of its values undoes the block and is raised."""
        mark = self.execute(SAVEPOINT)
        try:
            yield
            self.execute(RELEASE)
            self.send()
        except (sa.exc.DataError, sa.exc.IntegrityError, ValueError):
            del self._queue[self._queue.index(mark) + 1 if mark in self._queue else 0 :]
            self.execute(ROLLBACK_TO)
            raise

    def commit(self, at_once: bool) -> None:
        """Send what is queued, then COMMIT; `at_once` together."""
        if not at_once:
            self.send()
        self.committing = True
        if self._family == "postgresql" and self._queue and self._queue[0].statement is BEGIN["postgresql"]:
            del self._queue[0]  # nothing was sent before, and a pipeline by itself is a transaction, too
        else:
            self.execute(COMMIT)
        self.send()


AnyRow = RowMapping | dict[str, Any]  # by the names of its columns
AnyConnection = Connection | Statements  # for statements that are of use in a transaction and for a look


def _send_singly(raw: Any, queue: list[Answer]) -> None:
    """sqlite3: there is no way to travel."""
    for answer in queue:
        answer.take(raw.execute(answer.statement.text, answer.parameters))


def _send_packet(raw: Any, queue: list[Answer]) -> None:
    """PyMySQL: all statements in one packet, which the server leaves at the first that fails."""
    with raw.cursor() as cursor:
        packet = [cursor.mogrify(_text("mysql", each.statement.text), dict(each.parameters)) for each in queue]
        raw.in_transaction |= queue[0].statement is BEGIN["mysql"]
        cursor.execute(";\n".join(packet))
        for number, answer in enumerate(queue):
            if number:
                cursor.nextset()
            answer.take(cursor)
    raw.in_transaction &= queue[-1].statement is not COMMIT


def _send_pipeline(raw: Any, queue: list[Answer]) -> None:
    """psycopg: in pipeline mode, where the server skips what follows a statement that fails."""
    cursors = [raw.cursor() for _ in queue]
    texts = [_text("postgresql", each.statement.text) for each in queue]
    with raw.pipeline():
        for cursor, text, answer in zip(cursors, texts, queue, strict=True):
            # BEGIN and its like gain nothing from being prepared
            cursor.execute(text, answer.parameters, prepare=None if answer.parameters else False)
    for cursor, answer in zip(cursors, queue, strict=True):
        answer.take(cursor)


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
