"""The gate: the only way a run ends.

`end_runs` does it for a batch in one transaction. The task's row is the mutex of all its moves and carries the
live assignment's id, the fencing token: a run whose token is no longer there was lost to someone else, and
nothing of it is written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.sql import SqlDialect, counted_batches, day, json_batches, json_rows, json_value, sql, stamp
from crawlfleet.core.transaction import Answer, AnyRow, Transaction
from crawlfleet.model import range_store
from crawlfleet.model.account import park
from crawlfleet.model.budget import MAX_CALLS
from crawlfleet.model.ending import Ending, replaced_by
from crawlfleet.model.lane_budgets import LaneBudgets
from crawlfleet.model.lanes import ensure_lanes, lane_of
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import ENDINGS, MOVES, WaitsFor, run_guard, task_guard
from crawlfleet.model.next_move import NextMove, RetryPolicy, next_move
from crawlfleet.model.run_effects import MAX_MESSAGE, Tasks, store_all
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec

ASKED_BY = ", asked by device "  # ends the reason of an account that a vendor's refusal parked
AskedEnds = tuple[Answer[Tasks], range_store.Targets]


class FenceVerdict(StrEnum):
    """What became of one ending."""

    WRITTEN = "written"
    ALREADY = "already"  # written before: the reply to that COMMIT was lost
    STALE = "stale"  # the run was lost to someone else; nothing was written


@dataclass(frozen=True)
class Ended:
    """What the gate did with an ending: the verdict, the move made, and how the task stands now."""

    ending: Ending
    verdict: FenceVerdict
    move: str | None = None
    next_run_at: datetime | None = None
    parked: bool = False  # this ending parked the task's account


def end_runs(
    ledger: Ledger,
    endings: Sequence[Ending],
    policy: RetryPolicy | None = None,
    defaults: TaskDefaults | None = None,
    asked: AskedEnds | None = None,
) -> list[Ended]:
    """End these runs, in the transaction of this ledger, each with its rows, follow-ups, summary and calls.

    The fence comes first; what runs store is within savepoints, so that one bad row fails one task.
    Returns one `Ended` for each ending, in their order. The caller closes the ledger. `asked` is what `ask_ends` gave
    for these endings, for a caller who has more to ask along with it.
    """
    if not endings:
        return []
    policy, defaults = policy or RetryPolicy(), defaults or TaskDefaults()
    transaction = ledger.transaction
    locked, targets = asked or ask_ends(transaction, endings)
    tasks = locked.read()
    live = {
        e.assignment_id for e in endings if e.task_id in tasks and tasks[e.task_id]["assignment_id"] == e.assignment_id
    }
    lost = [e for e in endings if e.assignment_id not in live]
    settled = {e.assignment_id: Ended(e, verdict) for e, verdict in _judge_lost(transaction, lost)}
    ending_now = [e for e in endings if e.assignment_id in live]
    stored = store_all(ledger, ending_now, tasks, targets, defaults)
    lanes = ledger.load({tasks[e.task_id]["lane_id"] for e in stored if tasks[e.task_id]["source"] is not None})
    moves = []
    for stored_ending in stored:
        task, parked = tasks[stored_ending.task_id], False
        lane = lanes.get(task["lane_id"])
        if ENDINGS[stored_ending.kind].waits_for is WaitsFor.PERSON:
            ending, parked = _park(ledger, stored_ending, task)
        elif stored_ending.kind == EndingKind.UNPAID:
            ending = _move_to_wider_lane(ledger, stored_ending, lane, defaults)
        else:
            ending = stored_ending
        closed_until = None if lane is None else _settle_calls(ledger, lane, ending)
        move = next_move(ending, task, ledger.now, policy, closed_until)
        if task["source"] is not None and move.next_run_at is not None:
            ledger.touch([ending.lane_id or task["lane_id"]])
        moves.append(move)
        again_at = closed_until or move.next_run_at
        settled[ending.assignment_id] = Ended(ending, FenceVerdict.WRITTEN, move.name, again_at, parked)
    _write(transaction, moves)
    book_calls(ledger, [RunCalls(e.assignment_id, e.task_id, e.calls) for e in lost if e.calls is not None])
    return [settled[ending.assignment_id] for ending in endings]


def _park(ledger: Ledger, ending: Ending, task: AnyRow) -> tuple[Ending, bool]:
    """The account waits for a person; True when it did not before. Without one nothing would hold the task back."""
    device = task["assigned_device_id"]  # another may have a newer token
    reason = f"{(ending.message or 'token refused')[:MAX_MESSAGE]}{ASKED_BY}{device}"
    parked = park(ledger.transaction, task["source"], task["username"], reason, ending.parks_as)
    if parked is None:
        return ending.failed(ending.message), False
    ledger.touch_account(task["source"], task["username"])
    return ending, parked


@dataclass(frozen=True, slots=True)
class RunCalls:
    """By when the vendor saw the calls of a run, None when nobody can tell; `is_over`: it sends no further one."""

    assignment_id: int
    task_id: int
    calls: Sequence[datetime] | None
    is_over: bool = True


def book_calls(ledger: Ledger, runs: Sequence[RunCalls]) -> None:
    """Book the calls of runs that go on, or that are no longer live; those of which nobody can tell as sent now."""
    if not runs:
        return
    transaction = ledger.transaction
    statement = sql(
        f"SELECT t.id, t.lane_id FROM {transaction.dialect.rows(id='int')} JOIN cl_crawl_task t ON t.id = v.id"
        " WHERE t.source IS NOT NULL"
    )
    rows = transaction.execute(statement, {"rows": json_rows([each] for each in {run.task_id for run in runs})})
    lane_of: dict[int, int] = dict(rows.all())
    lanes = ledger.load(set(lane_of.values()))
    for run in runs:
        lane = lanes.get(lane_of.get(run.task_id, 0))
        if lane is None:
            continue
        if run.calls is None:
            ledger.forfeit(lane, run.assignment_id)
        else:
            ledger.book(lane, run.assignment_id, run.calls, run.is_over)


def _settle_calls(ledger: Ledger, lane: LaneBudgets, ending: Ending) -> datetime | None:
    """Book the run's calls, and teach its budgets how the vendor took them; until when one is closed now."""
    if ending.calls is None:
        ledger.forfeit(lane, ending.assignment_id)
    else:
        ledger.book(lane, ending.assignment_id, ending.calls, is_over=True)
    if ending.kind == EndingKind.OK:
        ledger.praise(lane)
    if ending.kind != EndingKind.QUOTA:
        return None
    reason = (ending.message or "quota used up")[:MAX_MESSAGE]
    outcome = ending.outcome
    return ledger.refuse(lane, outcome.quota_scope, reason, outcome.retry_after, outcome.quota_daily)


