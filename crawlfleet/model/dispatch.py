"""Assigning tasks to other devices, and taking over what was assigned: the two ends of a master's work.

A master writes what a device's own claim would write. A worker takes over its assigned runs, the oldest first, as its
slots become free, and writes `taken_at`; until then a master may take them back. Both hold the worker's row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from crawlfleet.core.db import Database
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.sql import json_rows, json_value, sql, stamp
from crawlfleet.core.transaction import Answer, Statements, Transaction
from crawlfleet.model import audit, signals
from crawlfleet.model.account import ask_accounts_of_lanes
from crawlfleet.model.claims import AccountKey, Claim, Registration, labels_fit, not_of
from crawlfleet.model.ending import Ending, Outcome
from crawlfleet.model.feed import ask_fetch_counts, feeds_of
from crawlfleet.model.gate import end_runs
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import LIVE_RUN, AssignmentStatus, DeviceStatus, quoted
from crawlfleet.model.task_columns import ask_large_data, task_columns, task_of

WAITING_PER_SLOT = 1  # runs that wait at a worker for each of its slots, so that none idles while the master is busy


class Kind(NamedTuple):
    """What a worker can run: tasks of these types that name no label, or one of these, and none of accounts whose token
    it lacks."""

    types: frozenset[str]
    labels: frozenset[str] = frozenset()
    lacking: frozenset[AccountKey] = frozenset()

    def takes(self, task: Mapping[str, Any]) -> bool:
        """Whether a task is for it."""
        if task["task_type"] not in self.types or (task["source"], task["username"]) in self.lacking:
            return False
        return task["label"] is None or task["label"] in self.labels


@dataclass
class Candidate:
    """A worker that a task could be assigned to.

    `live` counts its assigned and running runs, `waiting` those of them that it has not taken over yet, `given` what
    this master has assigned to it so far. Use of CPU and memory, in percent, is that of its latest beat, if any.
    """

    owner: Registration
    kind: Kind
    slots: int
    live: int
    waiting: int
    cpu_usage: float | None = None
    memory_usage: float | None = None
    given: int = 0

    @property
    def room(self) -> int:
        """How many more tasks it may be assigned."""
        return max(0, self.slots * (1 + WAITING_PER_SLOT) - self.live)

    @property
    def surplus(self) -> int:
        """How many runs wait at it for a slot that it does not have."""
        return max(0, min(self.waiting, self.live - self.slots))

    @property
    def idle_slots(self) -> int:
        """How many of its slots nothing is meant for."""
        return max(0, self.slots - self.live)


def candidates(reader: Statements, lock: bool) -> list[Candidate]:
    """The workers that are online and do not drain, by id; `lock` keeps each as it is until the transaction ends."""
    suffix = ""
    if lock:
        suffix = " FOR UPDATE OF d" if reader.dialect.family == "postgresql" else reader.dialect.for_update
    newest = "SELECT MAX(h.id) FROM cl_device_heartbeat h WHERE h.device_id = d.device_id"
    statement = sql(
        "SELECT d.device_id, d.epoch, d.capabilities, d.max_concurrent_tasks,"
        " (SELECT COUNT(*) FROM cl_task_assignment a WHERE a.device_id = d.device_id"
        f" AND a.status IN ({quoted(LIVE_RUN)})),"
        " (SELECT COUNT(*) FROM cl_task_assignment a WHERE a.device_id = d.device_id"
        f" AND a.status = '{AssignmentStatus.ASSIGNED}' AND a.taken_at IS NULL),"
        f" (SELECT b.cpu_usage FROM cl_device_heartbeat b WHERE b.id = ({newest})),"
        f" (SELECT b.memory_usage FROM cl_device_heartbeat b WHERE b.id = ({newest}))"
        f" FROM cl_device d WHERE d.device_type = 'worker' AND d.status = '{DeviceStatus.ONLINE}' AND NOT d.draining"
        f" ORDER BY d.device_id{suffix}"
    )
    return [
        Candidate(Registration(device_id, epoch), _kind(capabilities), slots, live, waiting, cpu, memory)
        for device_id, epoch, capabilities, slots, live, waiting, cpu, memory in reader.execute(statement).all()
    ]


def _kind(capabilities: Any) -> Kind:
    can = json_value(capabilities) or {}
    lacking = frozenset((each["source"], each["username"]) for each in can.get("lacking", ()))
    return Kind(frozenset(can.get("supported_tasks", ())), frozenset(can.get("labels", ())), lacking)


def take_back(
    ledger: Ledger,
    candidate: Candidate,
    count: int,
    kind: Kind,
) -> int:
    """Give runs that a locked worker has not taken over, and that are for this kind, back to the queue; how many.

    The newest go first.
    """
    statement = sql(
        "SELECT a.id, a.task_id FROM cl_task_assignment a JOIN cl_crawl_task l ON l.id = a.task_id"
        " WHERE a.device_id = :device_id AND a.device_epoch = :epoch"
        f" AND a.status = '{AssignmentStatus.ASSIGNED}' AND a.taken_at IS NULL"
        f" AND {ledger.transaction.dialect.is_among('l.task_type', 'types')}"
        f" AND {labels_fit(ledger.transaction.dialect)}{not_of(ledger.transaction.dialect, kind.lacking)}"
        " ORDER BY a.assigned_at DESC, a.id DESC LIMIT :count"
    )
    lists = {"types": json.dumps(sorted(kind.types)), "labels": json.dumps(sorted(kind.labels))}
    if kind.lacking:
        lists["rows"] = json_rows(sorted(kind.lacking))
    parameters = {**candidate.owner._asdict(), **lists, "count": count}
    endings = [
        Ending(assignment_id, task_id, Outcome(EndingKind.RELEASED, "another device has a free slot"))
        for assignment_id, task_id in ledger.transaction.execute(statement, parameters).all()
    ]
    end_runs(ledger, endings)
    return len(endings)


def unlevel(workers: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
    """Where runs wait while another worker is idle that knows some of their types: (idle, busy)."""
    return [
        (idle, busy)
        for idle in workers
        for busy in workers
        if idle.idle_slots and busy.surplus and idle.kind.types & busy.kind.types
    ]


def level(ledger: Ledger, workers: Sequence[Candidate]) -> int:
    """Take back what waits at busy workers, as much as idle ones could run now; how many. All are locked."""
    taken: Counter[Registration] = Counter()  # by the idle worker for whom it was taken back
    for idle, busy in unlevel(workers):
        # what waits may be for other labels: only what was found there fills the idle one's slots
        count = min(busy.surplus, idle.idle_slots - taken[idle.owner])
        if count > 0:
            moved = take_back(ledger, busy, count, idle.kind)
            busy.live -= moved
            busy.waiting -= moved
            taken[idle.owner] += moved
    return taken.total()


def rebalance(db: Database, actor: str | None = None) -> int:
    """Do so once, whether a master lives or not; how many tasks went back to the queue."""

    def work(transaction: Transaction) -> int:
        workers = candidates(transaction, lock=True)
        ledger = Ledger(transaction)
        taken = level(ledger, workers)
        ledger.close()
        audit.record(transaction, actor, "management.rebalance", tasks=taken)
        if taken:
            signals.tasks_changed(transaction)
        return taken

    return db.write(work)


def ask_assigned(reader: Statements, owner: Registration, held: Collection[int], count: int) -> Answer[list[Any]]:
    """Ask for up to `count` runs that were assigned to this device and that it does not hold."""
    statement = sql(
        f"SELECT a.id AS assignment_id, {task_columns(reader.dialect.family)}"
        " FROM cl_task_assignment a JOIN cl_crawl_task t ON t.id = a.task_id AND t.assignment_id = a.id"
        " WHERE a.device_id = :device_id AND a.device_epoch = :epoch"
        f" AND a.status = '{AssignmentStatus.ASSIGNED}' ORDER BY a.assigned_at, a.id LIMIT :count"
    )
    # those it holds and has not begun come first, so they must not use up the limit
    parameters = {**owner._asdict(), "count": count + len(held)}
    reply = reader.execute(statement, parameters)
    return reply.map(lambda rows: [row for row in rows.mappings() if row["assignment_id"] not in held][:count])


def adopt(ledger: Ledger, rows: Sequence[Any], lead_seconds: float = 1.0) -> list[Claim]:
    """Take over runs that were assigned to this device, whose row is locked; their calls are held anew from now on.

    A run that could send them only after `lead_seconds`, since its budget was closed meanwhile, goes back to the queue
    instead of waiting in a slot.
    """
    lane_ids = {row["lane_id"] for row in rows if row["source"] is not None}
    transaction = ledger.transaction
    asked = ask_accounts_of_lanes(transaction, lane_ids)
    lanes = ledger.load(lane_ids)
    accounts = asked.read()
    fetch_counts, large_data = ask_fetch_counts(transaction, feeds_of(rows)), ask_large_data(transaction, rows)
    adopted, ids, early = [], [], []
    for row in rows:
        calls: tuple[Any, ...] | None = ()
        if (lane := lanes.get(row["lane_id"])) is not None:
            ledger.book(lane, row["assignment_id"], [], is_over=True)
            if not lane.room(ledger.now, ledger.now + timedelta(seconds=lead_seconds), 1, {}):
                closed = Outcome(EndingKind.RELEASED, "its budget was closed before it began")
                early.append(Ending(row["assignment_id"], row["id"], closed))
                continue
            calls = ledger.hold(lane, row["assignment_id"])
        account = accounts.get((row["source"], row["username"]), (None, None))[0]
        ids.append([row["assignment_id"]])
        given = calls, row["data_bytes"] or 0, large_data, fetch_counts
        adopted.append(Claim(row["assignment_id"], task_of(row), account, *given))
    if ids:
        taken = {"taken_at": transaction.dialect.moment("now"), "updated_at": transaction.dialect.moment("now")}
        statement = transaction.dialect.update_from(
            "cl_task_assignment", taken, transaction.dialect.rows(id="int"), "t.id = v.id"
        )
        transaction.execute(sql(statement), {"rows": json_rows(ids), "now": stamp(transaction.now)})
    end_runs(ledger, early)
    return adopted
