"""The arithmetic of a forecast: when so many calls are sent, when so many tasks have run. No clock, no database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from crawlfleet.model.budget import DAY_MARGIN_SECONDS, DAY_SECONDS, NEVER, Budget, midnight_after

LONGEST = timedelta(days=36_500)  # beyond it nobody asks for the day


def calls_per_day(budget: Budget, now: datetime) -> float | None:
    """How many calls a budget allows in 24 hours; None: no number is known."""
    allowed = budget.allowed(now)
    if allowed is None or budget.is_daily:
        return allowed
    return allowed * DAY_SECONDS / _window(budget, now).total_seconds()


def sent_at(budget: Budget, owed: int, now: datetime) -> datetime:
    """When the last of so many calls may be sent, if nothing else needs the budget.

    The calls that are left now come first, then the full number of each window or UTC day.
    """
    start, allowed = budget.next_opening(now), budget.allowed(now)
    held_until = budget.free_after(now)  # calls that runs hold are sent about now
    if start >= NEVER:
        start = held_until
    if allowed is None or owed == 0:
        return start if owed else now
    rest = owed - (allowed - sum((call.free_at or held_until) > start for call in budget.busy))
    if rest <= 0:
        return start
    windows = -(-rest // allowed)
    if budget.is_daily:
        first = midnight_after(start) + timedelta(seconds=DAY_MARGIN_SECONDS)
        return first + _span((windows - 1) * DAY_SECONDS)
    return start + _span(windows * _window(budget, start).total_seconds())


def _window(budget: Budget, now: datetime) -> timedelta:
    return budget.free_after(now) - now


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, LONGEST.total_seconds()))


@dataclass(frozen=True)
class OpenTasks:
    """Open tasks of one type, and how long such a task took lately (None: none ran)."""

    task_type: str
    tasks: int
    seconds: float | None


def run_at(work: Sequence[OpenTasks], slots: int, now: datetime) -> datetime:
    """When so many slots have worked through all of it; types whose speed is unknown count as instant."""
    total = sum(each.tasks * (each.seconds or 0.0) for each in work)
    return now + _span(total / slots)


def usual(per_day: Sequence[int]) -> int:
    """What is added on a usual day: the median, so that one large order is no habit."""
    return round(median(per_day)) if per_day else 0