def _move_to_wider_lane(ledger: Ledger, ending: Ending, lane: LaneBudgets | None, defaults: TaskDefaults) -> Ending:
    """The run needs more calls than its task held: queue it where tasks of so many calls wait, or fail it."""
    wanted = ending.outcome.calls_wanted
    if wanted is None:
        return ending
    columns = "task_type, source, username, app_id, report, start_date, end_date, task_data, label"
    row = ledger.transaction.execute(sql(f"SELECT {columns} FROM cl_crawl_task WHERE id = :id"), {"id": ending.task_id})
    values = dict(row.mappings().one())
    values |= {"start_date": day(values["start_date"]), "end_date": day(values["end_date"])}
    spec = TaskSpec(**values | {"task_data": json_value(values["task_data"])})
    cost = defaults.cost_of(spec)
    message = None
    if not cost.charges or not cost.calls:
        message = f"task type {spec.task_type} may not call {spec.source}: its executor declares no cost"
    elif wanted > MAX_CALLS or (lane is not None and wanted <= lane.calls):
        held = 0 if lane is None else lane.need(ledger.now)
        message = f"the task needs more than {held} calls at once, which is all that the quota of {spec.source} allows"
    if message is not None:
        return ending.failed(message)
    wider = lane_of(spec, defaults.cost_of)._replace(cost=cost._replace(calls=max(wanted, cost.calls)))
    return replace(ending, lane_id=ensure_lanes(ledger.transaction, {wider}).read()[wider])


