"""What the ending of a run does to its task: the move, what it costs, and when the task may run again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from crawlfleet.core.backoff import retry_delay
from crawlfleet.core.sql import utc
from crawlfleet.core.transaction import AnyRow
from crawlfleet.model.ending import Ending
from crawlfleet.model.lifecycle import ENDED, ENDINGS, MOVES, Cost, WaitsFor
from crawlfleet.model.task_insert import order_key
from crawlfleet.settings.definitions import Settings

KILLER_CRASHES = 3  # from so many on people are told: one may have been the device, two an accident
CRASH_CAP = 20  # runs of one task that may die under it before it is buried: it kills its runner
CRASH_DELAY_CAP_SECONDS = 60.0


@dataclass(frozen=True)
class RetryPolicy:
    """Delays of retries, in seconds; `random` is there for tests."""

    delay_seconds: float = Settings().retry_delay_seconds
    cap_seconds: float = 3600
    random: Callable[[], float] = random.random


@dataclass(frozen=True)
class NextMove:
    """A move of `lifecycle.MOVES`, and how the task stands after it."""

    name: str
    ending: Ending
    retry: int
    crash_count: int
    order_key: int
    next_run_at: datetime | None  # None when the task is over


def next_move(
    ending: Ending, task: AnyRow, now: datetime, policy: RetryPolicy, closed_until: datetime | None
) -> NextMove:
    """The move of `lifecycle.MOVES` for this ending, and when the task may run again.

    A task whose budget was closed keeps its place in the queue: the budget holds it back.
    """
    rule = ENDINGS[ending.kind]
    retry, crashes, is_spent = task["retry"], task["crash_count"], False
    named = ending.outcome.retry_after
    wait = named or rule.pause_seconds
    if rule.cost is Cost.ATTEMPT:
        retry += 1
        is_spent = retry > task["max_retry_count"]
        wait = max(retry_delay(retry, policy.delay_seconds, policy.cap_seconds, policy.random), named or 0)
    elif rule.cost is Cost.CRASH:
        # Only a run whose body had begun may have killed its runner.
        crashes += 1 if ending.started_at is not None else 0
        is_spent = crashes > CRASH_CAP
        # The first time it may have been the device; a task that does it again must not keep devices restarting.
        wait = retry_delay(crashes - 1, 1.0, CRASH_DELAY_CAP_SECONDS, policy.random) if crashes > 1 else 0
    elif closed_until is not None:
        wait = 0
    elif rule.waits_for is WaitsFor.DEVICE and task["source"] and task["username"]:
        wait = 0  # this device takes no more tasks of the account, and another may have the token
    name = rule.when_spent if is_spent and rule.when_spent else rule.move
    if MOVES[name].task_to in ENDED:
        return NextMove(name, ending, retry, crashes, task["order_key"], None)
    if not wait:  # ready again at once, at its old place in the queue
        return NextMove(name, ending, retry, crashes, task["order_key"], utc(task["next_run_at"]))
    next_run_at = now + timedelta(seconds=wait)
    return NextMove(name, ending, retry, crashes, order_key(next_run_at, task["priority"]), next_run_at)
