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
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, RowMapping
from sqlalchemy.exc import DBAPIError

from crawlfleet.core.clock import SYSTEM_CLOCK, Clock, ClockReading
from crawlfleet.core.database_errors import VALUE_ERRORS, condemns
from crawlfleet.core.errors import StatementTooLarge
from crawlfleet.core.sending import BEGIN, BEGIN_POOLED, COMMIT, SEND
from crawlfleet.core.sql import SqlDialect, sql, utc

MAX_PACKET_BYTES = 1024 * 1024  # of queued statements; of one alone as much as the database takes
LARGE_CHARACTERS = 10_000  # of a parameter, from which on its size is counted and not guessed
ESCAPED = ("'", '"', "\\", "\n", "\r", "\0", "\x1a")  # characters that become two on their way to MySQL
SAVEPOINT = sa.text("SAVEPOINT stored")
RELEASE = sa.text("RELEASE SAVEPOINT stored")
ROLLBACK_TO = sa.text("ROLLBACK TO SAVEPOINT stored")


T = TypeVar("T")
U = TypeVar("U")


class Answer(Generic[T]):
    """A value that was asked of the database. `read` returns it, and sends what is queued where it must."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read: Callable[[], T] | None = read
        self._value: T

    @staticmethod
    def of(value: U) -> Answer[U]:
        """An answer whose value is known already; nothing is sent."""
        return Answer(lambda: value)

    def read(self) -> T:
        """The value. It is fetched once, however often this is called."""
        if self._read is not None:
            self._value = self._read()
            self._read = None
        return self._value

    def map(self, make: Callable[[T], U]) -> Answer[U]:
        """An answer whose value is `make` of this one's; made when it is read."""
        return Answer(lambda: make(self.read()))


class Rows(Generic[T]):
    """Rows with the methods of SQLAlchemy's results. Those take longer to make than to read, so we make our own."""

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


