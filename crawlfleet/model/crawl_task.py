"""cl_crawl_task: adding tasks and reading them. Their moves are in `claims.py`, `gate.py` and `rescue.py`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError
from crawlfleet.core.sql import json_rows, sql
from crawlfleet.core.transaction import Answer, Transaction
from crawlfleet.model import audit, schema, signals
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import TaskStatus
from crawlfleet.model.task_insert import Added, TaskDefaults, add_alike, add_tasks, are_alike
from crawlfleet.model.task_spec import TaskSpec

log = logging.getLogger(__name__)


class CrawlTaskDAO:
    """The queue's table. Every method takes a connection inside its caller's transaction, or opens one."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def init_table(self) -> None:
        """Tell that the table is there; `migrations.upgrade` made it."""
        log.info("Table %s initialized", schema.crawl_task.name)

    def add(
        self,
        specs: Iterable[TaskSpec],
        defaults: TaskDefaults | None = None,
        now: datetime | None = None,
        actor: str | None = None,
    ) -> list[int]:
        """Queue the tasks as `queue` does; their ids, in the order of the specs."""
        return self.queue(specs, defaults, now, actor).ids

    def queue(
        self,
        specs: Iterable[TaskSpec],
        defaults: TaskDefaults | None = None,
        now: datetime | None = None,
        actor: str | None = None,
    ) -> Added:
        """Queue the tasks in one transaction and wake the schedulers.

        A spec whose `unique_key` is open already gives the id of the task that holds it.
        """
        batch = list(specs)
        defaults = defaults or TaskDefaults()
        if now is None and actor is None and are_alike(batch, self.db.dialect):
            ids = self.db.write(lambda transaction: add_alike(transaction, batch, defaults), commit_at_once=True).read()
            if ids:
                return Added(ids, {})

        def work(transaction: Transaction) -> Answer[Added]:
            transaction.ask_reading()
            ledger = Ledger(transaction)
            added = add_tasks(ledger, batch, defaults)
            ledger.close()
            if batch and actor is not None:
                span = {"first_id": min(added.read().ids), "last_id": max(added.read().ids)}
                audit.record(transaction, actor, "tasks.add", tasks=len(batch), **span)
            signals.tasks_changed(transaction)
            return added

        for _ in range(3):
            try:
                return self.db.write(work, now, commit_at_once=True).read()
            except sa.exc.IntegrityError as error:  # another writer opened one of the keys after we looked
                raced = error
        raise CrawlfleetError("others keep opening the unique keys of these tasks: try again") from raced

    def get(self, task_id: int) -> dict[str, Any] | None:
        """One task as a dict of its columns, or None."""
        with self.db.read() as reader:
            row = (
                reader.execute(sa.select(schema.crawl_task).where(schema.crawl_task.c.id == task_id)).mappings().first()
            )
        return None if row is None else dict(row)

    def states(self, task_ids: Iterable[int]) -> dict[int, str]:
        """The state of each of these tasks; ids of no task are missing."""
        query = sql(f"SELECT t.id, t.status FROM cl_crawl_task t JOIN {self.db.dialect.rows(k='int')} ON t.id = v.k")
        with self.db.read() as reader:
            rows = reader.execute(query, {"rows": json_rows([task_id] for task_id in task_ids)})
            return dict(rows.all())

    def ids_in(
        self,
        statuses: Sequence[TaskStatus],
        task_type: str | None = None,
        username: str | None = None,
        limit: int | None = None,
    ) -> list[int]:
        """The ids of all tasks in these states, oldest first, or of the first `limit` of them."""
        table = schema.crawl_task
        query = (
            sa.select(table.c.id).where(table.c.status.in_([state.value for state in statuses])).order_by(table.c.id)
        )
        for column, value in ((table.c.task_type, task_type), (table.c.username, username)):
            if value is not None:
                query = query.where(column == value)
        with self.db.read() as reader:
            return list(reader.execute(query.limit(limit)).scalars())

    def stats(self) -> dict[str, int]:
        """How many tasks are in each state, and `total`."""
        with self.db.read() as reader:
            by_state: dict[str, int] = dict(
                reader.execute(sql("SELECT status, COUNT(*) FROM cl_crawl_task GROUP BY status")).all()
            )
        counts = {str(state): by_state.get(state.value, 0) for state in TaskStatus}
        return {**counts, "total": sum(counts.values())}
