"""Keeping what bodies write to `context.log`: gathered for a second, then stored in short transactions by a thread.

Nothing waits for it. While the database is away the lines wait in a buffer of bounded size, the oldest give way, and
one line of the node's log says how many were lost. A node that is killed loses the last second.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from crawlfleet.core.backoff import Backoff
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.logs import redact
from crawlfleet.core.printable import printable
from crawlfleet.core.service import Service
from crawlfleet.core.transaction import Transaction
from crawlfleet.model.task_log import StoredLine, TaskLogDAO

log = logging.getLogger(__name__)

GATHER_SECONDS = 1.0  # from a line to its transaction: how late a reader sees it
IDLE_SECONDS = 60.0
BATCH_LINES, BATCH_BYTES = 500, 256 * 1024  # of one transaction: a few ms on SQLite, where it holds up other writers
BUFFER_LINES, BUFFER_BYTES = 10_000, 8 * 1024 * 1024  # that wait for the database
REST_FACTOR = 4  # with more to store: a pause of so many times the last transaction, so that others come in between
STOP_SECONDS = 2.0  # how long a stopping node stores what is left
READ_FACTOR = 10  # a line is read so many times as far as it is kept: what is hidden in it may make it shorter


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """A line that is not stored yet; `at` is a moment of the monotonic clock."""

    task_id: int
    assignment_id: int
    number: int
    at: float
    level: int
    message: str

    @property
    def size(self) -> int:
        """Bytes that it costs, more or less."""
        return len(self.message) + 200


class TaskLogWriter(Service):
    """Stores the lines of this node's runs: at most `lines_per_run` of each, cut at `line_bytes`.

    `kept` and `dropped` count lines since the start.
    """

    def __init__(self, db: Database, lines_per_run: int, line_bytes: int) -> None:
        super().__init__("task_logs", IDLE_SECONDS)
        self.db = db
        self.kept = 0
        self.dropped = 0
        self._lines_per_run = lines_per_run
        self._line_bytes = line_bytes
        self._dao = TaskLogDAO(db)
        self._buffer_lock = threading.Lock()
        self._buffer: deque[WaitingLine] = deque()
        self._buffer_bytes = 0
        self._batch: list[WaitingLine] = []  # taken out of the buffer, not surely stored yet
        self._perhaps_stored = False  # the reply to the batch's COMMIT was lost
        self._away = Backoff()
        self._not_before = 0.0  # monotonic; of the next transaction
        self._noted = 0  # of `dropped`, in the node's log

    def of_run(self, task_id: int, assignment_id: int) -> Callable[[logging.LogRecord], None] | None:
        """What takes the records of one run, from any thread; None when no lines are kept."""
        limit = self._lines_per_run
        if limit == 0:
            return None
        numbers = itertools.count(1)

        def keep(record: logging.LogRecord) -> None:
            number = next(numbers)
            if number > limit:
                return
            text = self._text(record)
            if number == limit:
                text = f"task_log_lines is {limit}: what this run says from here on is only in its node's log"
            self._put(WaitingLine(task_id, assignment_id, number, self.db.clock.monotonic(), record.levelno, text))

        return keep

    def _text(self, record: logging.LogRecord) -> str:
        """The line as it is stored: no secrets, printable but for tabs and line ends; a long one loses its
        middle."""
        text = record.getMessage()[: READ_FACTOR * self._line_bytes]
        if record.exc_text:
            text = f"{text}\n{record.exc_text[: READ_FACTOR * self._line_bytes]}"
        found = printable(redact(text), keep="\n\t").encode("utf-8", "replace")
        if len(found) <= self._line_bytes:
            return found.decode()
        head = self._line_bytes // 3  # what a traceback is about stands at its end
        tail = self._line_bytes - head - len("…".encode())
        return found[:head].decode(errors="ignore") + "…" + found[-tail:].decode(errors="ignore")

    def _put(self, line: WaitingLine) -> None:
        with self._buffer_lock:
            self._buffer.append(line)
            self._buffer_bytes += line.size
            while len(self._buffer) > BUFFER_LINES or self._buffer_bytes > BUFFER_BYTES:
                self._buffer_bytes -= self._buffer.popleft().size
                self.dropped += 1
            waiting = len(self._buffer)
        if waiting in {1, BATCH_LINES}:
            self.wake()

    def next_wait(self) -> float:
        with self._buffer_lock:
            if self._batch or len(self._buffer) >= BATCH_LINES:
                at = self._not_before
            elif self._buffer:
                at = max(self._not_before, self._buffer[0].at + GATHER_SECONDS)
            else:
                return IDLE_SECONDS
        return at - self.db.clock.monotonic()

    def run_once(self) -> int:
        """Store a batch when it is time; how many lines."""
        return self._store() if self.next_wait() <= 0 else 0

    def finish(self) -> None:
        """Store what is left, for a short time."""
        deadline = self.db.clock.monotonic() + STOP_SECONDS
        try:
            while (self._batch or self._buffer) and self._away.failures == 0 and self.db.clock.monotonic() < deadline:
                self._store()
        except Exception as error:  # nobody would catch it
            log.error("task log lines could not be stored: %s", error)
        with self._buffer_lock:
            self.dropped += len(self._batch) + len(self._buffer)
            self._buffer.clear()
        self._note_dropped()

    def _store(self) -> int:
        self._fill_batch()
        began = self.db.clock.monotonic()
        try:
            self.db.write(self._write, commit_at_once=True)
        except DatabaseUnreachable as error:  # the scheduler and the heartbeat tell
            self._perhaps_stored = self._perhaps_stored or error.maybe_committed
            self._not_before = self.db.clock.monotonic() + self._away.next()
            return 0
        except (SQLAlchemyError, ValueError):  # it would refuse the batch again
            self.dropped += len(self._batch)
            self._batch, self._perhaps_stored = [], False
            raise
        stored = len(self._batch)
        self.kept += stored
        self._batch, self._perhaps_stored = [], False
        self._away.reset()
        here = self.db.clock.monotonic()
        self._not_before = here + REST_FACTOR * (here - began)
        if not self._buffer:
            self._note_dropped()
        return stored

    def _fill_batch(self) -> None:
        if self._batch:  # the one that failed
            return
        with self._buffer_lock:
            size = 0
            while self._buffer and len(self._batch) < BATCH_LINES and size < BATCH_BYTES:
                line = self._buffer.popleft()
                self._buffer_bytes -= line.size
                size += line.size
                self._batch.append(line)

    def _write(self, transaction: Transaction) -> None:
        date = transaction.reading.earliest_date
        lines = [
            StoredLine(each.task_id, each.assignment_id, each.number, date(each.at), each.level, each.message)
            for each in self._batch
        ]
        self._dao.append(transaction, lines, self._perhaps_stored)

    def _note_dropped(self) -> None:
        if self.dropped > self._noted:
            log.warning(
                "task log lines lost, the oldest that waited for the database: lines=%d", self.dropped - self._noted
            )
            self._noted = self.dropped