class Result:
    """The database's reply to one statement; reading it sends what is queued.

    `asked_at` and `answered_at` are moments of the monotonic clock, known once the reply has come.
    """

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
        self.asked_at = self.answered_at = 0.0

    def take(self, result: Any) -> None:
        """Take the reply out of a driver's cursor that stands at this statement's result."""
        if result.description is not None:
            self._columns = [column[0] for column in result.description]
            self._rows = result.fetchall()
        self._rowcount = result.rowcount
        self._lastrowid = getattr(result, "lastrowid", None)
        self._come = True
        if self._must_change is not None and self._rowcount != self._must_change:
            raise AssertionError(f"changed {self._rowcount} rows instead of {self._must_change}: {self.statement.text}")

    def map(self, make: Callable[[Result], U]) -> Answer[U]:
        """An answer whose value is `make` of this result; made when it is read."""
        return Answer(lambda: make(self))

    def read_clock(self, now: Any) -> ClockReading:
        """The reading of the database's clock that this result brought in one of its columns."""
        self._tuples()
        moment = utc(now)
        assert moment is not None
        return ClockReading(moment, self.asked_at, self.answered_at)

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
    """Queues statements for a connection in autocommit mode and sends several together.

    It goes past SQLAlchemy, which takes as much time for a short question as the driver itself.
    """

    def __init__(
        self, connection: Connection, dialect: SqlDialect, clock: Clock = SYSTEM_CLOCK, now: datetime | None = None
    ) -> None:
        self.dialect = dialect
        self._clock = clock
        self._reading = None if now is None else ClockReading(now, clock.monotonic(), clock.monotonic())
        self._asked_reading: Answer[ClockReading] | None = None
        self._connection = connection
        self._queue: list[Result] = []
        self._queued_bytes = 0

    @property
    def reading(self) -> ClockReading:
        """The first reading of the database's clock: asked for here, or brought by a statement that read it anyway."""
        if self._reading is None:
            self._reading = (self._asked_reading or self.ask_clock()).read()
        return self._reading

    def take_reading(self, reading: ClockReading) -> None:
        """Use a reading that another statement brought, unless there is one already."""
        self._reading = self._reading or reading

    @property
    def now(self) -> datetime:
        """The moment of all that is written here, by the database's clock."""
        return self.reading.now

    def ask_reading(self) -> None:
        """Queue the question for the reading now, so that it needs no round trip of its own."""
        if self._reading is None and self._asked_reading is None:
            self._asked_reading = self.ask_clock()

    def ask_clock(self) -> Answer[ClockReading]:
        """Ask for the database's clock, whatever was read before."""
        return self.execute(sql(f"SELECT {self.dialect.now}")).map(
            lambda result: result.read_clock(result.scalar_one())
        )

    def execute(self, statement: sa.TextClause, parameters: Mapping[str, Any] | None = None) -> Result:
        """Queue a statement; parameters are text, numbers or None. Raises StatementTooLarge."""
        parameters = parameters or {}
        texts = [each for each in parameters.values() if isinstance(each, str)]
        size = len(statement.text) + sum(_size(self.dialect.family, each) for each in texts)
        if size > self.dialect.statement_bytes:
            raise StatementTooLarge(size, self.dialect.statement_bytes, self.dialect.limit_name)
        if self._queued_bytes + size > min(MAX_PACKET_BYTES, self.dialect.statement_bytes // 4):
            self.send()
        self._queued_bytes += size
        result = Result(statement, parameters, self.send)
        self._queue.append(result)
        return result

    def send(self) -> None:
        """Send what is queued; raises DBAPIError for the first statement that fails, and none after it is executed."""
        queue, self._queue, self._queued_bytes = self._queue, [], 0
        if not queue:
            return
        asked_at = self._clock.monotonic()
        self._guarded(queue, SEND[self.dialect.family])
        answered_at = self._clock.monotonic()
        for result in queue:
            result.asked_at, result.answered_at = asked_at, answered_at

    def _guarded(self, queue: list[Result], send: Callable[[Any, list[Result]], None]) -> None:
        """Send; raise the driver's errors as SQLAlchemy would raise them."""
        raw = self._connection.connection.driver_connection
        dialect = self._connection.dialect
        driver_error = dialect.loaded_dbapi.Error
        try:
            send(raw, queue)
        except driver_error as error:
            gone = dialect.is_disconnect(error, raw, None)
            if gone:
                self._connection.invalidate(error)
            texts = "; ".join(dict.fromkeys(result.statement.text for result in queue))
            raise DBAPIError.instance(
                texts, None, error, driver_error, connection_invalidated=gone, dialect=dialect
            ) from error


class Transaction(Statements):
    """One open transaction; made by `Database.write`, which also commits it."""

    def __init__(
        self, connection: Connection, dialect: SqlDialect, clock: Clock = SYSTEM_CLOCK, now: datetime | None = None
    ) -> None:
        super().__init__(connection, dialect, clock, now)
        for statement in BEGIN_POOLED if dialect.pooled else (BEGIN[dialect.family],):
            self.execute(statement)
        self.committing = False  # from here on nobody can tell whether a statement without an answer was executed

    def execute_ahead(self, statement: sa.TextClause, parameters: Mapping[str, Any] | None = None) -> None:
        """Execute a statement on SQLite before the transaction begins, so that nobody waits for it."""
        assert self.dialect.family == "sqlite", "a server has many writers"
        assert self._queue[0].statement is BEGIN["sqlite"], "it has begun"
        self._guarded([Result(statement, parameters or {}, self.send)], SEND["sqlite"])

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Send what the block queues when the block ends. An error of its values undoes the block and is raised."""
        mark = self.execute(SAVEPOINT)
        try:
            yield
            self.execute(RELEASE)
            self.send()
        except (DBAPIError, *VALUE_ERRORS) as error:
            if not condemns(self.dialect.family, error):
                raise
            del self._queue[self._queue.index(mark) + 1 if mark in self._queue else 0 :]
            self.execute(ROLLBACK_TO)
            raise

    def commit(self, at_once: bool) -> None:
        """Send what is queued, then COMMIT. With `at_once` they travel together."""
        if not at_once:
            self.send()
        self.committing = True
        if self.dialect.family == "postgresql" and self._queue and self._queue[0].statement is BEGIN["postgresql"]:
            del self._queue[0]  # nothing was sent before, and a pipeline by itself is a transaction, too
        else:
            self.execute(COMMIT)
        self.send()


class Reader(Statements):
    """A connection for reading, each statement by itself; made by `Database.read`."""

    def send(self) -> None:
        """Send what is queued. Behind a pooler that is a transaction, since only there the time zone is ours."""
        if self._queue and self.dialect.pooled:
            frame = [Result(each, {}, self.send) for each in (*BEGIN_POOLED, COMMIT)]
            self._queue = [*frame[:-1], *self._queue, frame[-1]]
        super().send()

    @overload
    def execute(self, statement: sa.TextClause, parameters: Mapping[str, Any] | None = None) -> Result: ...
    @overload
    def execute(
        self, statement: sa.Select[*tuple[Any, ...]], parameters: Mapping[str, Any] | None = None
    ) -> CursorResult[*tuple[Any, ...]]: ...
    def execute(
        self, statement: sa.TextClause | sa.Select[*tuple[Any, ...]], parameters: Mapping[str, Any] | None = None
    ) -> Result | CursorResult[*tuple[Any, ...]]:
        """The result of a statement: of a text as `Statements.execute`, of a query of SQLAlchemy's at once."""
        if isinstance(statement, sa.TextClause):
            return super().execute(statement, parameters)
        return self._connection.execute(statement, parameters)

    def exec_driver_sql(self, statement: str) -> CursorResult[*tuple[Any, ...]]:
        """The result of a text that only this kind of database knows."""
        return self._connection.exec_driver_sql(statement)


AnyRow = RowMapping | dict[str, Any]  # by the names of its columns


def _size(family: str, text: str) -> int:
    """Bytes that a parameter takes on its way; of a small one up to four times as many."""
    if len(text) < LARGE_CHARACTERS:
        return len(text)
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size + sum(map(text.count, ESCAPED)) if family == "mysql" else size
