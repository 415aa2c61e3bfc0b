"""What runs said, read-only: the lines that their bodies wrote, and between them how each run began and ended.

Beginnings and ends are stored once, in the rows of runs and events; here they become lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.core.sql import sql, stamp, utc
from crawlfleet.core.transaction import AnyRow, Reader
from crawlfleet.model.lifecycle import ENDED, AssignmentStatus, TaskStatus

PAGE_LINES = 1000
SEARCH_LINES = 100
LATE_SECONDS = 2.0  # how much later than its moment a line is there, unless the database is away
SEARCH_ROWS = 50_000  # of each table that one search looks at: a fraction of a second
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_END_LEVELS = {
    AssignmentStatus.COMPLETED: "info",
    AssignmentStatus.FAILED: "error",
    AssignmentStatus.RELEASED: "warning",
    AssignmentStatus.EXPIRED: "warning",
    AssignmentStatus.CANCELLED: "info",
}
_BEGINNING, _BODY, _END = range(3)  # order of lines of the same moment


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `assignment_id` and `device_id` are None for what a person did; `device_id` also when the run's row
    has been deleted."""

    task_id: int
    assignment_id: int | None
    device_id: str | None
    at: datetime
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines of one task, oldest first. `after` asks for those that follow; `more`: there are some already.

    `ended`: the task is over. What its last run wrote may still come for some seconds.
    """

    lines: list[LogLine]
    after: str
    more: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class FoundLines:
    """Lines of any tasks, newest first. `before` asks for older ones; None: all were looked at."""

    lines: list[LogLine]
    before: datetime | None


def task_log(
    db: Database, task_id: int, after: str | None = None, limit: int = PAGE_LINES, live: bool = False
) -> LogPage | None:
    """What the runs of a task said: at most `limit` lines of bodies, and what lies between; None: no such task.

    `after` is that of an earlier page; asking again with the newest one follows the task. With `live` the end of a run
    is told when it is LATE_SECONDS old, since the last lines of its body come that late, too.
    Raises UsageError for an `after` that no page had.
    """
    place = _Place.read(after)
    with db.read() as reader:
        task = _rows(reader, "SELECT status, completed_at, error_message FROM cl_crawl_task WHERE id = :task", task_id)
        if not task:
            return None
        runs = _rows(
            reader,
            "SELECT id, device_id, status, assigned_at, started_at, completed_at, error_kind, error_message"
            " FROM cl_task_assignment WHERE task_id = :task ORDER BY assigned_at, id",
            task_id,
        )
        written = _rows(
            reader,
            "SELECT id, assignment_id, logged_at, level, message FROM cl_task_log"
            " WHERE task_id = :task AND id > :after ORDER BY id LIMIT :limit",
            task_id,
            after=place.line,
            limit=limit + 1,
        )
        now = reader.now
        events = _rows(
            reader,
            "SELECT event, actor, detail, created_at FROM cl_task_event WHERE task_id = :task ORDER BY id",
            task_id,
        )[place.events :]
    more, written = len(written) > limit, written[:limit]
    shown = [_written(task_id, row, runs) for row in written]
    if written:
        place.line = written[-1]["id"]
    horizon = (shown[-1].at, _BODY) if more else None
    told = now - timedelta(seconds=LATE_SECONDS) if live else None

    def may_show(moment: _Moment) -> bool:
        """What happened later comes with a later page."""
        is_late = told is not None and moment.rank == _END and moment.at > told
        return not is_late and (horizon is None or (moment.at, moment.rank) < horizon)

    happened = [moment for run in runs for moment in _of_run(task_id, run)] or _rejected(task_id, task[0])
    for moment in itertools.takewhile(may_show, itertools.islice(happened, place.moments, None)):
        place.moments += 1
        shown.append(moment)
    for moment in itertools.takewhile(may_show, [_of_event(task_id, event) for event in events]):
        place.events += 1
        shown.append(moment)
    shown.sort(key=attrgetter("at", "rank"))
    return LogPage([each.line for each in shown], str(place), more, task[0]["status"] in ENDED)


def search_logs(
    db: Database,
    text: str | None = None,
    level: str = "debug",
    before: datetime | None = None,
    limit: int = SEARCH_LINES,
) -> FoundLines:
    """Lines of all tasks of this level or a graver one that hold the text, in capitals or not; failures of runs, too.

    Looks at a bounded number of rows, so a search for something rare goes on with `before`, perhaps several times
    without a line.
    """
    words = "" if text is None else " AND LOWER({}) LIKE LOWER(:text) ESCAPE '!'"
    pattern = {} if text is None else {"text": f"%{_escaped(text)}%"}
    with db.read() as reader:
        until = before or reader.now + timedelta(days=1)  # lines may be dated by a reading that came later
        horizons = [
            _horizon(reader, table, column, until)
            for table, column in (("cl_task_log", "logged_at"), ("cl_task_assignment", "completed_at"))
        ]
        horizon = max((each for each in horizons if each is not None), default=None)
        values = {
            "until": stamp(until),
            "horizon": stamp(horizon or datetime(1970, 1, 1, tzinfo=UTC)),
            "limit": limit + 1,
        }
        written = reader.execute(
            sql(
                "SELECT l.task_id, l.assignment_id, r.device_id, l.logged_at, l.level, l.message FROM cl_task_log l"
                " LEFT JOIN cl_task_assignment r ON r.id = l.assignment_id WHERE l.logged_at < :until"
                f" AND l.logged_at >= :horizon AND l.level >= :level{words.format('l.message')}"
                " ORDER BY l.logged_at DESC LIMIT :limit"
            ),
            {**values, **pattern, "level": LEVELS[level]},
        ).all()
        failed = (
            []
            if LEVELS[level] > LEVELS["error"]
            else reader.execute(
                sql(
                    "SELECT r.task_id, r.id, r.device_id, r.completed_at, r.error_kind, r.error_message"
                    " FROM cl_task_assignment r WHERE r.completed_at < :until AND r.completed_at >= :horizon"
                    f" AND r.status = '{AssignmentStatus.FAILED}'{words.format('r.error_message')}"
                    " ORDER BY r.completed_at DESC LIMIT :limit"
                ),
                {**values, **pattern},
            ).all()
        )
    lines = [
        LogLine(task, run, device, _moment(at), _level_name(number), message)
        for task, run, device, at, number, message in written
    ]
    lines += [
        LogLine(task, run, device, _moment(at), "error", f"failed: {kind}: {message}")
        for task, run, device, at, kind, message in failed
    ]
    lines.sort(key=attrgetter("at"), reverse=True)
    if len(lines) <= limit:
        return FoundLines(lines, horizon)
    cut = lines[limit].at  # lines of one moment stay together
    page = [line for line in lines[:limit] if line.at > cut] or lines[:limit]
    return FoundLines(page, cut + timedelta(microseconds=1) if page[-1].at > cut else cut)


@dataclass
class _Place:
    """How far a reader of one task's log is: the newest line, how many moments of runs and how many events."""

    line: int = 0
    moments: int = 0
    events: int = 0

    def __str__(self) -> str:
        return f"{self.line}.{self.moments}.{self.events}"

    @classmethod
    def read(cls, text: str | None) -> _Place:
        parts = (text or "0.0.0").split(".")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in parts):
            raise UsageError(f"after must be that of an earlier page (got {text!r:.80})")
        return cls(*map(int, parts))


