"""Queueing tasks: their places in the queue, and the rows that hold them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from crawlfleet.core.sql import SqlDialect, bindable, json_batches, json_rows, sql, stamp
from crawlfleet.core.transaction import Answer, Result, Statements, Transaction
from crawlfleet.model import lanes, signals
from crawlfleet.model.budget import CostOf, no_cost
from crawlfleet.model.column_types import kind_of
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import TaskStatus
from crawlfleet.model.schema import crawl_task
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.settings.definitions import Settings

PRIORITY_STEP_MS = 600_000  # one step of priority is worth ten minutes of waiting: nothing starves
ADD_BATCH = 2000  # rows of one INSERT
SHOWN_NOTES = 20  # of unique keys that are open already

_REWORKED = ("execution_timeout", "max_retry_count", "task_data")  # what a TaskSpec says of them is not stored as it is
_AS_GIVEN = [each.name for each in fields(TaskSpec) if each.name in crawl_task.c and each.name not in _REWORKED]
_COLUMNS = {
    name: kind_of(crawl_task.c[name])
    for name in (
        *_AS_GIVEN,
        *_REWORKED,
        *("lane_id", "order_key", "ready_key", "wake_at", "next_run_at", "parent_id"),
    )
}


@dataclass(frozen=True)
class TaskDefaults:
    """What a task gets that does not say: seconds a body may run, retries after its first attempt, and its cost."""

    execution_timeout: int = Settings().execution_timeout
    max_retry_count: int = Settings().max_retry
    cost_of: CostOf = no_cost


class Holder(NamedTuple):
    """The open task that has a unique key."""

    task_id: int
    username: str | None

    def __str__(self) -> str:
        return f"task {self.task_id}" + (f" of {self.username}" if self.username else "")


@dataclass(frozen=True)
class Added:
    """What came of specs: the ids of their tasks in the same order, and what the places of those whose unique key was
    open already met there."""

    ids: list[int]
    met: Mapping[int, Holder]

    def open_already(self, specs: Sequence[TaskSpec]) -> list[str]:
        """Say for people which unique keys of these specs are open, and who has them."""
        notes = [
            f"unique key {specs[place].unique_key} is already open as {holder}"
            for place, holder in itertools.islice(self.met.items(), SHOWN_NOTES)
        ]
        rest = len(self.met) - len(notes)
        return notes + ([f"{rest} more unique keys are open already"] if rest else [])


def order_key(due: datetime, priority: int) -> int:
    """The task's place in the queue, fixed when it is queued: due time less its head start, in ms."""
    return round(due.timestamp() * 1000) - priority * PRIORITY_STEP_MS


def rows_at_once(dialect: SqlDialect) -> int:
    """Rows of one INSERT: MySQL returns no ids, and only the id of a single row is certain."""
    return 1 if dialect.product == "MySQL" else ADD_BATCH


def add_tasks(ledger: Ledger, specs: Sequence[TaskSpec], defaults: TaskDefaults) -> Answer[Added]:
    """Queue the tasks in the transaction of this ledger, without waking anybody.

    A spec whose `unique_key` is open already gives the id of the task that holds it. When it is sent it raises
    IntegrityError if another transaction opened one of the unique keys meanwhile.
    """
    held, fresh, fresh_lanes = _place(ledger, specs, defaults)
    inserted = _insert_all(ledger.transaction, fresh, fresh_lanes, defaults)
    return inserted.map(lambda ids: _in_order(specs, held, ids))


def add_follow_ups(ledger: Ledger, specs: Sequence[TaskSpec], defaults: TaskDefaults, parent_id: int) -> None:
    """Queue what the result of a task adds, without waking anybody.

    A spec whose `unique_key` is open already is left out: that other task is as good. So is one whose key another
    transaction opens at this very moment.
    """
    _, fresh, fresh_lanes = _place(ledger, specs, defaults)
    for has_key in (False, True):
        some = [pair for pair in zip(fresh, fresh_lanes, strict=True) if (pair[0].unique_key is not None) is has_key]
        some.sort(key=lambda pair: pair[0].unique_key or "")  # two transactions must not wait for keys crosswise
        chosen, lane_ids = [spec for spec, _ in some], [lane for _, lane in some]
        _insert_all(ledger.transaction, chosen, lane_ids, defaults, parent_id, absent_only=has_key)


