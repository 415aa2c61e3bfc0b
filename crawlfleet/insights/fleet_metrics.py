"""The fleet in figures for whoever watches it: read-only, all of it from indexes and small tables.

What is open is counted along the claim index, so it takes as long as the queue is deep (0.1 s for a million due tasks);
what has ended is not counted, but for failed tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, stamp, utc
from crawlfleet.core.transaction import Reader
from crawlfleet.model import fleet_state, queue_depth
from crawlfleet.model.lifecycle import LIVE, AccountStatus, DeviceStatus, TaskStatus, quoted

MAX_LABELS = 50  # task types, or limits of sources; those with fewer tasks or calls count as OTHER
OTHER = "other"
MISSING_DAYS = (1, 2, 3)  # that many days ago
KEPT_DAYS = 7  # a feed is kept when one of so many days before has been fetched
DUE, LATER = "due", "later"  # the two kinds of pending


@dataclass(frozen=True)
class LimitUse:
    """The budgets of one limit: how many allow a call now, are used up, are closed by a refusal; and calls in use."""

    open: int = 0
    used_up: int = 0
    closed: int = 0
    calls: int = 0


@dataclass(frozen=True)
class FleetMetrics:
    """What is open by (state, type), where a state is due, later, assigned or running; ages in seconds.

    `oldest_due` is by "open" (could be claimed now) and "closed" (waits for a quota or a person), without an entry
    where nothing waits. `feeds_missing` is by days ago.
    """

    tasks: Mapping[tuple[str, str], int]
    failed_tasks: int
    oldest_due: Mapping[str, float]
    devices: Mapping[str, int]
    oldest_beat: float | None
    accounts: Mapping[str, int]
    limits: Mapping[tuple[str, str], LimitUse]
    feeds: int
    feeds_missing: Mapping[int, int] = field(default_factory=dict)
    paused: bool = False


def read_fleet_metrics(db: Database) -> FleetMetrics:
    """All of them, as of now."""
    with db.read() as reader:
        now = reader.now
        devices, oldest_beat = _devices(reader, now)
        failed = f"SELECT COUNT(*) FROM cl_crawl_task WHERE status = '{TaskStatus.FAILED}'"
        feeds = "SELECT COUNT(*) FROM cl_feed WHERE app_id <> ''"
        by_status = sql("SELECT status, COUNT(*) FROM cl_account GROUP BY status")
        accounts = {status: int(count) for status, count in reader.execute(by_status)}
        return FleetMetrics(
            tasks=_open_tasks(reader),
            failed_tasks=int(reader.execute(sql(failed)).scalar_one()),
            oldest_due=_oldest_due(reader, now),
            devices=devices,
            oldest_beat=oldest_beat,
            accounts={status.value: accounts.get(status, 0) for status in AccountStatus},
            limits=_limits(reader, now),
            feeds=int(reader.execute(sql(feeds)).scalar_one()),
            feeds_missing={days: _feeds_missing(reader, now, days) for days in MISSING_DAYS},
            paused=fleet_state.pause_of(reader).paused,
        )


def _open_tasks(reader: Reader) -> dict[tuple[str, str], int]:
    live = sql(
        f"SELECT status, task_type, COUNT(*) FROM cl_crawl_task WHERE status IN ({quoted(LIVE)})"
        " GROUP BY status, task_type"
    )
    counts: Counter[tuple[str, str]] = Counter()
    for lane in queue_depth.open_lanes(reader):
        counts[DUE, lane.task_type] += lane.due
        counts[LATER, lane.task_type] += lane.later
    for status, task_type, count in reader.execute(live):
        counts[status, task_type] += count
    by_type: Counter[str] = Counter()
    for (_, task_type), count in counts.items():
        by_type[task_type] += count
    named = {task_type for task_type, _ in by_type.most_common(MAX_LABELS)}
    shown: Counter[tuple[str, str]] = Counter()
    for (state, task_type), count in counts.items():
        shown[state, task_type if task_type in named else OTHER] += count
    return dict(shown)


def _oldest_due(reader: Reader, now: datetime) -> dict[str, float]:
    """Since when the first task of a lane has been due: of lanes that can be claimed from, and of the others."""
    statement = sql(
        "SELECT CASE WHEN l.source IS NULL OR l.ready_key IS NOT NULL THEN 'open' ELSE 'closed' END,"
        " (SELECT t.next_run_at FROM cl_crawl_task t WHERE t.ready_lane_id = l.id"
        " ORDER BY t.ready_key LIMIT 1) FROM cl_lane l"
    )
    oldest_seconds: dict[str, float] = {}
    for state, due_at in reader.execute(statement):
        moment = utc(due_at)
        if moment is not None:
            oldest_seconds[state] = max(oldest_seconds.get(state, 0.0), (now - moment).total_seconds())
    return oldest_seconds


def _devices(connection: Reader, now: datetime) -> tuple[dict[str, int], float | None]:
    statement = sql("SELECT status, draining, COUNT(*), MIN(last_heartbeat) FROM cl_device GROUP BY status, draining")
    counts = {str(DeviceStatus.ONLINE): 0, "draining": 0, str(DeviceStatus.OFFLINE): 0}
    oldest: float | None = None
    for status, draining, count, last in connection.execute(statement):
        is_online, beat = status == DeviceStatus.ONLINE, utc(last)
        counts[str(status) if not is_online or not draining else "draining"] += count
        if is_online and beat is not None:
            oldest = max(oldest or 0.0, (now - beat).total_seconds())
    return counts, oldest


def _limits(connection: Reader, now: datetime) -> dict[tuple[str, str], LimitUse]:
    budgets = sql(
        "SELECT source, limit_name, COUNT(*),"
        " SUM(CASE WHEN closed_until > :now THEN 1 ELSE 0 END),"
        " SUM(CASE WHEN open_at > :now AND (closed_until IS NULL OR closed_until <= :now) THEN 1 ELSE 0 END)"
        " FROM cl_budget GROUP BY source, limit_name"
    )
    calls = sql(
        "SELECT b.source, b.limit_name, COUNT(*) FROM cl_budget_call c JOIN cl_budget b ON b.id = c.budget_id"
        " WHERE c.free_at IS NULL OR c.free_at > :now GROUP BY b.source, b.limit_name"
    )
    used = {(source, name): count for source, name, count in connection.execute(calls, {"now": stamp(now)})}
    limits: dict[tuple[str, str], LimitUse] = {}
    for source, name, total, closed, used_up in connection.execute(budgets, {"now": stamp(now)}):
        key = (source, name)
        limits[key] = LimitUse(int(total - closed - used_up), int(used_up), int(closed), used.get(key, 0))
    most = sorted(limits, key=lambda key: (-limits[key].calls, key))
    for key in most[MAX_LABELS:]:
        more, sofar = limits.pop(key), limits.get((OTHER, OTHER), LimitUse())
        limits[OTHER, OTHER] = LimitUse(
            sofar.open + more.open, sofar.used_up + more.used_up, sofar.closed + more.closed, sofar.calls + more.calls
        )
    return limits


def _feeds_missing(reader: Reader, now: datetime, days_ago: int) -> int:
    """How many feeds that are kept and not denied lack the day so many days ago, in UTC."""
    day, moment = reader.dialect.day, reader.dialect.moment
    statement = sql(
        f"SELECT COUNT(*) FROM cl_feed f WHERE (f.denied_until IS NULL OR f.denied_until <= {moment('now')})"
        f" AND EXISTS (SELECT 1 FROM cl_coverage c WHERE c.feed_id = f.id AND c.day >= {day('since')}"
        f" AND c.day < {day('day')})"
        f" AND NOT EXISTS (SELECT 1 FROM cl_coverage c WHERE c.feed_id = f.id AND c.day = {day('day')})"
    )
    missing = now.date() - timedelta(days=days_ago)
    values: dict[str, Any] = {
        "now": stamp(now),
        "day": missing.isoformat(),
        "since": (missing - timedelta(days=KEPT_DAYS)).isoformat(),
    }
    return int(reader.execute(statement, values).scalar_one())
