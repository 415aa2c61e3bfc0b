"""Draining among many other rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import median

import sqlalchemy as sa

from benchmarks.blocked import use_up
from benchmarks.bulk import insert_select, run, tidy
from benchmarks.drain import cpu_seconds
from benchmarks.place import Place
from crawlfleet.core.account import Account
from crawlfleet.core.sql import json_rows
from crawlfleet.model import schema
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec

TASKS = 10_000  # some claims: a node takes up to 2,000 with one
FEW = 10_000
DRAINS = 5  # among few and among many others; the median leaves out the first, which compiles and fills caches
KIND = 25  # tasks of each of the four kinds of others, from which the rest is multiplied
SEEDS = 4 * KIND
COPIES_AT_ONCE = 1_000  # of each of them, in one transaction
WINDOW_SECONDS = 40_000.0  # no budget reopens while we measure


def backlog(place: Place, others: int) -> dict[str, float]:
    """How fast one node drains 10,000 tasks (5 at once) among few other rows, and then among many.

    Size: those other rows; a quarter each is due tomorrow, waits for 25 used-up budgets, waits for 25 parked accounts,
    and has completed, with its run. Few are 10,000. Each drain is repeated five times, by one node; the rate is their
    median. Most others are multiplied by the database from a few that were queued and run as usual, and its statistics
    are fresh.
    """
    few = min(FEW, others // 10)
    tasks = min(TASKS, few)
    seeds = seed(place)
    multiply(place, seeds, 0, few // SEEDS)
    rate, cpu = _drain(place, tasks)
    multiply(place, seeds, few // SEEDS, others // SEEDS)
    rate_among_many, cpu_among_many = _drain(place, tasks)
    return {
        "tasks/s, few others": rate,
        "tasks/s, many others": rate_among_many,
        "rate kept, %": rate_among_many / rate * 100,
        "CPU of the node, µs/task, few others": cpu,
        "CPU of the node, µs/task, many others": cpu_among_many,
    }


def seed(place: Place) -> list[int]:
    """The ids of the first others, one after the other."""
    names = [f"account-{n}" for n in range(KIND)]
    for name in names:
        place.fleet.accounts.add(Account("appsflyer", name, "agency", token_env="TOKEN_OF_NOBODY"))
        place.fleet.accounts.park("appsflyer", name, "so that its tasks wait")
    queue, now = CrawlTaskDAO(place.fleet.db), datetime.now(UTC)
    without_calls = [TaskSpec("noop", source="vendor", username="someone", app_id=f"app-{n}") for n in range(KIND)]
    ids = queue.add(without_calls, TaskDefaults(cost_of=_cost))
    use_up(place.fleet.db)
    ids += place.fleet.add_tasks(TaskSpec("user_apps", source="appsflyer", username=name) for name in names)
    ids += place.fleet.add_tasks(TaskSpec("noop", run_at=now + timedelta(days=1, minutes=n)) for n in range(KIND))
    ended = place.fleet.add_tasks(TaskSpec("noop") for _ in range(KIND))
    with place.node(device_id="seeder") as node:
        place.watch(node, lambda: place.completed(ended))
    return ids + ended


def _cost(spec: TaskSpec) -> Cost:
    """The one call of the app's window."""
    return Cost((Charge("vendor", "window", 1, WINDOW_SECONDS, "someone", spec.app_id or ""),), 1)


def multiply(place: Place, seeds: list[int], have: int, copies: int) -> None:
    """From so many rows of each seed to so many. A copy stands behind its seed, so no lane gets another head."""
    db = place.fleet.db
    tasks = insert_select(
        schema.crawl_task,
        {"order_key": "t.order_key + v.n", "ready_key": "t.ready_key + v.n"},
        f"cl_crawl_task t CROSS JOIN {db.dialect.rows(n='int')} WHERE t.id BETWEEN {seeds[0]} AND {seeds[-1]}",
    )
    runs = insert_select(
        schema.task_assignment,
        {
            "id": "r.id + t.id",
            "task_id": "t.id",
            "device_id": "t.assigned_device_id",
            "device_epoch": "r.epoch",
            "retry_count": "t.retry",
            "taken_at": "t.assigned_at",
            "started_at": "t.assigned_at",
            "result_data": "t.task_ret",
        },
        "cl_crawl_task t CROSS JOIN (SELECT MIN(id) AS id, MIN(device_epoch) AS epoch FROM cl_task_assignment) AS r"
        " WHERE t.status = 'completed' AND t.id > :last",
    )
    for first in range(max(1, have), copies, COPIES_AT_ONCE):
        with db.read() as connection:
            last = connection.execute(sa.text("SELECT MAX(id) FROM cl_crawl_task")).scalar_one()
        rows = json_rows([n] for n in range(first, min(first + COPIES_AT_ONCE, copies)))
        run(db, tasks, {"rows": rows})
        run(db, runs, {"last": last})
    tidy(db)


def _drain(place: Place, tasks: int) -> tuple[float, float]:
    """Tasks in one second, the median of all drains, and microseconds of the node's CPU for each task."""
    rates = []
    with place.node() as node:
        node.wait_started()
        before = cpu_seconds(node.process.pid)
        for _ in range(DRAINS):
            ids = place.fleet.add_tasks(TaskSpec("noop") for _ in range(tasks))
            place.watch(node, lambda ids=ids: place.completed(ids))  # type: ignore[misc]
            rates.append(tasks / place.drain_seconds(tasks, ids[0]))
        cpu = cpu_seconds(node.process.pid) - before
    return median(rates), cpu / (DRAINS * tasks) * 1e6
