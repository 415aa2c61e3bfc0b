"""cl_crawl_task: adding tasks and reading them. Their moves are in `claims.py`, `gate.py` and `rescue.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from crawlfleet.core.db import Database
from crawlfleet.core.sql import bindable, day, json_rows, json_value, sql, stamp, utc
from crawlfleet.core.transaction import Transaction
from crawlfleet.model import audit, lanes, schema, signals
from crawlfleet.model.budget import CostOf, no_cost
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import TaskStatus
from crawlfleet.model.task_spec import TaskSpec

log = logging.getLogger(__name__)

PRIORITY_STEP_MS = 600_000  # one step of priority is worth ten minutes of waiting: nothing starves
ADD_BATCH = 2000  # rows of one INSERT

_AS_GIVEN = {  # columns that take what the TaskSpec says
    "task_type": "text",
    "source": "text",
    "username": "text",
    "app_id": "text",
    "report": "text",
    "label": "text",
    "start_date": "day",
    "end_date": "day",
    "priority": "int",
    "unique_key": "text",
}
_COLUMNS = {
    **_AS_GIVEN,
    "lane_id": "int",
    "order_key": "int",
    "ready_key": "int",
    "wake_at": "moment",
    "next_run_at": "moment",
    "execution_timeout": "int",
    "max_retry_count": "int",
    "task_data": "json",
    "parent_id": "int",
}


@dataclass(frozen=True)
class TaskDefaults:
    """What a task gets that does not say: seconds a body may run, retries after its first attempt, and its cost."""

    execution_timeout: int = 3600
    max_retry_count: int = 3
    cost_of: CostOf = no_cost


def order_key(due: datetime, priority: int) -> int:
    """The task's place in the queue, fixed when it is queued: due time less its head start, in ms."""
    return round(due.timestamp() * 1000) - priority * PRIORITY_STEP_MS


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
        """Queue the tasks in one transaction and wake the schedulers; ids in the order of the specs.

        A spec whose `unique_key` is open already gives the id of the task that holds it.
        """
        batch = list(specs)
        if now is None and actor is None and len(batch) <= self._rows_at_once and _are_plain(batch):
            ids = self._add_plain(batch, defaults or TaskDefaults())
            if ids:
                return ids

        def work(connection: Transaction) -> Callable[[], list[int]]:
            moment = self.db.ask_now(connection)
            added = self._ask(connection, batch, defaults or TaskDefaults())
            ledger = Ledger(self.db, connection, now or moment())
            ids = added(ledger, None)
            ledger.close()
            if batch and actor is not None:
                span = {"first_id": min(ids()), "last_id": max(ids())}
                audit.record(self.db, connection, actor, "tasks.add", tasks=len(batch), **span)
            signals.tasks_changed(self.db, connection)
            return ids

        for _ in range(3):
            try:
                return self.db.write(work, commit_at_once=True)()
            except sa.exc.IntegrityError as error:  # another writer opened one of the keys after we looked
                raced = error
        raise raced

    def _add_plain(self, specs: Sequence[TaskSpec], defaults: TaskDefaults) -> list[int]:
        """Queue tasks that are alike in what decides their place, with one answer of the database, which finds lane and
        time by itself. If their lane is new none is queued, and there are no ids."""
        dialect = self.db.dialect
        moment = dialect.now_of_statement
        key = f"{dialect.milliseconds(moment)} - {dialect.integer('head_start')}"
        placed = {
            "lane_id": "l.id",
            "order_key": key,
            "ready_key": key,
            "wake_at": "NULL",
            **dict.fromkeys(("next_run_at", "created_at", "updated_at"), moment),
        }
        parameters = {
            "head_start": specs[0].priority * PRIORITY_STEP_MS,
            "lane_key": lanes.lane_of(specs[0], defaults.cost_of).key,
        }

        def work(connection: Transaction) -> Callable[[], list[int]]:
            lane = " JOIN cl_lane l ON l.lane_key = :lane_key"
            # in one statement: should the lane appear meanwhile, either all tasks find it or none
            ids = self._insert(connection, _said(specs, defaults), placed, parameters, lane)
            signals.tasks_changed(self.db, connection)
            return ids

        return self.db.write(work, commit_at_once=True)()

    def add_in(
        self,
        connection: Transaction,
        specs: Sequence[TaskSpec],
        defaults: TaskDefaults,
        ledger: Ledger,
        parent_id: int | None = None,
    ) -> None:
        """Like `add`, in the transaction of this ledger and without waking anybody.

        When it is sent it raises IntegrityError if another transaction opened one of the unique keys meanwhile.
        """
        self._ask(connection, specs, defaults)(ledger, parent_id)

    def _ask(
        self, connection: Transaction, specs: Sequence[TaskSpec], defaults: TaskDefaults
    ) -> Callable[[Ledger, int | None], Callable[[], list[int]]]:
        """Ask for what must be known to add these tasks, all at once; calling the result adds them, and calling what
        that gives reads their ids."""
        open_keys = self._ask_open_keys(connection, [spec.unique_key for spec in specs if spec.unique_key])
        placed = [lanes.lane_of(spec, defaults.cost_of) for spec in specs]
        lane_ids_at = lanes.ask_ids(self.db, connection, set(placed))

        def add(ledger: Ledger, parent_id: int | None) -> Callable[[], list[int]]:
            held = open_keys()
            lane_ids = lane_ids_at(ledger.now)
            fresh, fresh_lanes = [], []  # not pairs: so many small objects would set the garbage collector to work
            for spec, lane in zip(specs, placed, strict=True):
                if spec.unique_key is not None:
                    if spec.unique_key in held:
                        continue
                    held[spec.unique_key] = -1
                fresh.append(spec)
                fresh_lanes.append(lane_ids[lane])
            ledger.touch(lane_ids[lane] for lane in lane_ids if lane.source is not None)
            moment = self.db.dialect.moment("now")
            stamps = {"created_at": moment, "updated_at": moment}
            inserted = []
            for first in range(0, len(fresh), self._rows_at_once):
                some = slice(first, first + self._rows_at_once)
                columns = _said(fresh[some], defaults, parent_id)
                columns |= _placed(fresh[some], fresh_lanes[some], ledger.now)
                inserted.append(self._insert(connection, columns, stamps, {"now": stamp(ledger.now)}))

            def read() -> list[int]:
                new_ids = (task_id for ids in inserted for task_id in ids())
                id_of = dict(held)
                result = []
                for spec in specs:
                    if spec.unique_key is None:
                        result.append(next(new_ids))
                    else:
                        if id_of[spec.unique_key] == -1:
                            id_of[spec.unique_key] = next(new_ids)
                        result.append(id_of[spec.unique_key])
                return result

            return read

        return add

    def _ask_open_keys(self, connection: Transaction, keys: list[str]) -> Callable[[], dict[str, int]]:
        if not keys:
            return dict
        found = connection.execute(
            sql(
                "SELECT t.open_key, t.id FROM cl_crawl_task t"
                f" JOIN {self.db.dialect.rows(k='text')} ON t.open_key = v.k"
            ),
            {"rows": json_rows([key] for key in keys)},
        )
        return lambda: dict(found.all())

    @property
    def _rows_at_once(self) -> int:
        """Rows of one INSERT: MySQL returns no ids, and only the id of a single row is certain."""
        return 1 if self.db.product == "MySQL" else ADD_BATCH

    def _insert(
        self,
        connection: Transaction,
        columns: Mapping[str, list[Any]],
        computed: Mapping[str, str],
        parameters: Mapping[str, Any],
        join: str = "",
    ) -> Callable[[], list[int]]:
        """Insert rows given by column, and what is computed of the same columns; their ids are read by calling it.

        What all rows have in common is bound once, which more than halves the time of a typical batch.
        """
        dialect = self.db.dialect
        own = {
            name: cells for name, cells in columns.items() if name == "task_data" or cells.count(cells[0]) < len(cells)
        }
        common = {name: bindable(cells[0]) for name, cells in columns.items() if name not in own}
        picks = {name: f"v.{name}" if name in own else dialect.bound(name, _COLUMNS[name]) for name in columns}
        picks |= {
            "open_key": picks["unique_key"],
            "status": f"'{TaskStatus.PENDING}'",
            "retry": "0",
            "crash_count": "0",
            **computed,
        }
        # SQLite numbers the rows of a statement one after the other; to return them takes it a third of the INSERT.
        returning = "" if self.db.product in {"SQLite", "MySQL"} else " RETURNING id"
        statement = sql(
            f"INSERT INTO cl_crawl_task ({', '.join(picks)}) SELECT {', '.join(picks.values())}"
            f" FROM {dialect.rows(**{name: _COLUMNS[name] for name in own})}{join}{returning}"
        )
        rows = json_rows(zip(*own.values(), strict=True))
        answer = connection.execute(statement, {**common, **parameters, "rows": rows})

        def read() -> list[int]:
            if returning:
                return sorted(answer.scalars())
            last = answer.lastrowid
            return list(range(last - answer.rowcount + 1, last + 1))

        return read

    def get(self, task_id: int) -> dict[str, Any] | None:
        """One task as a dict of its columns, or None."""
        with self.db.read() as connection:
            row = (
                connection.execute(sa.select(schema.crawl_task).where(schema.crawl_task.c.id == task_id))
                .mappings()
                .first()
            )
        return None if row is None else as_dict(row)

    def find(
        self,
        status: str | None = None,
        task_type: str | None = None,
        username: str | None = None,
        limit: int = 50,
    ) -> list[dict[str, Any]]:
        """Tasks as dicts of their columns, newest first."""
        table = schema.crawl_task
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        for column, value in ((table.c.status, status), (table.c.task_type, task_type), (table.c.username, username)):
            if value is not None:
                query = query.where(column == value)
        with self.db.read() as connection:
            return [as_dict(row) for row in connection.execute(query).mappings()]

    def states(self, task_ids: Iterable[int]) -> dict[int, str]:
        """The state of each of these tasks; ids of no task are missing."""
        query = sql(f"SELECT t.id, t.status FROM cl_crawl_task t JOIN {self.db.dialect.rows(k='int')} ON t.id = v.k")
        with self.db.read() as connection:
            found = connection.execute(query, {"rows": json_rows([task_id] for task_id in task_ids)})
            return dict(found.all())

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
        with self.db.read() as connection:
            return list(connection.execute(query.limit(limit)).scalars())

    def stats(self) -> dict[str, int]:
        """How many tasks are in each state, and `total`."""
        with self.db.read() as connection:
            found: dict[str, int] = dict(
                connection.execute(sql("SELECT status, COUNT(*) FROM cl_crawl_task GROUP BY status")).all()
            )
        counts = {str(state): found.get(state.value, 0) for state in TaskStatus}
        return {**counts, "total": sum(counts.values())}


