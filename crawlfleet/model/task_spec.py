"""A task as its doors see it: `TaskSpec` is what is asked for, `Task` what an executor receives.

Plain data without SQL, so worker processes can use it without a database driver.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from typing import Any

from crawlfleet.core.errors import UsageError
from crawlfleet.core.json_text import MAX_DEPTH, is_deeper

DEFAULT_REPORT = "partners_by_date_report"
BELIEVE_EMPTY = "believe_empty"  # in the data of an app_data task: days without rows are empty, also if they had some
MAX_PRIORITY = 1000  # x 600 s of head start is a week; more would be a separate queue
MAX_TASK_DATA_BYTES = 256 * 1024
MAX_TEXT = 190  # characters: what fits every database's index
NAME_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_data_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # `json.dumps` would make it each time


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task to be added. Only `task_type` is required; dates are inclusive, `run_at` is a moment (UTC when naive).

    `priority`: one step lets a task overtake those that became due up to 600 s earlier; -1000 to 1000.
    `unique_key`: at most one task with this key is open; adding a second returns the first.
    `label`: only devices that have it take the task; None: every device may.
    Raises UsageError for a value that could never be stored.
    """

    task_type: str
    username: str | None = None
    source: str | None = None
    app_id: str | None = None
    start_date: date | None = None
    end_date: date | None = None
    report: str | None = None
    priority: int = 0
    run_at: datetime | None = None
    task_data: Mapping[str, Any] | None = None
    unique_key: str | None = None
    execution_timeout: int | None = None
    max_retry_count: int | None = None
    label: str | None = None
    task_data_text: str | None = field(default=None, init=False, repr=False, compare=False)  # its JSON, as checked

    def __post_init__(self) -> None:
        # Straight rather than in loops: a fleet adds a hundred thousand of these at once.
        _check_name("task_type", self.task_type)
        if self.source is not None:
            _check_name("source", self.source)
        if self.report is not None:
            _check_name("report", self.report)
        if self.label is not None:
            _check_name("label", self.label)
        if self.username is not None:
            check_text("username", self.username)
        if self.app_id is not None:
            check_text("app_id", self.app_id)
        if self.unique_key is not None:
            check_text("unique_key", self.unique_key)
        if self.start_date is not None or self.end_date is not None:
            self._check_dates()
        if self.run_at is not None:
            object.__setattr__(self, "run_at", parse_moment(self.run_at, "run_at"))
        _check_integer("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        if self.execution_timeout is not None:
            _check_integer("execution_timeout", self.execution_timeout, 1, 604_800)
        if self.max_retry_count is not None:
            _check_integer("max_retry_count", self.max_retry_count, 0, 100)
        if self.task_data is not None:
            self._check_task_data()

    def _check_dates(self) -> None:
        for name in ("start_date", "end_date"):
            object.__setattr__(self, name, parse_date(getattr(self, name), name))
        if self.start_date and self.end_date and self.start_date > self.end_date:
            raise UsageError(f"start_date must not be after end_date (got {self.start_date} and {self.end_date})")

    def _check_task_data(self) -> None:
        if not isinstance(self.task_data, Mapping):
            raise UsageError(f"task_data must be a JSON object (got {type(self.task_data).__name__})")
        try:
            text = _data_text(self.task_data)
            size = len(text.encode())
        except UnicodeEncodeError:
            raise UsageError("task_data must not hold half of a surrogate pair: no database can store it") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"task_data must be JSON: {error}") from None
        if "\\u0000" in text:
            raise UsageError("task_data must not hold the character NUL: PostgreSQL cannot store it")
        if size > MAX_TASK_DATA_BYTES:
            raise UsageError(f"task_data must be at most {MAX_TASK_DATA_BYTES} bytes of JSON (got {size})")
        if text.count("{") + text.count("[") > MAX_DEPTH and is_deeper(self.task_data, MAX_DEPTH):
            raise UsageError(f"task_data must be nested in at most {MAX_DEPTH} levels: MariaDB stores no more")
        object.__setattr__(self, "task_data_text", text)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TaskSpec:
        """A spec from JSON; raises UsageError that names an unknown key or a wrong value."""
        if not isinstance(values, Mapping):
            raise UsageError(f"a task must be a JSON object (got {type(values).__name__})")
        unknown = sorted(set(values) - set(SPEC_KEYS))
        if unknown:
            raise UsageError(f"unknown key {unknown[0]!r:.80} in a task: allowed are {', '.join(sorted(SPEC_KEYS))}")
        if "task_type" not in values:
            raise UsageError("a task needs the key 'task_type'")
        return cls(**values)


SPEC_KEYS = tuple(item.name for item in fields(TaskSpec) if item.init)  # what can be said of a task


@dataclass(frozen=True, slots=True)
class Task:
    """A claimed task as its executor sees it. Times are UTC; `attempt` counts from 1."""

    id: int
    task_type: str
    username: str | None = None
    source: str | None = None
    app_id: str | None = None
    start_date: date | None = None
    end_date: date | None = None
    report: str | None = None
    priority: int = 0
    task_data: Mapping[str, Any] = field(default_factory=dict)
    execution_timeout: float = 3600  # as in the settings, which a worker process does not import
    attempt: int = 1


def parse_date(value: object, name: str) -> date | None:
    """An ISO date from JSON or the command line; raises UsageError."""
    if value is None or (isinstance(value, date) and not isinstance(value, datetime)):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise UsageError(f"{name} must be a date like 2026-01-31 (got {value!r:.80})")


def parse_moment(value: object, name: str) -> datetime | None:
    """An ISO moment, UTC when it names no zone; raises UsageError."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise UsageError(f"{name} must be a moment like 2026-01-31T08:00:00+08:00 (got {value!r:.80})") from None
    if not isinstance(value, datetime):
        raise UsageError(f"{name} must be a moment like 2026-01-31T08:00:00+08:00 (got {value!r:.80})")
    if not 2000 <= value.year <= 2200:  # before the zone is taken off, which fails at both ends of the calendar
        raise UsageError(f"{name} must lie between the years 2000 and 2200 (got {value.isoformat()})")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
        raise UsageError(f"{name} must be 1 to 64 of letters, digits, '_', '-', '.', ':' (got {value!r:.80})")


def check_text(name: str, value: object) -> None:
    """Raise UsageError unless the value is a name of something: printable, and without blanks around it."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT or not value.isprintable():
        raise UsageError(f"{name} must be text of 1 to {MAX_TEXT} printable characters (got {value!r:.80})")
    if value[0] == " " or value[-1] == " ":  # some databases take 'a' and 'a ' for the same, others do not
        raise UsageError(f"{name} must not begin or end with a blank (got {value!r:.80})")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high} (got {value!r:.80})")