def ask_ends(transaction: Transaction, endings: Sequence[Ending]) -> AskedEnds:
    """Lock the tasks, and the feeds whose figures the endings bring, and ask for what is known of those."""
    locked = _lock_tasks(transaction, {ending.task_id for ending in endings})
    return locked, range_store.Targets(transaction, replaced_by(endings))


def _lock_tasks(transaction: Transaction, ids: Collection[int]) -> Answer[Tasks]:
    """Lock those of these tasks that a run may end."""
    guard = task_guard("finish", "COALESCE(t.status, '')")  # COALESCE: by primary key, not by the index on status
    statement = sql(
        "SELECT t.id, t.task_type, t.assignment_id, t.lane_id, t.source, t.username, t.app_id, t.report, t.label,"
        " t.assigned_device_id, t.priority, t.order_key, t.next_run_at, t.retry, t.max_retry_count, t.crash_count"
        f" FROM {transaction.dialect.by_key(transaction.dialect.rows(id='int'), 'cl_crawl_task')} ON t.id = v.id"
        f" WHERE {guard} ORDER BY t.id{transaction.dialect.for_update_of_t}"
    )
    reply = transaction.execute(statement, {"rows": json_rows([task_id] for task_id in sorted(ids))})
    return reply.map(lambda rows: {row["id"]: row for row in rows.mappings()})


def _judge_lost(transaction: Transaction, endings: Sequence[Ending]) -> list[tuple[Ending, FenceVerdict]]:
    """An assignment that this very ending ended before is success; any other is stale."""
    if not endings:
        return []
    statement = sql(
        f"SELECT t.id, t.status FROM {transaction.dialect.rows(id='int')} JOIN cl_task_assignment t ON t.id = v.id"
    )
    rows = transaction.execute(statement, {"rows": json_rows([e.assignment_id] for e in endings)})
    states: dict[int, str] = dict(rows.all())
    return [
        (e, FenceVerdict.ALREADY if states.get(e.assignment_id) in ENDINGS[e.kind].own_ends else FenceVerdict.STALE)
        for e in endings
    ]


def _write(transaction: Transaction, moves: Sequence[NextMove]) -> None:
    """Both rows of every move, in two statements."""
    if not moves:
        return
    now = transaction.now
    runs, tasks = [], []
    for move in moves:
        ending, summary, rule = move.ending, move.ending.outcome.summary, MOVES[move.name]
        message = ending.message[:MAX_MESSAGE] if ending.message else None
        kind = None if ending.kind == EndingKind.OK else ending.kind
        ended = ending.completed_at or now
        over = move.next_run_at is None
        waits = move.next_run_at is not None and move.next_run_at > now
        runs.append((ending.assignment_id, str(rule.run_to), ending.started_at, ended, kind, message, summary))
        tasks.append(
            (
                ending.task_id,
                ending.assignment_id,
                str(rule.task_to),
                move.order_key,
                None if over or waits else move.order_key,
                move.next_run_at if waits else None,
                move.next_run_at,
                move.retry,
                move.crash_count,
                1 if over else 0,
                ended if over else None,
                summary,
                kind,
                message,
                ending.lane_id,
            )
        )
    dialect, at = transaction.dialect, stamp(now)
    for texts in json_batches(runs, dialect.batch_bytes):
        transaction.execute(_runs_statement(dialect), {"rows": texts, "now": at})
    for texts, count in counted_batches(tasks, dialect.batch_bytes):
        transaction.execute(_tasks_statement(dialect), {"rows": texts, "now": at}).must_change(count)


