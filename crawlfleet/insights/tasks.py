"""Questions about tasks and their runs, read-only: one with its history, lists of them, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.insights.pages import Page, Span, newest_first
from crawlfleet.model import queue_depth, schema
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.lifecycle import TaskStatus
from crawlfleet.model.task_assignment import TaskAssignmentDAO

LONG_TASK_COLUMNS = frozenset({"task_data", "task_ret"})
PAGE_TASKS = 500  # of one look of `newest_tasks`


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks are meant; None means any."""

    status: str | None = None
    task_type: str | None = None
    username: str | None = None
    source: str | None = None
    app_id: str | None = None
    device_id: str | None = None  # that has it, or had it last
    since: datetime | None = None  # added from then on
    until: datetime | None = None  # added before

    @property
    def given(self) -> dict[str, Any]:
        """What is asked for, by the names of columns."""
        values = {
            "status": self.status,
            "task_type": self.task_type,
            "username": self.username,
            "source": self.source,
            "app_id": self.app_id,
            "assigned_device_id": self.device_id,
        }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def added(self) -> Span:
        """When the tasks were added."""
        return Span(self.since, self.until)


TASK_LEADS = ("username", "status")  # columns with an index that leads to tasks, the narrower first


def tasks_page(db: Database, wanted: TaskFilter, limit: int, before: int | None = None) -> Page:
    """Tasks with an id below `before`, newest first, without `task_data` and `task_ret`."""
    return newest_first(
        db, schema.crawl_task, wanted.given, TASK_LEADS, limit, before, LONG_TASK_COLUMNS, added=wanted.added
    )


def newest_tasks(db: Database, wanted: TaskFilter, limit: int) -> Iterator[dict[str, Any]]:
    """The newest tasks, as dicts of all their columns."""
    before: int | None = None
    while limit > 0:
        most = min(limit, PAGE_TASKS)
        page = newest_first(db, schema.crawl_task, wanted.given, TASK_LEADS, most, before, added=wanted.added)
        yield from page.rows
        if page.next is None:
            return
        limit -= len(page.rows)
        before = int(page.next)


def task_detail(db: Database, task_id: int) -> dict[str, Any] | None:
    """A task with its `assignments` (every run, oldest first) and its `events`; None when there is no such task."""
    task = CrawlTaskDAO(db).get(task_id)
    if task is None:
        return None
    table = schema.task_event
    with db.read() as reader:
        events = [dict(row) for row in reader.execute(sa.select(table).where(table.c.task_id == task_id)).mappings()]
    return {**task, "assignments": TaskAssignmentDAO(db).of_task(task_id), "events": events}


def task_stats(db: Database) -> dict[str, Any]:
    """How many tasks are in each state, their `total`, `success_rate` of those that ended (None: none did), and
    `avg_execution_time` in seconds of the newest 500 runs that ended, as far as they completed (None: none did)."""
    counts = CrawlTaskDAO(db).stats()
    with db.read() as reader:
        runs = queue_depth.newest_runs(reader)
    seconds = [run.seconds for run in runs if run.completed and run.seconds is not None]
    average = round(sum(seconds) / len(seconds), 3) if seconds else None
    return {**counts, "success_rate": success_rate(counts), "avg_execution_time": average}


def assignments_page(
    db: Database,
    limit: int,
    before: int | None = None,
    task_id: int | None = None,
    device_id: str | None = None,
    status: str | None = None,
) -> Page:
    """Runs with an id below `before`, those of the newest registration first, without `result_data`."""
    given = {"task_id": task_id, "device_id": device_id, "status": status}
    filters = {name: value for name, value in given.items() if value is not None}
    return newest_first(
        db, schema.task_assignment, filters, ("task_id", "device_id"), limit, before, without=frozenset({"result_data"})
    )


def task_events_page(db: Database, task_id: int, limit: int, before: int | None = None) -> Page:
    """What happened to a task that its runs cannot show, newest first."""
    return newest_first(db, schema.task_event, {"task_id": task_id}, ("task_id",), limit, before)


def assignment(db: Database, assignment_id: int) -> dict[str, Any] | None:
    """One run with its `result_data`; None when there is none of this id."""
    table = schema.task_assignment
    with db.read() as reader:
        row = reader.execute(sa.select(table).where(table.c.id == assignment_id)).mappings().first()
    return None if row is None else dict(row)


def success_rate(tasks: Mapping[str, int]) -> float | None:
    """The share of tasks that completed, of those that completed or failed; None when none did."""
    ended = tasks[TaskStatus.COMPLETED] + tasks[TaskStatus.FAILED]
    return round(tasks[TaskStatus.COMPLETED] / ended, 4) if ended else None
