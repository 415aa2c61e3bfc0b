"""Queueing tasks: their places in the queue, and the rows that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from crawlfleet.core.sql import SqlDialect, bindable, json_batches, sql, stamp
from crawlfleet.core.transaction import Answer, Result, Transaction
from crawlfleet.model import lanes, signals
from crawlfleet.model.budget import CostOf, no_cost
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import TaskStatus
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.settings.definitions import Settings

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

    execution_timeout: int = Settings().execution_timeout
    max_retry_count: int = Settings().max_retry
    cost_of: CostOf = no_cost


def order_key(due: datetime, priority: int) -> int:
    """The task's place in the queue, fixed when it is queued: due time less its head start, in ms."""
    return round(due.timestamp() * 1000) - priority * PRIORITY_STEP_MS


def rows_at_once(dialect: SqlDialect) -> int:
    """Rows of one INSERT: MySQL returns no ids, and only the id of a single row is certain."""
    return 1 if dialect.product == "MySQL" else ADD_BATCH


def add_tasks(
    ledger: Ledger, specs: Sequence[TaskSpec], defaults: TaskDefaults, parent_id: int | None = None
) -> Answer[list[int]]:
    """Queue the tasks in the transaction of this ledger, without waking anybody; ids in the order of the specs.

    A spec whose `unique_key` is open already gives the id of the task that holds it. When it is sent it raises
    IntegrityError if another transaction opened one of the unique keys meanwhile.
    """
    transaction = ledger.transaction
    open_keys = _ask_open_keys(transaction, [spec.unique_key for spec in specs if spec.unique_key])
    placed = [lanes.lane_of(spec, defaults.cost_of) for spec in specs]
    asked_lanes = lanes.ensure_lanes(transaction, set(placed))
    held, lane_ids = open_keys.read(), asked_lanes.read()
    fresh, fresh_lanes = [], []  # not pairs: so many small objects would set the garbage collector to work
    opened = set()
    for spec, lane in zip(specs, placed, strict=True):
        if spec.unique_key is not None:
            if spec.unique_key in held or spec.unique_key in opened:
                continue
            opened.add(spec.unique_key)
        fresh.append(spec)
        fresh_lanes.append(lane_ids[lane])
    ledger.touch(lane_ids[lane] for lane in lane_ids if lane.source is not None)
    inserted = _insert_all(transaction, fresh, fresh_lanes, defaults, parent_id)
    return inserted.map(lambda ids: _in_order(specs, held, ids))


def _insert_all(
    transaction: Transaction,
    specs: Sequence[TaskSpec],
    lane_ids: list[int],
    defaults: TaskDefaults,
    parent_id: int | None,
) -> Answer[list[int]]:
    """Insert the rows, as many with one statement as the database allows; their ids, in this order."""
    moment = transaction.dialect.moment("now")
    computed = {"created_at": moment, "updated_at": moment}
    parameters = {"now": stamp(transaction.now)}
    batches = []
    for first in range(0, len(specs), size := rows_at_once(transaction.dialect)):
        some = slice(first, first + size)
        columns = _said(specs[some], defaults, parent_id) | _placed(specs[some], lane_ids[some], transaction.now)
        batches.append(_insert(transaction, columns, computed, parameters))
    return Answer(lambda: [task_id for batch in batches for task_id in batch.read()])


def _in_order(specs: Sequence[TaskSpec], held: Mapping[str, int], new_ids: Sequence[int]) -> list[int]:
    """The ids of all specs: of those with an open key that of its task, of the others the new ones one by one."""
    fresh = iter(new_ids)
    id_of = dict(held)
    found = []
    for spec in specs:
        key = spec.unique_key
        if key is None:
            found.append(next(fresh))
        else:
            if key not in id_of:
                id_of[key] = next(fresh)
            found.append(id_of[key])
    return found


def _ask_open_keys(transaction: Transaction, keys: list[str]) -> Answer[dict[str, int]]:
    if not keys:
        return Answer.of({})
    rows = transaction.dialect.rows(k="text")
    statement = sql(f"SELECT t.open_key, t.id FROM cl_crawl_task t JOIN {rows} ON t.open_key = v.k")
    asked = [
        transaction.execute(statement, {"rows": texts})
        for texts in json_batches([(key,) for key in keys], transaction.dialect.batch_bytes)
    ]
    return Answer(lambda: dict(row for found in asked for row in found))


def add_alike(transaction: Transaction, specs: Sequence[TaskSpec], defaults: TaskDefaults) -> Answer[list[int]]:
    """Queue tasks that are alike in what decides their place, and wake the schedulers, with one answer of the database,
    which finds lane and time by itself. If their lane is new none is queued, and there are no ids."""
    dialect = transaction.dialect
    moment = dialect.now_of_statement
    key = f"{dialect.milliseconds(moment)} - {dialect.integer('head_start')}"
    computed = {
        "lane_id": "l.id",
        "order_key": key,
        "ready_key": key,
        "wake_at": "NULL",
        **dict.fromkeys(("next_run_at", "created_at", "updated_at"), moment),
    }
    lane_key = lanes.lane_of(specs[0], defaults.cost_of).key
    parameters = {"head_start": specs[0].priority * PRIORITY_STEP_MS, "lane_key": lane_key}
    # in one statement: should the lane appear meanwhile, either all tasks find it or none
    lane = " JOIN cl_lane l ON l.lane_key = :lane_key"
    ids = _insert(transaction, _said(specs, defaults), computed, parameters, lane)
    signals.tasks_changed(transaction, lane_key)
    return ids


def _insert(
    transaction: Transaction,
    columns: Mapping[str, list[Any]],
    computed: Mapping[str, str],
    parameters: Mapping[str, Any],
    join: str = "",
) -> Answer[list[int]]:
    """Insert rows given by column, and what is computed of the same columns; their ids.

    What all rows have in common is bound once, which more than halves the time of a typical batch.
    """
    dialect = transaction.dialect
    own = {name: cells for name, cells in columns.items() if name == "task_data" or cells.count(cells[0]) < len(cells)}
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
    returning = "" if dialect.product in {"SQLite", "MySQL"} else " RETURNING id"
    statement = sql(
        f"INSERT INTO cl_crawl_task ({', '.join(picks)}) SELECT {', '.join(picks.values())}"
        f" FROM {dialect.rows(**{name: _COLUMNS[name] for name in own})}{join}{returning}"
    )
    rows = list(zip(*own.values(), strict=True))
    results = [
        transaction.execute(statement, {**common, **parameters, "rows": texts})
        for texts in json_batches(rows, dialect.batch_bytes)
    ]
    ids_of = (lambda result: sorted(result.scalars())) if returning else _last_ids
    return Answer(lambda: [task_id for result in results for task_id in ids_of(result)])


def _last_ids(result: Result) -> list[int]:
    return list(range(result.lastrowid - result.rowcount + 1, result.lastrowid + 1))


def are_alike(specs: Sequence[TaskSpec], dialect: SqlDialect) -> bool:
    """Whether `add_alike` can queue the tasks: due now, of one kind and priority, without a source and a key, and all
    with one statement."""
    if not 0 < len(specs) <= rows_at_once(dialect):
        return False
    texts = (text for spec in specs for text in (spec.task_data_text, spec.username, spec.app_id) if text)
    return 4 * sum(map(len, texts)) < dialect.batch_bytes // 2 and all(
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
