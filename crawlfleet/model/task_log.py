"""cl_task_log: what bodies wrote to their log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from crawlfleet.core.db import Database
from crawlfleet.core.sql import json_batches, sql
from crawlfleet.core.transaction import Transaction
from crawlfleet.model.device_heartbeat import sweep


@dataclass(frozen=True, slots=True)
class StoredLine:
    """One line; `number` counts the lines of its run from 1, `level` is that of `logging`."""

    task_id: int
    assignment_id: int
    number: int
    logged_at: datetime
    level: int
    message: str


class TaskLogDAO:
    """The table of log lines."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def append(self, transaction: Transaction, lines: Iterable[StoredLine], perhaps_there: bool = False) -> None:
        """Store the lines; with `perhaps_there` those that are not there yet, as after a COMMIT without a reply."""
        columns = {
            "task_id": "int",
            "assignment_id": "int",
            "number": "int",
            "logged_at": "moment",
            "level": "int",
            "message": "text",
        }
        names = ", ".join(columns)
        picked = ", ".join(f"v.{name}" for name in columns)
        unless = (
            " WHERE NOT EXISTS (SELECT 1 FROM cl_task_log t WHERE t.task_id = v.task_id"
            " AND t.assignment_id = v.assignment_id AND t.number = v.number)"
        )
        statement = sql(
            f"INSERT INTO cl_task_log ({names}) SELECT {picked} FROM {self.db.dialect.rows(**columns)}"
            f"{unless if perhaps_there else ''}"
        )
        rows = [
            (line.task_id, line.assignment_id, line.number, line.logged_at, line.level, line.message) for line in lines
        ]
        for texts in json_batches(rows, transaction.dialect.batch_bytes):
            transaction.execute(statement, {"rows": texts})

    def sweep(self, older_than_days: float, now: datetime | None = None) -> int:
        """Delete lines older than so many days, in short transactions; how many."""
        return sweep(self.db, "cl_task_log", "logged_at", older_than_days, now)