@dataclass(frozen=True, slots=True)
class _Moment:
    at: datetime
    rank: int
    line: LogLine


def _of_run(task_id: int, run: AnyRow) -> Iterator[_Moment]:
    """How a run began and ended, in this order; nothing ever comes before what was there already."""

    def moment(column: str, rank: int, level: str, message: str) -> _Moment:
        at = _moment(run[column])
        return _Moment(at, rank, LogLine(task_id, run["id"], run["device_id"], at, level, message))

    yield moment("assigned_at", _BEGINNING, "info", f"assigned to {run['device_id']}")
    if run["started_at"] is not None:
        yield moment("started_at", _BEGINNING, "info", "began")
    if run["completed_at"] is not None:
        reason = ": ".join(part for part in (run["error_kind"], run["error_message"]) if part)
        level = _END_LEVELS.get(run["status"], "info")
        yield moment("completed_at", _END, level, f"{run['status']}: {reason}" if reason else str(run["status"]))


def _rejected(task_id: int, task: AnyRow) -> list[_Moment]:
    """The end of a task that failed without a run."""
    if task["status"] != TaskStatus.FAILED or task["completed_at"] is None:
        return []
    at = _moment(task["completed_at"])
    return [_Moment(at, _END, LogLine(task_id, None, None, at, "error", f"failed: {task['error_message']}"))]


def _of_event(task_id: int, event: AnyRow) -> _Moment:
    at = _moment(event["created_at"])
    text = f"{event['event']} by {event['actor']}" if event["actor"] else event["event"]
    if event["detail"]:
        text += f": {event['detail']}"
    return _Moment(at, _BEGINNING, LogLine(task_id, None, None, at, "info", text))


def _written(task_id: int, row: AnyRow, runs: list[AnyRow]) -> _Moment:
    at = _moment(row["logged_at"])
    run = next((run for run in runs if run["id"] == row["assignment_id"]), None)
    device = None if run is None else run["device_id"]
    line = LogLine(task_id, row["assignment_id"], device, at, _level_name(row["level"]), row["message"])
    return _Moment(_in_its_run(at, run), _BODY, line)


def _in_its_run(at: datetime, run: AnyRow | None) -> datetime:
    """Where a line stands in order: two readings of the database's clock differ by a round trip, but nothing is said
    before the body began, and what seems to be said a moment after its end was not."""
    began, ended = (None, None) if run is None else (utc(run["started_at"]), utc(run["completed_at"]))
    if ended is not None and timedelta(0) < at - ended < timedelta(seconds=LATE_SECONDS):
        at = ended
    return at if began is None else max(at, began)


def _rows(connection: Reader, statement: str, task_id: int, **more: Any) -> list[AnyRow]:
    return list(connection.execute(sql(statement), {"task": task_id, **more}).mappings())


def _horizon(connection: Reader, table: str, column: str, until: datetime) -> datetime | None:
    """From which moment on SEARCH_ROWS rows lie before `until`; None when all of them do."""
    statement = sql(
        f"SELECT {column} FROM {table} WHERE {column} < :until ORDER BY {column} DESC LIMIT 1 OFFSET {SEARCH_ROWS}"
    )
    return utc(connection.execute(statement, {"until": stamp(until)}).scalar())


def _escaped(text: str) -> str:
    for mark in "!%_":
        text = text.replace(mark, f"!{mark}")
    return text


def _moment(value: Any) -> datetime:
    moment = utc(value)
    assert moment is not None
    return moment


def _level_name(level: int) -> str:
    """The name of a level, or of the next lower one that has a name."""
    return next((name for name, least in reversed(LEVELS.items()) if level >= least), "debug")
