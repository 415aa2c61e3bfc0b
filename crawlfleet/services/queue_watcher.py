"""Waking the scheduler as soon as the queue changes, with whatever the database offers.

SQLite: the data version of the file, which every commit moves; Linux tells when somebody writes to the file, elsewhere
it is looked at now and then. PostgreSQL: LISTEN. MySQL and MariaDB tell nothing, nor does PostgreSQL through a pooler:
there the watcher looks for work while the scheduler is hungry.
The watcher only hastens; without it the scheduler's intervals find everything, later.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from crawlfleet.core.db import Database
from crawlfleet.core.service import Service
from crawlfleet.core.transaction import Reader, Statements
from crawlfleet.core.wakeup import Wakeup
from crawlfleet.model.signals import CHANNEL

SQLITE_LOOK_SECONDS = 0.04  # each wake-up of a thread costs 0.2 ms: more often would take 1 % of a core
FIRST_LOOK_SECONDS = 0.001  # after a write to the file: its commit shows when the disk has it
LAST_LOOK_SECONDS = 1.0  # the looks grow rarer, until a write must have been no commit
REST_SECONDS = 0.01  # between two news of a file that is written to all the time
PROBE_SECONDS = 0.15  # MySQL and MariaDB; a probe takes up to 1 ms of CPU: more often would take 1 % of a core
PROBE_SHARE = 0.02  # of the time may go into probing: a far database is asked less often
PACE_PROBES = 8  # the last so many tell how far the database is
LISTEN_SECONDS = 10.0  # one wait for what the database or the kernel tells


class QueueWatcher(Service):
    """Calls `changed` when the queue may hold news; asks `hungry` first, and then to `look`, where only that tells."""

    def __init__(
        self,
        db: Database,
        look: Callable[[Statements], bool],
        hungry: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        super().__init__("queue_watcher", SQLITE_LOOK_SECONDS if db.family == "sqlite" else PROBE_SECONDS)
        self.db = db
        self._look = look
        self._hungry = hungry
        self._changed = changed
        self._connection: sa.Connection | None = None
        self._version: Any = None
        self._file: Any = None  # tells of writes to the SQLite file, where the kernel does
        self._wakeup = Wakeup()
        self._wait = 0.0
        self._probe_seconds: deque[float] = deque(maxlen=PACE_PROBES)

    def next_wait(self) -> float:
        return self._wait

    def stop(self) -> None:
        super().stop()
        self._wakeup.wake()

    def run_once(self) -> bool:
        """One look; True when there was news."""
        self._wait = self.interval
        try:
            news = self._probe() if self.db.dialect.pooled else self._of_family()
        except (DBAPIError, self.db.driver_error) as error:  # the driver's own where it is asked past SQLAlchemy
            # The scheduler tells that the database is away; the watcher just comes back.
            self._close()
            if isinstance(error, DBAPIError) and not self.db.is_away(error):
                raise
            self._wait = 1.0
            return False
        if news:
            self._changed()
        return news

    def _of_family(self) -> bool:
        return {"sqlite": self._watch_file, "postgresql": self._listen, "mysql": self._probe}[self.db.family]()

    def finish(self) -> None:
        """Close the connection."""
        self._close()

    def _open(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self.db.connect()
            if self.db.family == "postgresql" and not self.db.dialect.pooled:
                self._connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            elif self.db.family == "sqlite":
                self._file = writes_to(f"{self.db.url.database}-wal")
            self._changed()  # whatever happened while nobody listened
        return self._connection

    def _watch_file(self) -> bool:
        """Wait for a write, then look until it is committed."""
        driver = self._open().connection.driver_connection  # SQLAlchemy's own way would double what an idle node takes
        if self._file is None:
            return self._data_version(driver)
        self._wait = 0.0
        if self._data_version(driver):
            self._wait = REST_SECONDS
            return True
        if not self._written_within(LISTEN_SECONDS):
            return False
        pause = FIRST_LOOK_SECONDS
        while pause < LAST_LOOK_SECONDS and not self.stopping:
            if self._data_version(driver):
                self._wait = REST_SECONDS
                return True
            pause = FIRST_LOOK_SECONDS if self._written_within(pause) else pause * 1.5
        return False

    def _written_within(self, seconds: float) -> bool:
        """Whether somebody writes to the file during this wait, or has since the last one."""
        self._wakeup.wait(seconds, [self._file.fileno()])
        return bool(self._file.read(timeout=0))

    def _data_version(self, driver: Any) -> bool:
        former, self._version = self._version, driver.execute("PRAGMA data_version").fetchone()
        return bool(self._version != former)

    def _listen(self) -> bool:
        self._wait = 0.0
        driver = self._open().connection.driver_connection
        assert driver is not None
        try:
            self._wakeup.wait(LISTEN_SECONDS, [driver.fileno()])
            return any(True for _ in driver.notifies(timeout=0))
        except Exception:  # psycopg raises its own errors here, past SQLAlchemy; all mean that the connection broke
            self._close()
            self._wait = 1.0
            return False

    def _probe(self) -> bool:
        if not self._hungry():
            return False
        question = Reader(self._open(), self.db.dialect, self.db.clock)
        began = self.db.clock.monotonic()
        found = self._look(question)
        self._probe_seconds.append(self.db.clock.monotonic() - began)
        # The fastest of the last ones: a slow one waited for a busy machine, and new tasks must not wait for it, too.
        self._wait = max(self.interval, min(self._probe_seconds) / PROBE_SHARE)
        return found

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


def writes_to(path: str) -> Any:
    """What tells of writes to the file, an `INotify`; None where the system has no such thing, or no more of them."""
    if sys.platform != "linux":
        return None
    from inotify_simple import INotify, flags

    notes = INotify(nonblocking=True)
    try:
        notes.add_watch(path, flags.MODIFY)
    except OSError:
        notes.close()
        return None
    return notes