def _place(
    ledger: Ledger, specs: Sequence[TaskSpec], defaults: TaskDefaults
) -> tuple[dict[str, Holder], list[TaskSpec], list[int]]:
    """Who has which of the unique keys; the specs that are to be inserted, and the lane of each."""
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
    return held, fresh, fresh_lanes


def _insert_all(
    transaction: Transaction,
    specs: Sequence[TaskSpec],
    lane_ids: list[int],
    defaults: TaskDefaults,
    parent_id: int | None = None,
    absent_only: bool = False,
) -> Answer[list[int]]:
    """Insert the rows, as many with one statement as the database allows; their ids, in this order. With `absent_only`
    rows whose unique key is open by now are left out, and the ids say nothing."""
    moment = transaction.dialect.moment("now")
    computed = {"created_at": moment, "updated_at": moment}
    parameters = {"now": stamp(transaction.now)}
    batches = []
    for first in range(0, len(specs), size := rows_at_once(transaction.dialect)):
        some = slice(first, first + size)
        columns = _said(specs[some], defaults, parent_id) | _placed(specs[some], lane_ids[some], transaction.now)
        batches.append(_insert(transaction, columns, computed, parameters, absent_only=absent_only))
    return Answer(lambda: [task_id for batch in batches for task_id in batch.read()])


def _in_order(specs: Sequence[TaskSpec], held: Mapping[str, Holder], new_ids: Sequence[int]) -> Added:
    """The ids of all specs: of those with an open key that of its task, of the others the new ones one by one."""
    fresh = iter(new_ids)
    holders = dict(held)
    ids, met = [], {}
    for place, spec in enumerate(specs):
        key = spec.unique_key
        if key is not None and key in holders:
            met[place] = holders[key]
            ids.append(holders[key].task_id)
            continue
        ids.append(next(fresh))
        if key is not None:
            holders[key] = Holder(ids[-1], spec.username)
    return Added(ids, met)


def _ask_open_keys(transaction: Transaction, keys: list[str]) -> Answer[dict[str, Holder]]:
    if not keys:
        return Answer.of({})
    rows = transaction.dialect.rows(k="text")
    statement = sql(f"SELECT t.open_key, t.id, t.username FROM cl_crawl_task t JOIN {rows} ON t.open_key = v.k")
    asked = [
        transaction.execute(statement, {"rows": texts})
        for texts in json_batches([(key,) for key in keys], transaction.dialect.batch_bytes)
    ]
    return Answer(lambda: {key: Holder(task_id, name) for reply in asked for key, task_id, name in reply})


def holders_of(reader: Statements, task_ids: Collection[int]) -> list[tuple[int, Holder]]:
    """Those of these tasks, by id, whose unique key another open task has, and that other task."""
    statement = sql(
        f"SELECT t.id, o.id, o.username FROM {reader.dialect.rows(id='int')} JOIN cl_crawl_task t ON t.id = v.id"
        " JOIN cl_crawl_task o ON o.open_key = t.unique_key AND o.id <> t.id"
    )
    rows = reader.execute(statement, {"rows": json_rows([each] for each in sorted(task_ids))})
    return [(task_id, Holder(other, username)) for task_id, other, username in sorted(rows.all())]


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
    absent_only: bool = False,
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
    returning = "" if absent_only or dialect.product in {"SQLite", "MySQL"} else " RETURNING id"
    text = (
        f"INSERT INTO cl_crawl_task ({', '.join(picks)}) SELECT {', '.join(picks.values())}"
        f" FROM {dialect.rows(**{name: _COLUMNS[name] for name in own})}{join}{returning}"
    )
    statement = sql(dialect.insert_ignore(text, "open_key") if absent_only else text)
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
