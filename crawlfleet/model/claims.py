"""Claiming: due tasks become assignments of one device.

Two strategies stand behind one call, chosen by a probe (`claim_strategy`). SKIP LOCKED passes over rows that another
device is claiming. Compare-and-set locks nothing while it looks: it takes what is still pending, then reads back what
it got. That is right on any database, also where SKIP LOCKED is accepted and ignored (SQLite, TiDB) or means nothing
to the other writers of a cluster (Galera).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.sql import SqlDialect, json_rows, sql, stamp
from crawlfleet.core.transaction import Answer, AnyRow, Result, Statements, Transaction
from crawlfleet.model.account import Accounts, ask_accounts_of_lanes
from crawlfleet.model.budget import Window
from crawlfleet.model.claim_strategy import Strategy
from crawlfleet.model.feed import FetchCounts, ask_fetch_counts, feeds_of
from crawlfleet.model.lane_budgets import LaneBudgets
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import AccountStatus, AssignmentStatus, TaskStatus, task_guard
from crawlfleet.model.task_columns import ask_large_data, task_columns, task_of
from crawlfleet.model.task_spec import Task

AccountKey = tuple[str, str]  # source, username
EPOCH_SHIFT = 31  # assignment id = epoch x 2^31 + counter: below 2^53 (exact in JSON) for 4 million registrations
MAX_LANES = 64  # lanes of one claim; the next turn takes the others' heads
SPARE_LANES = 16  # looked at even for a single slot: others may be claiming from some
MAX_HELD_BYTES = 64 * 1024 * 1024  # of task_data that one device holds
PROMOTE_BATCH = 1000  # tasks or lanes whose time has come, in one transaction


class AssignmentIds:
    """Assignment ids of one registration, contiguous within a claim; unique in the fleet, growing."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._counter = itertools.count((epoch << EPOCH_SHIFT) + 1)

    def take(self, count: int) -> list[int]:
        return list(itertools.islice(self._counter, count))


