"""What stands before a task, and how much is open: looks at the queue along its indexes. Nothing here locks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from crawlfleet.core.sql import SqlDialect, json_rows, sql, stamp, utc
from crawlfleet.core.transaction import Statements
from crawlfleet.model.claims import labels_fit
from crawlfleet.model.lifecycle import LIVE, AssignmentStatus, quoted
from crawlfleet.model.next_move import KILLER_CRASHES

COUNT_CAP = 10_000  # tasks ahead are not counted further
SPEED_RUNS = 500  # newest ended runs that tell how long a task of each type takes


def ahead_in_budget(reader: Statements, budget_id: int, ready_key: int, task_id: int) -> int:
    """How many tasks that need this budget come before this one, at most COUNT_CAP."""
    return _ahead(
        reader,
        f"cl_lane_budget l JOIN cl_crawl_task t{_claim_index(reader.dialect)} ON t.ready_lane_id = l.lane_id"
        " WHERE l.budget_id = :budget",
        {"budget": budget_id, "key": ready_key, "id": task_id},
    )


def ahead_of_slots(
    reader: Statements,
    types: Collection[str],
    labels: Collection[str],
    ready_key: int,
    task_id: int,
) -> int:
    """How many tasks that devices of these types and labels take, in open lanes, come before this one.

    At most COUNT_CAP.
    """
    return _ahead(
        reader,
        f"{reader.dialect.rows(task_type='text')} JOIN cl_lane l ON l.task_type = v.task_type"
        f" JOIN cl_crawl_task t{_claim_index(reader.dialect)} ON t.ready_lane_id = l.id"
        f" WHERE (l.source IS NULL OR l.ready_key <= :key) AND {labels_fit(reader.dialect)}",
        {
            "rows": json_rows([each] for each in sorted(types)),
            "labels": json.dumps(sorted(labels)),
            "key": ready_key,
            "id": task_id,
        },
    )


def _ahead(reader: Statements, source: str, parameters: dict[str, object]) -> int:
    statement = sql(
        f"SELECT COUNT(*) FROM (SELECT t.id FROM {source} AND t.ready_key <= :key"
        f" AND (t.ready_key < :key OR t.id < :id) LIMIT {COUNT_CAP}) AS ahead"
    )
    return int(reader.execute(statement, parameters).scalar_one())


def _claim_index(dialect: SqlDialect) -> str:
    return " FORCE INDEX (ix_crawl_task_claim)" if dialect.family == "mysql" else ""  # as in claims.py


def waiting_for(reader: Statements, budget_ids: Collection[int]) -> dict[int, int]:
    """How many due tasks need each of these budgets."""
    if not budget_ids:
        return {}
    statement = sql(
        "SELECT w.budget_id, SUM(w.tasks) FROM (SELECT lb.budget_id, (SELECT COUNT(*) FROM cl_crawl_task t"
        f"{_claim_index(reader.dialect)} WHERE t.ready_lane_id = lb.lane_id) AS tasks"
        f" FROM {reader.dialect.rows(id='int')} JOIN cl_lane_budget lb ON lb.budget_id = v.id) AS w"
        " GROUP BY w.budget_id"
    )
    rows = reader.execute(statement, {"rows": json_rows([each] for each in sorted(budget_ids))})
    return {budget_id: int(tasks) for budget_id, tasks in rows}


def budget_ids(
    reader: Statements,
    now: datetime,
    source: str | None,
    username: str | None,
    blocked_only: bool,
    after: int | None = None,
    limit: int | None = None,
) -> list[int]:
    """The budgets of a source and an account, those included that all accounts share; None: of every one. By id, only
    from behind `after` on, at most `limit`."""
    conditions = ["1 = 1"]
    if source is not None:
        conditions.append("source = :source")
    if username is not None:
        conditions.append("username IN (:username, '')")
    if blocked_only:
        conditions.append("(open_at > :now OR closed_until > :now)")
    if after is not None:
        conditions.append("id > :after")
    most = "" if limit is None else " LIMIT :limit"
    statement = sql(f"SELECT id FROM cl_budget WHERE {' AND '.join(conditions)} ORDER BY id{most}")
    parameters = {"source": source, "username": username, "now": stamp(now), "after": after, "limit": limit}
    used = {name: value for name, value in parameters.items() if f":{name}" in str(statement)}
    return list(reader.execute(statement, used).scalars())


@dataclass
class OpenLane:
    """What is open of one lane: tasks that are due, that are not due yet (the last one at `last_due_at`), and that
    devices have now. `retrying` of those not due did not succeed before, for such a reason as `retry_reason`, and come
    back from `next_retry_at` on; the others are due from `next_due_at` on. `is_closed`: those that are due wait for the
    account's quota, until `opens_at` (None: until running tasks end). Runs of `killers` die again and again; one is the
    task `killer`."""

    id: int
    task_type: str
    source: str | None
    username: str | None
    label: str | None
    is_blocked: bool = False  # until a person acts; whoever asks decides
    is_closed: bool = False
    opens_at: datetime | None = None
    due: int = 0
    later: int = 0
    live: int = 0
    last_due_at: datetime | None = None
    retrying: int = 0
    next_retry_at: datetime | None = None
    retry_reason: str | None = None
    next_due_at: datetime | None = None
    killers: int = 0
    killer: int | None = None

    @property
    def tasks(self) -> int:
        return self.due + self.later + self.live


def open_lanes(reader: Statements) -> list[OpenLane]:
    """All lanes with open tasks, as they stand in one moment: no task is missed that moves meanwhile."""
    is_retry = "error_kind IS NOT NULL"
    nothing = ", NULL" * 5
    kills = f"crash_count >= {KILLER_CRASHES}"
    killers = f", COUNT(CASE WHEN {kills} THEN 1 END) AS killers, MIN(CASE WHEN {kills} THEN id END) AS killer"
    counts = sql(
        "SELECT lane_id, 0 AS due, COUNT(*) AS later, 0 AS live, MAX(wake_at) AS last_due_at,"
        f" COUNT(CASE WHEN {is_retry} THEN 1 END) AS retrying,"
        f" MIN(CASE WHEN {is_retry} THEN wake_at END) AS next_retry_at,"
        f" MIN(CASE WHEN {is_retry} THEN error_message END) AS retry_reason,"
        f" MIN(CASE WHEN error_kind IS NULL THEN wake_at END) AS next_due_at{killers}"
        " FROM cl_crawl_task WHERE wake_at IS NOT NULL GROUP BY lane_id"
        " UNION ALL SELECT l.id, (SELECT COUNT(*) FROM cl_crawl_task t"
        f"{_claim_index(reader.dialect)} WHERE t.ready_lane_id = l.id), 0, 0{nothing}, 0, NULL FROM cl_lane l"
        f" UNION ALL SELECT lane_id, 0, 0, COUNT(*){nothing}{killers} FROM cl_crawl_task"
        f" WHERE status IN ({quoted(LIVE)}) GROUP BY lane_id"
    )
    rows = reader.execute(counts).mappings().all()
    names = sql(
        "SELECT id, task_type, source, username, label,"
        " CASE WHEN source IS NOT NULL AND head_key IS NOT NULL AND ready_key IS NULL THEN 1 ELSE 0 END, wake_at"
        " FROM cl_lane ORDER BY id"
    )
    lanes = {}
    for lane_id, task_type, source, username, label, is_closed, opens_at in reader.execute(names):
        lane = OpenLane(lane_id, task_type, source, username, label)
        lane.is_closed, lane.opens_at = bool(is_closed), utc(opens_at)
        lanes[lane_id] = lane
    for row in rows:
        lane = lanes[row["lane_id"]]
        lane.due, lane.later, lane.live = lane.due + row["due"], lane.later + row["later"], lane.live + row["live"]
        lane.killers, lane.killer = lane.killers + row["killers"], lane.killer or row["killer"]
        if row["later"]:
            lane.last_due_at, lane.next_due_at = utc(row["last_due_at"]), utc(row["next_due_at"])
            lane.retrying, lane.retry_reason = row["retrying"], row["retry_reason"]
            lane.next_retry_at = utc(row["next_retry_at"])
    return [lane for lane in lanes.values() if lane.tasks]


def due_of_unknown_types(reader: Statements, types: Collection[str]) -> dict[str, int]:
    """How many tasks are due of each type that is not among `types`."""
    statement = sql(
        f"SELECT l.task_type, (SELECT COUNT(*) FROM cl_crawl_task t{_claim_index(reader.dialect)}"
        " WHERE t.ready_lane_id = l.id) AS due FROM cl_lane l"
        f" WHERE NOT {reader.dialect.is_among('l.task_type', 'types')}"
    )
    counts: Counter[str] = Counter()
    for task_type, due in reader.execute(statement, {"types": json.dumps(sorted(types))}):
        counts[task_type] += due
    return dict(+counts)


@dataclass(frozen=True)
class EndedRun:
    """A run that ended by itself, and how long its body took."""

    task_type: str
    source: str | None
    username: str | None
    completed: bool
    seconds: float | None


def newest_runs(reader: Statements) -> list[EndedRun]:
    """The newest SPEED_RUNS runs of the fleet that completed or failed, newest first; others went back unspent."""
    states = (AssignmentStatus.COMPLETED, AssignmentStatus.FAILED)
    statement = sql(
        "SELECT t.task_type, t.source, t.username, r.status, r.started_at, r.completed_at FROM"
        " (SELECT task_id, status, started_at, completed_at FROM cl_task_assignment WHERE completed_at IS NOT NULL"
        f" AND status IN ({quoted(states)}) ORDER BY completed_at DESC LIMIT {SPEED_RUNS}) AS r"
        " JOIN cl_crawl_task t ON t.id = r.task_id ORDER BY r.completed_at DESC"
    )
    runs = []
    for task_type, source, username, status, started, completed in reader.execute(statement):
        began, end = utc(started), utc(completed)
        seconds = None if began is None or end is None else (end - began).total_seconds()
        runs.append(EndedRun(task_type, source, username, status == AssignmentStatus.COMPLETED, seconds))
    return runs


def added_on_days(reader: Statements, now: datetime, days: int) -> list[dict[int, int]]:
    """How many tasks each lane got in each of the last so many times 24 hours, the newest first.

    Empty when the queue is not that old. Where a day begins is found by halving the range of ids: ids grow with
    `created_at`, which needs no index of its own for this.
    """
    # two selects: asked for both at once, SQLite reads the whole table
    ends = sql("SELECT (SELECT MIN(id) FROM cl_crawl_task), (SELECT MAX(id) FROM cl_crawl_task)")
    first, last = reader.execute(ends).one()
    if first is None:
        return []
    starts = [_first_since(reader, now - timedelta(days=n), first, last + 1) for n in range(days + 1)]
    if starts[-1] == first:  # nothing is older than the first of these days
        return []
    count = sql("SELECT lane_id, COUNT(*) FROM cl_crawl_task WHERE id >= :first AND id < :next GROUP BY lane_id")
    return [
        dict(reader.execute(count, {"first": begin, "next": end}).all()) for end, begin in itertools.pairwise(starts)
    ]


def _first_since(reader: Statements, moment: datetime, low: int, high: int) -> int:
    """The smallest id of a task created at that moment or later; `high` when there is none."""
    probe = sql("SELECT id, created_at FROM cl_crawl_task WHERE id >= :id ORDER BY id LIMIT 1")
    while low < high:
        middle = (low + high) // 2
        row = reader.execute(probe, {"id": middle}).first()
        created = None if row is None else utc(row[1])
        if row is None or created is None or created >= moment:
            high = middle
        else:
            low = row[0] + 1
    return high
