"""The days a task asks for: its two dates, or else `task_data` {"days": N} for the N days up to yesterday."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from crawlfleet.core.errors import PermanentError
from crawlfleet.model.task_spec import Task, TaskSpec

MAX_RANGE_DAYS = 1000  # the longest range that vendors are known to answer in one call


def asked_range(task: Task, today: date | None = None) -> tuple[date, date] | None:
    """First and last day, both included, or None when the task names no days; `today` is the UTC day.

    Raises PermanentError that names the parameter, its value and what is allowed.
    """
    today = today or datetime.now(UTC).date()
    if task.start_date is None and task.end_date is None:
        if "days" not in task.task_data:
            return None
        days = task.task_data["days"]
        if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= MAX_RANGE_DAYS:
            raise PermanentError(f"days must be a whole number from 1 to {MAX_RANGE_DAYS} (got {days!r:.80})")
        return today - timedelta(days), today - timedelta(1)
    if task.start_date is None or task.end_date is None:
        raise PermanentError(
            f"start_date and end_date go together (got start_date {task.start_date}, end_date {task.end_date})"
        )
    _check(task.start_date, task.end_date, today)
    return task.start_date, task.end_date


def count_days(spec: TaskSpec) -> int:
    """How many days a task asks for; 1 when its parameters are wrong, since its run will say so."""
    if spec.start_date and spec.end_date:
        return (spec.end_date - spec.start_date).days + 1
    days = (spec.task_data or {}).get("days", 1)
    return days if isinstance(days, int) and days >= 1 else 1


def _check(start: date, end: date, today: date) -> None:
    if start > end:
        raise PermanentError(f"start_date must not be after end_date (got {start} and {end})")
    if end > today + timedelta(1):  # east of UTC it is tomorrow already
        raise PermanentError(f"end_date must not be after {today + timedelta(1)}, tomorrow in UTC (got {end})")
    days = (end - start).days + 1
    if days > MAX_RANGE_DAYS:
        raise PermanentError(
            f"start_date to end_date must be at most {MAX_RANGE_DAYS} days (got {start} to {end}, {days} days)"
        )


def only_known(task: Task, *names: str) -> None:
    """Raise PermanentError for a key of `task_data` that this task type does not read: most likely a typing error."""
    unknown = sorted(set(task.task_data) - set(names))
    if unknown:
        raise PermanentError(f"task_data has the unknown key {unknown[0]!r}: {task.task_type} reads {', '.join(names)}")


def required(task: Task, *names: str) -> None:
    """Raise PermanentError for the first of these parameters that the task lacks."""
    for name in names:
        if not getattr(task, name):
            raise PermanentError(f"{name} is required for a {task.task_type} task (got none)")