class Registration(NamedTuple):
    """Whom a run is assigned to: one registration of a device."""

    device_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One assignment that this device now holds, with all its body needs.

    `calls` says when each call of its source may be sent; None: as many as it likes, at any time. With the commit come
    `fetch_counts`, which tell of the feeds that the task may write, and `large_data`: task_data, by the task's id, that
    its candidate did not bring. `data_bytes` is how large that is.
    """

    assignment_id: int
    task: Task
    account: Account | None
    calls: tuple[Window, ...] | None = ()
    data_bytes: int = 0
    large_data: Answer[dict[int, Any]] = field(default_factory=lambda: Answer.of({}))
    fetch_counts: Answer[FetchCounts] = field(default_factory=lambda: Answer.of({}))

    def whole(self) -> Claim:
        """The claim with all its task_data, once it is committed."""
        data = self.large_data.read().get(self.task.id)
        return self if data is None else replace(self, task=replace(self.task, task_data=data))


@dataclass(frozen=True, slots=True)
class Head:
    """A lane that may be claimed from and the order key of its first task."""

    lane_id: int
    key: int
    sourced: bool


def open_heads(
    reader: Statements, types: Collection[str], labels: Collection[str] = (), lacking: Collection[AccountKey] = ()
) -> list[Head]:
    """The most urgent lanes that a device of these types and labels may claim from, the most urgent first; none of an
    account whose token it lacks. Locks nothing."""
    return ask_heads(reader, types, labels, lacking).read()


def ask_heads(
    reader: Statements, types: Collection[str], labels: Collection[str] = (), lacking: Collection[AccountKey] = ()
) -> Answer[list[Head]]:
    """Ask for `open_heads`."""
    condition = f"{reader.dialect.is_among('l.task_type', 'types')} AND {labels_fit(reader.dialect)}"
    may_use = not_of(reader.dialect, lacking)
    # SQLite read all lanes once its statistics said that most have the same source.
    hint = " INDEXED BY ix_lane_account" if reader.dialect.family == "sqlite" else ""
    statement = sql(
        # no source: nothing can close such a lane, and nobody keeps its head
        "SELECT l.id, 0, (SELECT t.ready_key FROM cl_crawl_task t WHERE t.ready_lane_id = l.id"
        " ORDER BY t.ready_key LIMIT 1) AS head"
        f" FROM cl_lane l{hint} WHERE l.source IS NULL AND {condition}"
        " UNION ALL SELECT * FROM (SELECT l.id, 1, l.ready_key FROM cl_lane l"
        f" WHERE l.ready_key IS NOT NULL AND {condition}{may_use} ORDER BY l.ready_key LIMIT {MAX_LANES}) AS open_lanes"
    )
    lists = {"types": json.dumps(sorted(types)), "labels": json.dumps(sorted(labels))}
    if lacking:
        lists["rows"] = json_rows(sorted(lacking))
    return reader.execute(statement, lists).map(_most_urgent)


def _most_urgent(result: Result) -> list[Head]:
    heads = (Head(lane, key, bool(sourced)) for lane, sourced, key in result.all() if key is not None)
    return sorted(heads, key=lambda head: head.key)[:MAX_LANES]


def not_of(dialect: SqlDialect, accounts: Collection[AccountKey]) -> str:
    """A further condition: the lane `l` is of none of these accounts, which are bound as `rows`; nothing for none."""
    if not accounts:
        return ""
    same = "v.source = l.source AND v.username = l.username"
    return f" AND NOT EXISTS (SELECT 1 FROM {dialect.rows(source='text', username='text')} WHERE {same})"


def labels_fit(dialect: SqlDialect) -> str:
    """Whether a device with the labels of the bound JSON list `labels` takes tasks of the lane `l`."""
    return f"(l.label IS NULL OR {dialect.is_among('l.label', 'labels')})"


@dataclass(frozen=True)
class ClaimRequest:
    """What one claim wants: due tasks of the lanes `heads`, up to `slots`, and `reserve` more without a source.

    `place` says whom a task goes to, or None to leave it. `ids` are those of the device that claims. Tasks whose budget
    reopens within `lead_seconds` are claimed ahead of it. `free` is what `ask_free` gave for `slots` and `reserve`
    together, or more, for a caller who asked along with the heads. What the tasks carry is at most `most_bytes`, unless
    a single one is larger.
    """

    strategy: Strategy
    place: Callable[[AnyRow], Registration | None]
    ids: AssignmentIds
    heads: Sequence[Head]
    slots: int
    reserve: int = 0
    lead_seconds: float = 0.0
    free: Free | None = None
    most_bytes: int = MAX_HELD_BYTES

    @property
    def count(self) -> int:
        """Most tasks that it may give."""
        return max(0, self.slots + self.reserve)


def claim(ledger: Ledger, request: ClaimRequest) -> list[Claim]:
    """Assign due tasks, the most urgent first; tasks of a source hold the calls that they need.

    The caller holds the locks of the devices' rows, has seen that their leases hold, and closes the ledger.
    Two callers never receive the same task. Within one claim of several lanes the most urgent task is always
    taken; a less urgent one may come before an equal of another lane.
    """
    if not request.count:
        return []
    transaction = ledger.transaction
    lanes, wanted = _open_lanes(ledger, request)
    rows: list[AnyRow] = []
    if request.free is not None:
        asked_before = request.free.lanes
        wanted = [(lane_id, count) for lane_id, count in wanted if lane_id not in asked_before]
        rows += request.free.due.mappings()
    due = _ask_candidates(transaction, request.strategy, wanted) if wanted else None
    accounts = ask_accounts_of_lanes(transaction, lanes).read()
    rows += due.mappings() if due is not None else ()
    candidates = sorted(rows, key=lambda row: (row["ready_key"], row["id"]))
    picked = _pick(ledger, request, candidates, accounts)
    seen = {row["lane_id"] for row in candidates}
    ledger.touch(lane_id for lane_id in lanes if lane_id not in seen)  # all its tasks were taken or cancelled
    if not picked:
        return []
    numbers = request.ids.take(len(picked))
    assigned = [(row, owner, number) for (row, owner), number in zip(picked, numbers, strict=True)]
    _take(transaction, assigned)
    if request.strategy is Strategy.COMPARE_AND_SET and transaction.dialect.family != "sqlite":
        won = _won(transaction, assigned)
        assigned = [each for each in assigned if each[0]["id"] in won]
    _open_runs(transaction, assigned)
    fetch_counts = ask_fetch_counts(transaction, feeds_of(row for row, _, _ in assigned))
    own = [row for row, owner, _ in assigned if owner.epoch == request.ids.epoch]  # a master reads no worker's
    large_data = ask_large_data(transaction, own)
    ledger.touch(row["lane_id"] for row, _, _ in assigned if row["lane_id"] in lanes)
    return [
        Claim(
            number,
            task_of(row),
            accounts.get((row["source"], row["username"]), (None, None))[0],
            ledger.hold(lanes[row["lane_id"]], number) if row["lane_id"] in lanes else (),
            row["data_bytes"] or 0,
            large_data,
            fetch_counts,
        )
        for row, _, number in assigned
    ]


def _pick(
    ledger: Ledger, request: ClaimRequest, candidates: Sequence[AnyRow], accounts: Accounts
) -> list[tuple[AnyRow, Registration]]:
    """Which of the candidates, the most urgent first, go to whom."""
    picked: list[tuple[AnyRow, Registration]] = []
    sourced = size = 0
    for row in candidates:
        size += row["data_bytes"] or 0
        if len(picked) == request.count or (picked and size > request.most_bytes):
            break
        if row["source"] is not None:
            status = accounts.get((row["source"], row["username"]), (None, None))[1]
            if status not in (None, AccountStatus.HEALTHY):
                ledger.touch([row["lane_id"]])  # parked while the task was added
                continue
            if sourced == request.slots:
                continue
        owner = request.place(row)
        if owner is not None:
            sourced += row["source"] is not None
            picked.append((row, owner))
    return picked


def _open_lanes(ledger: Ledger, request: ClaimRequest) -> tuple[dict[int, LaneBudgets], list[tuple[int, int]]]:
    """The lanes of a source whose budgets are ours for this transaction, and (lane, tasks wanted) of all lanes.

    Lanes that share a budget share its room. What looks open and is not gets closed with the ledger.
    """
    heads = request.heads[: max(SPARE_LANES, request.slots)]
    wanted = [(head.lane_id, request.count) for head in heads if not head.sourced]
    lanes: dict[int, LaneBudgets] = {}
    if request.slots > 0:
        horizon = ledger.now + timedelta(seconds=request.lead_seconds)
        sourced = [head.lane_id for head in heads if head.sourced]
        loaded = ledger.load(sourced, skip_locked=request.strategy is Strategy.SKIP_LOCKED)
        taken: Counter[int] = Counter()
        for lane_id in sourced:
            lane = loaded.get(lane_id)
            if lane is None:
                continue
            room = lane.room(ledger.now, horizon, request.slots, taken)
            if room == 0:
                ledger.postpone(lane)
                continue
            for budget in lane.budgets:
                taken[budget.id] += room * lane.need(ledger.now)
            lanes[lane_id] = lane
            wanted.append((lane_id, room))
    return lanes, wanted


class Free(NamedTuple):
    """Tasks of these lanes without a source, asked for."""

    lanes: Collection[int]
    due: Result


def ask_free(transaction: Transaction, strategy: Strategy, lanes: Collection[int], count: int) -> Free | None:
    """Ask for so many due tasks of each of these lanes, which have no source, before their heads are known."""
    if not lanes:
        return None
    return Free(lanes, _ask_candidates(transaction, strategy, [(each, count) for each in lanes]))


def _ask_candidates(transaction: Transaction, strategy: Strategy, wanted: Sequence[tuple[int, int]]) -> Result:
    """Ask for so many due tasks of each of these lanes."""
    parameters: dict[str, Any] = {}
    for i, (lane_id, count) in enumerate(wanted):
        parameters |= {f"lane{i}": lane_id, f"count{i}": count}
    return transaction.execute(
        _candidates(transaction.dialect.family, len(wanted), strategy is Strategy.SKIP_LOCKED), parameters
    )


@cache
def _candidates(family: str, lanes: int, skip_locked: bool) -> sa.TextClause:
    """The first due tasks of each lane; the index (ready_lane_id, ready_key, id) is the whole way there."""
    # MariaDB and MySQL preferred the primary key once many rows had ended.
    hint = " FORCE INDEX (ix_crawl_task_claim)" if family == "mysql" else ""
    lock = " FOR UPDATE SKIP LOCKED" if skip_locked else ""
    parts = [
        f"SELECT {task_columns(family)} FROM cl_crawl_task t{hint} WHERE t.ready_lane_id = :lane{i}"
        f" ORDER BY t.ready_key, t.id LIMIT :count{i}{lock}"
        for i in range(lanes)
    ]
    if lanes == 1:
        return sql(parts[0])
    return sql(" UNION ALL ".join(f"SELECT * FROM ({part}) AS lane{i}" for i, part in enumerate(parts)))


_Assigned = Sequence[tuple[AnyRow, Registration, int]]  # the task, whom it goes to, the id of the run


def _take(transaction: Transaction, assigned: _Assigned) -> None:
    # COALESCE keeps SQLite off the index on status, which made this statement 300 times slower.
    guard = task_guard("claim", "COALESCE(t.status, '')")
    statement = transaction.dialect.update_from(
        "cl_crawl_task",
        {
            "status": f"'{TaskStatus.ASSIGNED}'",
            "assignment_id": "v.assignment_id",
            "assigned_device_id": "v.device_id",
            "assigned_at": transaction.dialect.moment("now"),
            "updated_at": transaction.dialect.moment("now"),
            "ready_key": "NULL",
        },
        transaction.dialect.rows(id="int", ready_key="int", assignment_id="int", device_id="text"),
        f"t.id = v.id AND t.ready_key = v.ready_key AND {guard}",
    )
    # in one order everywhere: two claims must not lock crosswise
    rows = sorted((row["id"], row["ready_key"], number, owner.device_id) for row, owner, number in assigned)
    transaction.execute(sql(statement), {"rows": json_rows(rows), "now": stamp(transaction.now)})


def _won(transaction: Transaction, assigned: _Assigned) -> set[int]:
    statement = sql(
        f"SELECT t.id FROM {transaction.dialect.rows(id='int', assignment_id='int')}"
        " JOIN cl_crawl_task t ON t.id = v.id WHERE t.assignment_id = v.assignment_id"
    )
    rows = json_rows((row["id"], number) for row, _, number in assigned)
    return set(transaction.execute(statement, {"rows": rows}).scalars())


def _open_runs(transaction: Transaction, assigned: _Assigned) -> None:
    if not assigned:
        return
    at = transaction.dialect.moment("now")
    columns = {"id": "int", "task_id": "int", "device_id": "text", "epoch": "int", "retry": "int", "taken_at": "moment"}
    statement = sql(
        "INSERT INTO cl_task_assignment"
        " (id, task_id, device_id, device_epoch, status, retry_count, taken_at, assigned_at, created_at, updated_at)"
        f" SELECT id, task_id, device_id, epoch, '{AssignmentStatus.ASSIGNED}', retry, taken_at, {at}, {at}, {at}"
        f" FROM {transaction.dialect.rows(**columns)}"
    )
    rows = [
        # a device that claims for itself takes the run with the claim; a master's worker will do so later
        (number, row["id"], *owner, row["retry"], transaction.now if number >> EPOCH_SHIFT == owner.epoch else None)
        for row, owner, number in assigned
    ]
    transaction.execute(statement, {"rows": json_rows(rows), "now": stamp(transaction.now)})


def promote(db: Database, lead_seconds: float = 0.0, now: datetime | None = None) -> int:
    """Make tasks ready that came due, then open the lanes whose budgets reopen within `lead_seconds`; how many.

    Each in a short transaction of its own, which passes over what another device is promoting.
    """

    def make_ready(transaction: Transaction) -> int:
        ledger = Ledger(transaction)
        due = transaction.execute(due_tasks, {"now": stamp(transaction.now)}).all()
        if due:
            ready = {"ready_key": "t.order_key", "wake_at": "NULL"}
            statement = dialect.update_from("cl_crawl_task", ready, ids, "t.id = v.id")
            transaction.execute(sql(statement), {"rows": json_rows([task_id] for task_id, _, _ in due)})
            ledger.touch(lane_id for _, lane_id, source in due if source is not None)
            ledger.close()
        return len(due)

    def open_lanes(transaction: Transaction) -> int:
        horizon = transaction.now + timedelta(seconds=lead_seconds)
        opening = transaction.execute(opening_lanes, {"horizon": stamp(horizon)}).scalars().all()
        if opening:
            ready = {"ready_key": "t.head_key", "wake_at": "NULL"}
            statement = dialect.update_from("cl_lane", ready, ids, "t.id = v.id")
            transaction.execute(sql(statement), {"rows": json_rows([lane_id] for lane_id in opening)})
        return len(opening)

    dialect = db.dialect
    lock = dialect.for_update + dialect.skip_locked
    ids = dialect.rows(id="int")
    due_tasks = sql(
        f"SELECT id, lane_id, source FROM cl_crawl_task WHERE wake_at <= {dialect.moment('now')}"
        f" ORDER BY wake_at LIMIT {PROMOTE_BATCH}{lock}"
    )
    opening_lanes = sql(
        f"SELECT id FROM cl_lane WHERE wake_at <= {dialect.moment('horizon')}"
        f" ORDER BY wake_at LIMIT {PROMOTE_BATCH}{lock}"
    )
    return db.write(make_ready, now) + db.write(open_lanes, now)
