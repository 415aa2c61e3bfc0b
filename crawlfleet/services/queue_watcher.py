"""Waking the scheduler as soon as the queue changes, with whatever the database offers.

SQLite: the data version of the file, which every commit moves (a look costs microseconds). PostgreSQL: LISTEN.
MySQL and MariaDB tell nothing: there the watcher looks at the heads of the lanes while the scheduler is hungry.
The watcher only hastens; without it the scheduler's intervals find everything, later.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from crawlfleet.core.db import Database
from crawlfleet.core.service import Service
from crawlfleet.model.claims import open_heads
from crawlfleet.model.signals import CHANNEL

SQLITE_LOOK_SECONDS = 0.04  # each wake-up of a thread costs 0.2 ms: more often would take 1 % of a core
PROBE_SECONDS = 0.15  # MySQL and MariaDB; a probe takes up to 1 ms of CPU: more often would take 1 % of a core
PROBE_SHARE = 0.02  # of the time may go into probing: a far database is asked less often
PACE_PROBES = 8  # the last so many tell how far the database is
LISTEN_SECONDS = 1.0  # one wait for a notification, so that stop is quick


class QueueWatcher(Service):
    """Calls `changed` when the queue may hold news; asks `hungry` first where asking costs something."""

    def __init__(
        self,
        db: Database,
        types: Collection[str],
        labels: Collection[str],
        hungry: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        super().__init__("queue_watcher", SQLITE_LOOK_SECONDS if db.family == "sqlite" else PROBE_SECONDS)
        self.db = db
        self._types = types
        self._labels = labels
        self._hungry = hungry
        self._changed = changed
        self._connection: sa.Connection | None = None
        self._version: Any = None
        self._wait = 0.0
        self._probe_seconds: deque[float] = deque(maxlen=PACE_PROBES)

    def next_wait(self) -> float:
        return self._wait

    def run_once(self) -> bool:
        """One look; True when there was news."""
        self._wait = self.interval
        try:
            news = {"sqlite": self._data_version, "postgresql": self._listen, "mysql": self._probe}[self.db.family]()
        except (DBAPIError, sqlite3.Error) as error:
            # The scheduler tells that the database is away; the watcher just comes back.
            self._close()
            if isinstance(error, DBAPIError) and not self.db.is_away(error):
                raise
            self._wait = 1.0
            return False
        if news:
            self._changed()
        return news

    def finish(self) -> None:
        """Close the connection."""
        self._close()

    def _open(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self.db.connect()
            if self.db.family == "postgresql":
                self._connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            self._changed()  # whatever happened while nobody listened
        return self._connection

    def _data_version(self) -> bool:
        driver = self._open().connection.driver_connection  # SQLAlchemy's own way would double what an idle node takes
        assert driver is not None
        former, self._version = self._version, driver.execute("PRAGMA data_version").fetchone()
        return bool(self._version != former)

    def _listen(self) -> bool:
        self._wait = 0.0
        driver = self._open().connection.driver_connection
        assert driver is not None
        try:
            return any(True for _ in driver.notifies(timeout=LISTEN_SECONDS, stop_after=1))
        except Exception:  # psycopg raises its own errors here, past SQLAlchemy; all mean that the connection broke
            self._close()
            self._wait = 1.0
            return False

    def _probe(self) -> bool:
        if not self._hungry():
            return False
        connection = self._open()
        began = time.monotonic()
        found = bool(open_heads(self.db, connection, self._types, self._labels))
        self._probe_seconds.append(time.monotonic() - began)
        # The fastest of the last ones: a slow one waited for a busy machine, and new tasks must not wait for it, too.
        self._wait = max(self.interval, min(self._probe_seconds) / PROBE_SHARE)
        return found

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