def _are_plain(specs: Sequence[TaskSpec]) -> bool:
    """Whether the tasks are due now and of one kind and priority, and name neither a source nor a key."""
    return bool(specs) and all(
        spec.source is None
        and spec.unique_key is None
        and spec.run_at is None
        and spec.task_type == specs[0].task_type
        and spec.label == specs[0].label
        and spec.priority == specs[0].priority
        for spec in specs
    )


def _said(specs: Sequence[TaskSpec], defaults: TaskDefaults, parent_id: int | None = None) -> dict[str, list[Any]]:
    """Columns of the tasks' rows that are as the specs say, or by default."""
    timeouts = [spec.execution_timeout for spec in specs]
    retries = [spec.max_retry_count for spec in specs]
    return {
        **{name: [getattr(spec, name) for spec in specs] for name in _AS_GIVEN},
        "execution_timeout": [defaults.execution_timeout if given is None else given for given in timeouts],
        "max_retry_count": [defaults.max_retry_count if given is None else given for given in retries],
        "task_data": [spec.task_data_text for spec in specs],
        "parent_id": [parent_id] * len(specs),
    }


def _placed(specs: Sequence[TaskSpec], lane_ids: list[int], now: datetime) -> dict[str, list[Any]]:
    """The other columns: where in the queue the tasks stand."""
    due = [spec.run_at or now for spec in specs]
    keys = [order_key(moment, spec.priority) for moment, spec in zip(due, specs, strict=True)]
    return {
        "lane_id": lane_ids,
        "order_key": keys,
        "ready_key": [None if moment > now else key for moment, key in zip(due, keys, strict=True)],
        "wake_at": [moment if moment > now else None for moment in due],
        "next_run_at": due,
    }


_MOMENTS = [column.name for column in schema.crawl_task.c if column.name.endswith("_at")]


def as_dict(row: RowMapping) -> dict[str, Any]:
    """A row of cl_crawl_task with moments, days and JSON as Python values."""
    values = dict(row)
    for name in _MOMENTS:
        values[name] = utc(values[name])
    for name in ("start_date", "end_date"):
        values[name] = day(values[name])
    for name in ("task_data", "task_ret"):
        values[name] = json_value(values[name])
    return values
