"""Claiming past tasks that wait for used-up budgets."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from statistics import quantiles

import sqlalchemy as sa

from benchmarks.place import Place
from crawlfleet.core.db import Database
from crawlfleet.core.transaction import Transaction
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.claim_strategy import probe_strategy
from crawlfleet.model.claims import Claim
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device

TASKS_PER_BUDGET = 100
FREE_TASKS = 100  # each claimed by itself, so that there are so many measurements
WINDOW_SECONDS = 3600.0  # no budget reopens while we measure
CHUNK = 500  # budgets that are filled in one transaction
FIRST_RUN = -1_000_000_000  # ids of runs that no device will have


def blocked(place: Place, tasks: int) -> dict[str, float]:
    """How long a claim takes while nearly all tasks, and the most urgent ones, wait for used-up budgets.

    Size: waiting tasks, 100 for each budget. Then 100 tasks of low priority, whose budget is open, are claimed one by
    one, each in the transaction of a scheduler's turn; no other device is at work. Last, all budgets reopen in one
    moment and 100 more tasks are claimed, one by one, each after a look at what has come due.
    """
    db = place.fleet.db
    queue, defaults = CrawlTaskDAO(db), TaskDefaults(cost_of=_cost)
    budgets = max(1, tasks // TASKS_PER_BUDGET)
    queue.add((_task(f"app{n}") for n in range(budgets)), defaults)
    use_up(db)
    for first in range(0, budgets, CHUNK):
        apps = [f"app{n}" for n in range(first, min(first + CHUNK, budgets))]
        queue.add((_task(app) for app in apps for _ in range(TASKS_PER_BUDGET - 1)), defaults)
    queue.add((_task("free", priority=-1000) for _ in range(FREE_TASKS)), defaults)
    device = Device(db, types=("fetch",), strategy=probe_strategy(db), defaults=defaults)
    device.register()
    past_blocked = [_claim_one(device.take, "free") for _ in range(FREE_TASKS)]
    with db.read() as connection:
        later = connection.now + timedelta(seconds=2 * WINDOW_SECONDS)
    claim_later = partial(device.claim, now=later)
    reopened = [_claim_one(claim_later, "app") for _ in range(min(FREE_TASKS, budgets))]
    return {
        "half within, ms": quantiles(past_blocked, n=20)[9] * 1000,
        "95 % within, ms": quantiles(past_blocked, n=20)[18] * 1000,
        "all reopened, half within, ms": quantiles(reopened, n=20)[9] * 1000,
        "all reopened, longest, ms": max(reopened) * 1000,
    }


def _task(app_id: str, priority: int = 0) -> TaskSpec:
    return TaskSpec("fetch", source="vendor", username="someone", app_id=app_id, priority=priority)


def _cost(spec: TaskSpec) -> Cost:
    """One call of the app's window; the free app has as many as are claimed."""
    calls = FREE_TASKS if spec.app_id == "free" else 1
    return Cost((Charge("vendor", "window", calls, WINDOW_SECONDS, "someone", spec.app_id or ""),), 1)


def use_up(db: Database) -> None:
    """Book the one call of every budget that there is."""
    with db.read() as connection:
        lanes = list(connection.execute(sa.text("SELECT id FROM cl_lane ORDER BY id")).scalars())
    for first in range(0, len(lanes), CHUNK):

        def book(connection: Transaction, lane_ids: list[int] = lanes[first : first + CHUNK]) -> None:
            ledger = Ledger(connection)
            for lane_id, lane in ledger.load(lane_ids).items():
                ledger.hold(lane, FIRST_RUN - lane_id)
                ledger.book(lane, FIRST_RUN - lane_id, [ledger.now], is_over=True)
            ledger.close()

        db.write(book)


def _claim_one(claim: Callable[..., list[Claim]], app_id: str) -> float:
    """Seconds to claim one task, which must be of such an app."""
    began = time.perf_counter()
    claimed = claim(slots=1)
    seconds = time.perf_counter() - began
    if [claim.task.app_id.startswith(app_id) for claim in claimed if claim.task.app_id] != [True]:
        raise RuntimeError(f"a task of {app_id} should have been claimed, not {claimed}")
    return seconds
