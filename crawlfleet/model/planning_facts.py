"""What a planner must know before it asks for more: feeds and their days, what is asked for already, budgets.

Read-only. Open tasks are found through the indexes of the claim, so ended ones cost nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from crawlfleet.core.sql import SqlDialect, day, json_rows, json_value, sql, stamp, utc
from crawlfleet.core.transaction import Statements
from crawlfleet.model.budget import Budget
from crawlfleet.model.lane_budgets import LaneBudgetReader
from crawlfleet.model.lifecycle import TaskStatus
from crawlfleet.model.task_spec import Task


@dataclass(frozen=True, slots=True)
class FeedFacts:
    """One stream of figures as far as it was fetched; `denied_until` lies in the future while the vendor denies it."""

    id: int
    denied_until: datetime | None
    denied_reason: str | None
    rows_per_day: float | None


def active_apps(reader: Statements, source: str, username: str) -> list[str]:
    """The apps that the account saw when its list was synced last."""
    statement = sql(
        "SELECT app_id FROM cl_user_app WHERE source = :source AND username = :username AND app_status = 'active'"
        " ORDER BY app_id"
    )
    return list(reader.execute(statement, {"source": source, "username": username}).scalars())


def feeds(reader: Statements, source: str, username: str, report: str) -> dict[str, FeedFacts]:
    """The account's feeds of a report, by app id."""
    statement = sql(
        "SELECT f.app_id, f.id, f.denied_until, f.denied_reason,"
        " (SELECT AVG(c.row_count) FROM cl_coverage c WHERE c.feed_id = f.id) FROM cl_feed f"
        " WHERE f.source = :source AND f.username = :username AND f.report = :report"
    )
    stored = reader.execute(statement, {"source": source, "username": username, "report": report})
    return {
        app_id: FeedFacts(feed_id, utc(denied_until), reason, None if rows is None else float(rows))
        for app_id, feed_id, denied_until, reason, rows in stored
    }


def open_requests(reader: Statements, source: str, username: str) -> list[Task]:
    """The account's open tasks of the built-in types."""
    columns = "t.id, t.task_type, t.app_id, t.report, t.start_date, t.end_date, t.task_data"
    own = "(SELECT l.id FROM cl_lane l WHERE l.source = :source AND l.username = :username)"
    parts = [
        f"SELECT {columns} FROM cl_lane l {_join_tasks(reader.dialect)} ON t.ready_lane_id = l.id"
        " WHERE l.source = :source AND l.username = :username",
        f"SELECT {columns} FROM cl_crawl_task t WHERE t.wake_at IS NOT NULL AND t.lane_id IN {own}",
        f"SELECT {columns} FROM cl_crawl_task t"
        f" WHERE t.status IN ('{TaskStatus.ASSIGNED}', '{TaskStatus.RUNNING}') AND t.lane_id IN {own}",
    ]
    rows = reader.execute(sql(" UNION ALL ".join(parts)), {"source": source, "username": username}).mappings()
    return [
        Task(
            row["id"],
            row["task_type"],
            username,
            source,
            row["app_id"],
            day(row["start_date"]),
            day(row["end_date"]),
            row["report"],
            task_data=json_value(row["task_data"]) or {},
        )
        for row in rows
        if row["task_type"] in ("app_data", "user_apps")
    ]


def budgets(reader: Statements, keys: Collection[str], now: datetime) -> dict[str, Budget]:
    """Those of these budgets that exist, by key, with the calls that count now. Locks nothing."""
    statement = sql(
        f"SELECT t.id, t.budget_key FROM {reader.dialect.rows(k='text')} JOIN cl_budget t ON t.budget_key = v.k"
    )
    rows = json_rows([key] for key in sorted(keys))
    key_of: dict[int, str] = dict(reader.execute(statement, {"rows": rows}).all())
    stored = LaneBudgetReader(reader).budgets(key_of)
    return {key_of[budget.id]: budget for budget in stored}


def owed_calls(
    reader: Statements, budget_ids: Iterable[int], now: datetime
) -> Mapping[int, Sequence[tuple[datetime, int]]]:
    """The calls that queued tasks will make against these budgets: (when they are due, how many), by budget."""
    source = f"{reader.dialect.rows(id='int')} JOIN cl_lane_budget lb ON lb.budget_id = v.id"
    statement = sql(
        f"SELECT lb.budget_id, {reader.dialect.moment('now')} AS due, l.calls * COUNT(*) FROM {source}"
        f" JOIN cl_lane l ON l.id = lb.lane_id {_join_tasks(reader.dialect)} ON t.ready_lane_id = l.id"
        " GROUP BY lb.budget_id, l.id, l.calls"
        # counted before they are joined: their index is by moment, not by lane
        f" UNION ALL SELECT lb.budget_id, w.wake_at AS due, l.calls * w.tasks FROM {source}"
        " JOIN (SELECT t.lane_id, t.wake_at, COUNT(*) AS tasks FROM cl_crawl_task t WHERE t.wake_at IS NOT NULL"
        " GROUP BY t.lane_id, t.wake_at) AS w ON w.lane_id = lb.lane_id JOIN cl_lane l ON l.id = lb.lane_id"
    )
    owed: dict[int, list[tuple[datetime, int]]] = {}
    parameters = {"rows": json_rows([each] for each in sorted(budget_ids)), "now": stamp(now)}
    for budget_id, due, calls in reader.execute(statement, parameters):
        moment = utc(due)
        assert moment is not None
        owed.setdefault(budget_id, []).append((moment, int(calls)))
    return owed


def _join_tasks(dialect: SqlDialect) -> str:
    """Joins the tasks of lanes that were found before; MariaDB read the whole table first once many had ended."""
    return (
        "STRAIGHT_JOIN cl_crawl_task t FORCE INDEX (ix_crawl_task_claim)"
        if dialect.family == "mysql"
        else "JOIN cl_crawl_task t"
    )
