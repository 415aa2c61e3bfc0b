"""Draining among many other rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from benchmarks.drain import drain
from benchmarks.place import Place
from crawlfleet.core.account import Account
from crawlfleet.model.task_spec import TaskSpec

TASKS = 2000


def backlog(place: Place, others: int) -> dict[str, float]:
    """How fast one node drains 2,000 tasks (5 at once) while the queue's table holds many rows that it must pass over.

    Size: those other rows; a third each waits for an account that is parked, is due tomorrow, and has ended. To be
    compared with `drain-5`, which has an empty table; so few tasks give a rate that varies.
    """
    share = others // 3
    place.fleet.accounts.add(Account("appsflyer", "parked", "agency", token_env="TOKEN_OF_NOBODY"))
    place.fleet.accounts.park("appsflyer", "parked", "so that its tasks wait")
    place.fleet.add_tasks(TaskSpec("user_apps", source="appsflyer", username="parked") for _ in range(share))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    place.fleet.add_tasks(TaskSpec("noop", run_at=tomorrow) for _ in range(share))
    ended = place.fleet.add_tasks(TaskSpec("noop") for _ in range(share))
    place.fleet.cancel_tasks(ended)
    return drain(place, min(TASKS, others), "noop", 5)