def _runs_statement(dialect: SqlDialect) -> sa.TextClause:
    json_cast = "CAST(v.summary AS json)" if dialect.family == "postgresql" else "v.summary"
    return sql(
        dialect.update_from(
            "cl_task_assignment",
            {
                "status": "v.status",
                "started_at": f"COALESCE({_after_assignment('started_at')}, t.started_at)",
                "completed_at": _after_assignment("completed_at"),
                "error_kind": "v.error_kind",
                "error_message": "v.error_message",
                "result_data": json_cast,
                "updated_at": dialect.moment("now"),
            },
            dialect.rows(
                id="int",
                status="text",
                started_at="moment",
                completed_at="moment",
                error_kind="text",
                error_message="text",
                summary="text",
            ),
            f"t.id = v.id AND {run_guard('finish', 't.status')}",
        )
    )


def _tasks_statement(dialect: SqlDialect) -> sa.TextClause:
    json_cast = "CAST(v.summary AS json)" if dialect.family == "postgresql" else "v.summary"
    return sql(
        dialect.update_from(
            "cl_crawl_task",
            {
                "status": "v.status",
                "assignment_id": "NULL",
                "order_key": "v.order_key",
                "ready_key": "v.ready_key",
                "wake_at": "v.wake_at",
                "next_run_at": "COALESCE(v.next_run_at, t.next_run_at)",
                "retry": "v.retry",
                "crash_count": "v.crash_count",
                "open_key": "CASE WHEN v.ended = 1 THEN NULL ELSE t.open_key END",
                "completed_at": "v.completed_at",
                "task_ret": json_cast,
                "error_kind": "v.error_kind",
                "error_message": "v.error_message",
                "lane_id": "COALESCE(v.lane_id, t.lane_id)",
                "updated_at": dialect.moment("now"),
            },
            dialect.rows(
                id="int",
                assignment_id="int",
                status="text",
                order_key="int",
                ready_key="int",
                wake_at="moment",
                next_run_at="moment",
                retry="int",
                crash_count="int",
                ended="int",
                completed_at="moment",
                summary="text",
                error_kind="text",
                error_message="text",
                lane_id="int",
            ),
            "t.id = v.id AND t.assignment_id = v.assignment_id",
        )
    )


def _after_assignment(column: str) -> str:
    """A moment of a run `t` given in `v`. Carried over from a node's clock it is early by as long as the database's
    answer took, but no run begins or ends before it was assigned."""
    return f"CASE WHEN v.{column} < t.assigned_at THEN t.assigned_at ELSE v.{column} END"


def mark_started(transaction: Transaction, started: Sequence[tuple[int, int, datetime]]) -> None:
    """Record that bodies began: (assignment id, task id, moment). Runs that ended or were lost are left alone."""
    if not started:
        return
    move = MOVES["start"]
    rows = json_rows(started)
    source = transaction.dialect.rows(id="int", task_id="int", started_at="moment")
    tasks = transaction.dialect.update_from(
        "cl_crawl_task",
        {"status": f"'{move.task_to}'", "updated_at": transaction.dialect.moment("now")},
        source,
        f"t.id = v.task_id AND t.assignment_id = v.id AND t.status = '{move.task_from[0]}'",
    )
    runs = transaction.dialect.update_from(
        "cl_task_assignment",
        {
            "status": f"'{move.run_to}'",
            "started_at": _after_assignment("started_at"),
            "updated_at": transaction.dialect.moment("now"),
        },
        source,
        f"t.id = v.id AND {run_guard('start', 't.status')}",
    )
    for statement in (tasks, runs):
        transaction.execute(sql(statement), {"rows": rows, "now": stamp(transaction.now)})
