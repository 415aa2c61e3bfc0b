"""One database for everybody: engine, transactions with retry, and what kind of server it is.

`Database.write(work)` runs `work(transaction)` in one short transaction and repeats it after a deadlock, a busy
file, or a connection that broke before COMMIT. Only a COMMIT whose reply was lost is never repeated here: it may
have happened, and only the caller knows how to find out.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import registry
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from crawlfleet.core.clock import SYSTEM_CLOCK, Clock, pause
from crawlfleet.core.database_errors import AGAIN, Trouble, advice_of, code_of, trouble_of
from crawlfleet.core.database_url import CONNECT_SECONDS, read_url
from crawlfleet.core.errors import DatabaseRefused, DatabaseUnreachable, UsageError
from crawlfleet.core.sending import IDLE_TRANSACTION_SECONDS, LOCK_WAIT_SECONDS, settings_of_session
from crawlfleet.core.sql import SqlDialect
from crawlfleet.core.sqlite_file import SqliteFile
from crawlfleet.core.transaction import Reader, Transaction

log = logging.getLogger(__name__)
T = TypeVar("T")

OLDEST = {  # UPDATE FROM, JSON_TABLE, RETURNING
    "SQLite": (3, 35),
    "MariaDB": (10, 6),
    "MySQL": (8, 0, 4),
    "PostgreSQL": (12,),
}
ATTEMPTS = 8  # of one transaction that lost a deadlock or met a busy file
GIVE_UP_SECONDS = LOCK_WAIT_SECONDS  # ... but no further attempt after so long, as for a table that is locked
PING_AFTER_SECONDS = 10  # a connection that lay so long in the pool is tried before it is used
LOST = {Trouble.AWAY, Trouble.BROKEN}  # the connection is of no use any more
PASSING = {*LOST, Trouble.AGAIN, Trouble.SERVER}  # says nothing about the work, which may be done later


# By name: a dialect comes with all its drivers, 2 MB, so only that of the database in use is imported.
registry.register("mysql.quick", "crawlfleet.core.dialect_mysql", "QuickDialect")
registry.register("postgresql.quick", "crawlfleet.core.dialect_postgresql", "QuickDialect")


class Database:
    """A pool of connections to one database. Making one connects to nothing; `open` does."""

    def __init__(self, url: str, pool_size: int = 8, clock: Clock = SYSTEM_CLOCK) -> None:
        self.address = read_url(url)
        self.family, self.url = self.address.family, self.address.url
        self.clock = clock
        self.dialect = SqlDialect(self.family, clock)
        self.version = ""
        self._file = SqliteFile.of(self.address.url) if self.family == "sqlite" else None
        self.engine = self._make_engine(
            quick=True,
            pool_size=pool_size,
            max_overflow=4,
            pool_timeout=30,
            pool_recycle=1800,
            pool_use_lifo=True,  # one busy connection keeps its caches and plans; the others rest
        )
        event.listen(self.engine, "checkin", _note_use)
        event.listen(self.engine, "checkout", self._try_after_a_long_rest)
        self._singles = self._make_engine(quick=True, poolclass=sa.NullPool)
        self.plain = self._make_engine(quick=False, poolclass=sa.NullPool)

    def _make_engine(self, quick: bool, **options: Any) -> Engine:
        """An engine. A quick one commits each statement and makes few round trips; else it is what Alembic expects."""
        url = self.url
        if quick:
            options["isolation_level"] = "AUTOCOMMIT"
            if self.family != "sqlite":
                url = url.set(drivername=f"{self.family}+quick")
        elif self.family != "sqlite":
            options["isolation_level"] = "READ COMMITTED"
        try:
            engine = sa.create_engine(url, connect_args=self.address.arguments, **options)
        except ValueError as error:
            raise UsageError(f"database URL {self.name} has an option with a wrong value: {error}") from None
        # before SQLAlchemy's own listeners: those read defaults of the server, as how it quotes names
        event.listen(engine, "connect", self._on_connect, insert=True)
        if self.family == "postgresql":
            event.listen(engine, "do_connect", _connect_patiently)
        elif self.family == "mysql" and quick:
            event.listen(engine, "do_connect", _connect_for_packets)
        elif self.family == "sqlite" and not quick:
            event.listen(engine, "begin", _begin_immediate)
        return engine

    @property
    def name(self) -> str:
        """The address for people, without the password."""
        return self.address.name

    @property
    def product(self) -> str:
        """What people call the server; which of two it is shows when it is opened."""
        return self.dialect.product

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    def _on_connect(self, connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        if self.family == "sqlite":
            connection.isolation_level = None  # BEGIN is ours, see the listener
            cursor.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_SECONDS * 1000}")
            _write_ahead(cursor)
            # FULL, not NORMAL: what was acknowledged must outlive a power cut; batches keep it cheap
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
            if self._file is not None:
                self._file.opened()
        elif self.family == "postgresql":
            # Another process than the one that said hello: a pooler stands between, and each transaction may run in
            # another session. What we set must not stay in any of them.
            is_other = f"pg_backend_pid() <> {connection.info.backend_pid}"
            cursor.execute(f"SELECT {is_other}, {settings_of_session(is_other)}")
            if cursor.fetchone()[0]:
                self.dialect.pooled = True
                connection.prepare_threshold = None
            connection.commit()
        else:
            mariadb = "mariadb" in connection.get_server_info().lower()
            self.dialect.product = "MariaDB" if mariadb else "MySQL"  # here, too: not every pool is opened first
            settings = [
                f"{'tx' if mariadb else 'transaction'}_isolation = 'READ-COMMITTED'",  # the default takes gap locks
                "sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
                "time_zone = '+00:00'",
                f"innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}",
                f"lock_wait_timeout = {LOCK_WAIT_SECONDS}",  # for tables; a day by default
            ]
            if mariadb:  # MySQL has nothing like it
                settings.append(f"idle_transaction_timeout = {IDLE_TRANSACTION_SECONDS}")
            cursor.execute(
                "SET NAMES utf8mb4, "
                + ", ".join(f"SESSION {setting}" for setting in settings)
                # in the same round trip, where the driver lets us
                + ("; SELECT @@max_allowed_packet" if getattr(connection, "takes_packets", False) else "")
            )
            if cursor.nextset():
                self.dialect.statement_bytes = int(cursor.fetchone()[0])
        cursor.close()

    def _try_after_a_long_rest(self, connection: Any, record: Any, _proxy: object) -> None:
        """Ping a connection that rested long. The server may have restarted, and `read` cannot repeat its block."""
        used_at = record.info.get("used_at")
        if used_at is None or time.monotonic() - used_at < PING_AFTER_SECONDS:
            return
        try:
            self.engine.dialect.do_ping(connection)
        except self.driver_error:
            raise DisconnectionError from None

    @property
    def driver_error(self) -> type[Exception]:
        """What the driver raises when nothing stands between."""
        return self.engine.dialect.loaded_dbapi.Error

    def open(self, wait_seconds: float = 0) -> Database:
        """Connect and look at the server. Tries for `wait_seconds`, then raises DatabaseUnreachable.

        Raises DatabaseRefused for a server that is too old.
        """
        deadline = time.monotonic() + wait_seconds
        announced = False
        while True:
            try:
                with self.read() as reader:
                    self._look_at_server(reader)
                break
            except DatabaseUnreachable as error:
                left = deadline - time.monotonic()
                if left <= 0 or self.family == "sqlite":
                    raise
                if not announced:
                    log.warning("%s; trying for %.0f s", error, wait_seconds)
                    announced = True
                pause(min(0.5, left))
        log.info("%s connection pool created", self.product)
        return self

    def _look_at_server(self, reader: Reader) -> None:
        if self.family == "sqlite":
            reader.exec_driver_sql("SELECT COUNT(*) FROM sqlite_master")  # reads the file at last
            text = reader.exec_driver_sql("SELECT sqlite_version()").scalar_one()
        elif self.family == "postgresql":
            encoding = reader.exec_driver_sql("SHOW server_encoding").scalar_one()
            if isinstance(encoding, bytes) or encoding.upper() != "UTF8":
                name = encoding.decode() if isinstance(encoding, bytes) else encoding
                raise DatabaseRefused(
                    f"the database {self.name} has the encoding {name}, which cannot hold every text: create another"
                    f" one: CREATE DATABASE {self.url.database} ENCODING 'UTF8' TEMPLATE template0"
                )
            text = reader.exec_driver_sql("SELECT version()").scalar_one()
        else:
            text = reader.exec_driver_sql("SELECT version()").scalar_one()
        if self.family == "mysql":
            self.dialect.product = "MariaDB" if "mariadb" in text.lower() else "MySQL"
        elif self.family == "postgresql":
            text = text.split()[1]
        self.version = text
        numbers = tuple(int(part) for part in re.findall(r"\d+", text.removeprefix("5.5.5-"))[:3])
        if numbers < OLDEST[self.product]:
            oldest = ".".join(map(str, OLDEST[self.product]))
            raise DatabaseRefused(
                f"{self.product} {text} at {self.name} is too old: crawlfleet needs {oldest} or newer"
            )

    def close(self) -> None:
        """Give up all idle connections; the object stays usable."""
        self.engine.dispose()

    def connect(self) -> Connection:
        """A connection of its own, each statement by itself, that its caller keeps and closes; raises DBAPIError."""
        return self._singles.connect()

    @contextmanager
    def read(self, now: datetime | None = None) -> Iterator[Reader]:
        """A connection for reading, each statement by itself; raises DatabaseUnreachable.

        `now` takes the place of the database's clock.
        """
        try:
            with self._checkout(self.engine) as connection:
                reader = Reader(connection, self.dialect, self.clock, now)
                yield reader
                reader.send()
        except DBAPIError as error:
            trouble = trouble_of(self.family, error)
            if trouble not in PASSING:
                raise
            if trouble in LOST:
                self._forget_others(error)
            raise self.unreachable(error, trouble=trouble) from None

    def write(self, work: Callable[[Transaction], T], now: datetime | None = None, commit_at_once: bool = False) -> T:
        """The result of `work(transaction)` after it was committed.

        `work` may run several times; it must keep nothing from a run that did not commit. `now` takes the place of the
        database's clock.
        Raises DatabaseUnreachable, with `maybe_committed` set when the reply to COMMIT was lost. `commit_at_once`
        saves a round trip: COMMIT travels with the last statements, so a lost reply to those leaves the same doubt.
        """
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        reconnected = False
        for attempt in range(1, ATTEMPTS + 1):
            transaction: Transaction | None = None
            try:
                with self._checkout(self.engine) as connection, connection.begin() as held:
                    transaction = Transaction(connection, self.dialect, self.clock, now)
                    result = work(transaction)
                    transaction.commit(commit_at_once)
                    held.commit()  # nothing is left to commit, and no server is asked
                    return result
            except DBAPIError as error:
                committing = transaction is not None and transaction.committing
                trouble = trouble_of(self.family, error)
                if trouble in LOST:
                    self._forget_others(error)
                    # A connection from the pool may have died long ago: one more try with a new one.
                    if committing or reconnected:
                        raise self.unreachable(error, committing, trouble) from None
                    reconnected = True
                elif trouble not in PASSING:
                    raise
                elif trouble is Trouble.SERVER or attempt == ATTEMPTS or time.monotonic() > give_up_at:
                    raise self.unreachable(error, committing, trouble) from None
                else:
                    pause(random.uniform(0, 0.02 * 2**attempt))
        raise AssertionError("unreachable")

    @property
    def is_gone(self) -> bool:
        """Whether the SQLite file is no longer what was opened: what is written to it nobody will ever read."""
        return self._file is not None and self._file.trouble is not None

    @contextmanager
    def _checkout(self, engine: Engine) -> Iterator[Connection]:
        """A connection from the pool; whatever keeps us from getting one means that the database is away."""
        if self._file is not None and (trouble := self._file.trouble) is not None:
            raise DatabaseUnreachable(f"the file of the database {self.name} {trouble}")
        try:
            connection = engine.connect()
        except (DBAPIError, PoolTimeout, UnicodeError, self.driver_error) as error:
            raise self.unreachable(error) from None
        with connection:
            yield connection

    def _forget_others(self, error: DBAPIError) -> None:
        """Drop all idle connections. A server that turned read-only keeps them open, and each would fail anew."""
        if not error.connection_invalidated:  # else SQLAlchemy has done it
            self.engine.dispose()

    def is_away(self, error: DBAPIError) -> bool:
        """True when the server, not the statement, is the trouble."""
        return trouble_of(self.family, error) in LOST

    def is_missing_table(self, error: DBAPIError) -> bool:
        """True when a statement named a table that is not there."""
        if self.family == "sqlite":
            return "no such table" in str(error.orig)
        return code_of(error) == {"postgresql": "42P01", "mysql": 1146}[self.family]

    def unreachable(
        self, error: Exception, maybe_committed: bool = False, trouble: Trouble | None = None
    ) -> DatabaseUnreachable:
        """The error for people: which database, the cause, what to check; the password hidden.

        `trouble` is what a connection met that was there.
        """
        code = code_of(error)
        cause = str(getattr(error, "orig", None) or error)
        if isinstance(error, PoolTimeout):
            cause = "all connections of this process are busy"
        elif isinstance(error, UnicodeError):
            cause = "the host name or user cannot be sent"
        cause = self.address.hide_password(" ".join(cause.split()))
        advice = advice_of(self.family, code, trouble, cause, self.url.database)
        found = DatabaseUnreachable(f"cannot use the database {self.name}: {cause[:300]}: {advice}")
        found.maybe_committed, found.trouble = maybe_committed, trouble
        return found


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _write_ahead(cursor: Any) -> None:
    """Switch the file to WAL; when several open a new file at once SQLite may report it busy without waiting."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except Exception as error:
            if code_of(error) not in AGAIN["sqlite"] or time.monotonic() > deadline:
                raise
        pause(random.uniform(0, 0.02))


def _connect_patiently(_dialect: object, _record: object, arguments: Any, named: Any) -> Any:
    from crawlfleet.core.patience import PatientConnection

    return PatientConnection.connect(*arguments, **named)


def _connect_for_packets(_dialect: object, _record: object, arguments: Any, named: Any) -> Any:
    from crawlfleet.core.packets import PacketConnection

    return PacketConnection(*arguments, **named)


def _note_use(_connection: object, record: Any) -> None:
    record.info["used_at"] = time.monotonic()
