"""cl_task_assignment: one row per run of a task by one device; its id is the fencing token."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.model import schema
from crawlfleet.model.device_heartbeat import sweep

log = logging.getLogger(__name__)


class TaskAssignmentDAO:
    """The table of runs. They are opened by `claims.py` and ended by `gate.py`."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def init_table(self) -> None:
        """Tell that the table is there; `migrations.upgrade` made it."""
        log.info("Table %s initialized", schema.task_assignment.name)

    def of_task(self, task_id: int) -> list[dict[str, Any]]:
        """All runs of a task as dicts of their columns, oldest first."""
        table = schema.task_assignment
        query = sa.select(table).where(table.c.task_id == task_id).order_by(table.c.assigned_at, table.c.id)
        with self.db.read() as reader:
            return [dict(row) for row in reader.execute(query).mappings()]

    def sweep(self, older_than_days: float, now: datetime | None = None, most: int | None = None) -> int:
        """Delete runs that ended more than so many days ago; how many."""
        return sweep(self.db, "cl_task_assignment", "completed_at", older_than_days, now, most)
