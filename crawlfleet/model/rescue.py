"""Moves that no run of this node makes: expire, release what nobody holds, cancel, revive, make due.

Each takes the tasks' rows first, like the gate, so they never cross it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CrawlfleetError
from crawlfleet.core.sql import json_rows, sql, stamp, utc
from crawlfleet.core.transaction import Answer, Result, Transaction
from crawlfleet.model import audit, signals
from crawlfleet.model.ending import Ending, Outcome
from crawlfleet.model.gate import RunCalls, book_calls, end_runs
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import LIVE_RUN, MOVES, TaskEvent, quoted, run_guard, task_guard
from crawlfleet.model.task_insert import order_key

RESCUE_BATCH = 500  # runs or tasks of one statement
KEY_RACES = 5  # how often a batch is tried while others open its unique keys


def live_runs(
    transaction: Transaction, device_id: str, epoch: int | None = None
) -> list[tuple[int, int, datetime | None]]:
    """(assignment id, task id, started_at) of the live runs of a device, of one epoch or of all."""
    condition = "" if epoch is None else " AND device_epoch = :epoch"
    rows = transaction.execute(
        sql(
            "SELECT id, task_id, started_at FROM cl_task_assignment WHERE device_id = :device_id"
            f" AND status IN ({quoted(LIVE_RUN)}){condition}"
        ),
        {"device_id": device_id} if epoch is None else {"device_id": device_id, "epoch": epoch},
    )
    return [(assignment_id, task_id, utc(started)) for assignment_id, task_id, started in rows]


def expire_device(transaction: Transaction, device_id: str, lease_ends_at: datetime | None = None) -> int:
    """End all live runs of a device that is gone; how many. The caller holds the lock of the device's row.

    The calls that it held count as sent at the end of its lease, which is now unless `lease_ends_at` says otherwise:
    it may have sent them until then.
    """
    cancelled = _cancelled_with_calls(transaction, device_id)
    gone = Outcome(EndingKind.EXPIRED, "the device is gone")
    endings = [
        Ending(assignment_id, task_id, gone, started_at=started, calls=None)
        for assignment_id, task_id, started in live_runs(transaction, device_id)
    ]
    ledger = Ledger(transaction, lease_ends_at=lease_ends_at)
    for first in range(0, len(endings), RESCUE_BATCH):
        end_runs(ledger, endings[first : first + RESCUE_BATCH])
    book_calls(ledger, [RunCalls(run_id, task_id, None) for run_id, task_id in cancelled])
    ledger.close()
    if endings:
        signals.tasks_changed(transaction)
    return len(endings)


def _cancelled_with_calls(transaction: Transaction, device_id: str) -> Result:
    """Runs that a person cancelled and of which the device never told whether they had sent their calls."""
    statement = sql(
        "SELECT DISTINCT a.id, a.task_id FROM cl_budget_call c JOIN cl_task_assignment a ON a.id = c.assignment_id"
        " WHERE c.called_at IS NULL AND a.device_id = :device_id"
    )
    return transaction.execute(statement, {"device_id": device_id})


def release_unheld(
    ledger: Ledger, device_id: str, epoch: int, held: Collection[int], adopts: bool = False
) -> tuple[int, set[int]]:
    """Compare what the database says this process runs with what it holds in memory.

    Runs that it does not hold go back to the queue: the reply to the COMMIT that claimed them was lost. One that
    `adopts` assigned runs leaves those alone. Returns how many went back, and the ids of held runs that are no longer
    live: lost, cancelled or taken back.
    """
    live = live_runs(ledger.transaction, device_id, epoch)
    strays = [
        Ending(key, task_id, Outcome(EndingKind.RELEASED, "claimed, but the reply was lost"))
        for key, task_id, started_at in live
        if key not in held and not (adopts and started_at is None)
    ]
    end_runs(ledger, strays)
    return len(strays), set(held) - {key for key, _, _ in live}


def ask_cut_off(transaction: Transaction, held: Collection[int], soon: datetime) -> Answer[set[int]]:
    """Ask which of these runs hold calls that they have not sent of a budget that is closed for longer than that."""
    statement = sql(
        f"SELECT DISTINCT c.assignment_id FROM {transaction.dialect.rows(id='int')}"
        " JOIN cl_budget_call c ON c.assignment_id = v.id JOIN cl_budget b ON b.id = c.budget_id"
        " WHERE c.called_at IS NULL AND b.closed_until > :soon"
    )
    reply = transaction.execute(statement, {"rows": json_rows([each] for each in held), "soon": stamp(soon)})
    return reply.map(lambda result: set(result.scalars()))


def cancel(db: Database, task_ids: Sequence[int], actor: str | None = None, now: datetime | None = None) -> list[int]:
    """Cancel open tasks, their live runs included; the ids that were cancelled. Their node tells running bodies.

    A running body may send its calls until it is told: they stay held until its node, or the end of its lease, tells.
    """
    move = MOVES["cancel"]

    def work(transaction: Transaction, batch: Sequence[int]) -> list[int]:
        locked = dict(_lock(transaction, batch, "t.assignment_id", task_guard("cancel", "COALESCE(t.status, '')")))
        if not locked:
            return []
        rows = json_rows(locked.items())
        tasks = db.dialect.update_from(
            "cl_crawl_task",
            {
                "status": f"'{move.task_to}'",
                "assignment_id": "NULL",
                "ready_key": "NULL",
                "wake_at": "NULL",
                "open_key": "NULL",
                "completed_at": db.dialect.moment("now"),
                "updated_at": db.dialect.moment("now"),
            },
            db.dialect.rows(id="int", assignment_id="int"),
            "t.id = v.id",
        )
        runs = db.dialect.update_from(
            "cl_task_assignment",
            {
                "status": f"'{move.run_to}'",
                "completed_at": db.dialect.moment("now"),
                "updated_at": db.dialect.moment("now"),
            },
            db.dialect.rows(id="int", assignment_id="int"),
            f"t.id = v.assignment_id AND {run_guard('cancel', 't.status')}",
        )
        for statement in (tasks, runs):
            transaction.execute(sql(statement), {"rows": rows, "now": stamp(transaction.now)})
        record_events(transaction, list(locked), TaskEvent.CANCELLED, actor)
        audit.record(transaction, actor, "tasks.cancel", task_ids=sorted(locked))
        signals.tasks_changed(transaction)
        return sorted(locked)

    return _in_batches(db, task_ids, work, now)


def revive(db: Database, task_ids: Sequence[int], actor: str | None = None) -> list[int]:
    """Queue failed or cancelled tasks again, due now and with all attempts; the ids that were revived.

    A task whose unique key another open task holds by now stays as it is; of several with one key the oldest goes.
    """

    def work(transaction: Transaction, batch: Sequence[int]) -> list[int]:
        free = (
            " AND (unique_key IS NULL OR unique_key NOT IN"
            " (SELECT open_key FROM (SELECT open_key FROM cl_crawl_task WHERE open_key IS NOT NULL) AS taken))"
        )
        rows = _lock(
            transaction, batch, "t.priority, t.unique_key", task_guard("revive", "COALESCE(t.status, '')") + free
        )
        by_key = {key or task_id: (task_id, priority) for task_id, priority, key in reversed(rows)}
        priorities = dict(sorted(by_key.values()))
        if not priorities:
            return []
        again = {
            "status": f"'{MOVES['revive'].task_to}'",
            "retry": "0",
            "crash_count": "0",
            "open_key": "t.unique_key",
            "completed_at": "NULL",
        }
        _make_ready(transaction, priorities, again)
        record_events(transaction, list(priorities), TaskEvent.REVIVED, actor)
        audit.record(transaction, actor, "tasks.retry", task_ids=sorted(priorities))
        return sorted(priorities)

    return _in_batches(db, task_ids, work)


def make_due(db: Database, task_ids: Sequence[int], actor: str | None = None) -> list[int]:
    """Let pending tasks that wait for their time, or for their next try, be due now; the ids of those that did wait."""

    def work(transaction: Transaction, batch: Sequence[int]) -> list[int]:
        pending = task_guard("claim", "COALESCE(t.status, '')")
        priorities = dict(_lock(transaction, batch, "t.priority", f"{pending} AND t.wake_at IS NOT NULL"))
        if not priorities:
            return []
        _make_ready(transaction, priorities)
        record_events(transaction, list(priorities), TaskEvent.MADE_DUE, actor)
        audit.record(transaction, actor, "tasks.run_now", task_ids=sorted(priorities))
        return sorted(priorities)

    return _in_batches(db, task_ids, work)


def _make_ready(
    transaction: Transaction, priorities: Mapping[int, int], columns: Mapping[str, str] | None = None
) -> None:
    """Let these tasks be due now, each by its priority, and set more of their columns."""
    now, dialect = transaction.now, transaction.dialect
    ready = {
        **(columns or {}),
        "order_key": "v.order_key",
        "ready_key": "v.order_key",
        "wake_at": "NULL",
        **dict.fromkeys(("next_run_at", "updated_at"), dialect.moment("now")),
    }
    statement = dialect.update_from("cl_crawl_task", ready, dialect.rows(id="int", order_key="int"), "t.id = v.id")
    rows = json_rows((task_id, order_key(now, priority)) for task_id, priority in priorities.items())
    transaction.execute(sql(statement), {"rows": rows, "now": stamp(now)})
    ledger = Ledger(transaction)
    ledger.touch(_lanes_of_sources(transaction, list(priorities)))
    ledger.close()
    signals.tasks_changed(transaction)


def record_events(
    transaction: Transaction,
    task_ids: Sequence[int],
    event: TaskEvent,
    actor: str | None,
    detail: str | None = None,
) -> None:
    """Note what happened to tasks that their assignments cannot show."""
    statement = (
        "INSERT INTO cl_task_event (task_id, event, actor, detail, created_at)"
        f" SELECT id, event, actor, detail, {transaction.dialect.moment('now')}"
        f" FROM {transaction.dialect.rows(id='int', event='text', actor='text', detail='text')}"
    )
    rows = json_rows((task_id, event, actor, detail) for task_id in task_ids)
    transaction.execute(sql(statement), {"rows": rows, "now": stamp(transaction.now)})


def _lanes_of_sources(transaction: Transaction, task_ids: Sequence[int]) -> list[int]:
    statement = sql(
        f"SELECT DISTINCT t.lane_id FROM {transaction.dialect.rows(id='int')} JOIN cl_crawl_task t ON t.id = v.id"
        " WHERE t.source IS NOT NULL"
    )
    return list(transaction.execute(statement, {"rows": json_rows([each] for each in task_ids)}).scalars())


def _lock(transaction: Transaction, task_ids: Sequence[int], columns: str, condition: str) -> list[Any]:
    """Lock those of these tasks `t` that fulfil the condition; the id and these columns of each, by id."""
    dialect = transaction.dialect
    statement = sql(
        f"SELECT t.id, {columns} FROM {dialect.by_key(dialect.rows(id='int'), 'cl_crawl_task')}"
        f" ON t.id = v.id WHERE {condition} ORDER BY t.id{dialect.for_update_of_t}"
    )
    return transaction.execute(statement, {"rows": json_rows([each] for each in sorted(task_ids))}).all()


class _Batch(Protocol):
    def __call__(self, transaction: Transaction, batch: Sequence[int]) -> list[int]: ...


def _in_batches(db: Database, task_ids: Sequence[int], work: _Batch, now: datetime | None = None) -> list[int]:
    ids = sorted(set(task_ids))
    done: list[int] = []
    for first in range(0, len(ids), RESCUE_BATCH):
        batch = ids[first : first + RESCUE_BATCH]
        for _ in range(KEY_RACES):
            try:
                done += db.write(partial(work, batch=batch), now)
                break
            except sa.exc.IntegrityError:  # another writer opened one of the unique keys after we looked
                continue
        else:
            raise CrawlfleetError("others keep opening the unique keys of these tasks: try again")
    return done
