"""Task type `app_data`: the figures of one app over a range of days.

Without an app id it is one task for each app, or one call for all of them where the report takes that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from crawlfleet.core.errors import NotPermitted, PermanentError, RangeTooLarge
from crawlfleet.core.vendor_data import Figures, ReportRange
from crawlfleet.executors.contract import Executor, ResultReplaced, TaskContext, TaskResult
from crawlfleet.executors.task_dates import asked_range, count_days, only_known, required
from crawlfleet.executors.user_apps import asks_for_all_apps, task_for_app, tasks_per_app, visible_apps
from crawlfleet.model.task_spec import BELIEVE_EMPTY, Task, TaskSpec
from crawlfleet.sources.contract import ALL_APPS, Report, Shape, Source


def check_app_data(task: Task) -> None:
    """Raise PermanentError for a missing or impossible parameter."""
    required(task, "source", "username")
    only_known(task, "days", BELIEVE_EMPTY)
    if not isinstance(task.task_data.get(BELIEVE_EMPTY, False), bool):
        raise PermanentError(f"{BELIEVE_EMPTY} must be true or false (got {task.task_data[BELIEVE_EMPTY]!r:.80})")
    asked_range(task)


def app_data_cost(spec: TaskSpec, source: Source) -> Shape:
    """One call of the shape that fits the days, or a list of apps for a task without an app.

    Raises PermanentError for too many days.
    """
    if not spec.app_id and not asks_for_all_apps(spec, source):
        return source.app_list
    report = source.reports.get(spec.report or next(iter(source.reports)))
    return Shape() if report is None else report.shape_of(count_days(spec))


def fetch_app_data(task: Task, context: TaskContext) -> TaskResult:
    """The rows of the report, read while the vendor's answer arrives; they replace the range.

    Without a report it is the source's first. Without days it is yesterday, or today for a report that shows only now.
    An answer with as many rows as the vendor gives at most may lack some: none is stored, and two tasks for the halves
    of the range follow. Raises PermanentError when the range is a single day.
    With `believe_empty` in its data, days of which the vendor has no rows any more lose those stored.
    """
    source, username = context.account.source, context.account.username
    report = task.report or next(iter(context.source.reports))
    declared = _declared(context.source, source, report)
    asked = asked_range(task)
    start, end = asked or _latest_day(declared.is_snapshot)
    summary: dict[str, Any] = {
        "source": source,
        "username": username,
        "report": report,
        "start_date": start.isoformat(),
        "end_date": end.isoformat(),
    }
    app_id = task.app_id or (ALL_APPS if asks_for_all_apps(task, context.source) else None)
    if app_id is None:
        app_ids = [app.app_id for app in visible_apps(context)]
        # A snapshot is of the day on which its task runs, which may be after midnight.
        follow_ups = tasks_per_app(task, app_ids, *(asked or (None, None) if declared.is_snapshot else (start, end)))
        return TaskResult(summary={**summary, "app_tasks": len(follow_ups)}, follow_ups=follow_ups)
    declared.shape_of((end - start).days + 1)
    rows = context.source.fetch_app_data(context.account, app_id, report, start, end, context)
    believe_empty = declared.rows_may_vanish or task.task_data.get(BELIEVE_EMPTY, False)
    scope = ReportRange(source, username, app_id, report, start, end, declared.settle_days, believe_empty)
    summary["app_id"] = app_id
    rows = _rows_or_halves(rows, declared.row_cap, task, scope, summary)
    return TaskResult(rows=_telling(rows, context, summary), replaces=scope, summary=summary)


def _telling(rows: Iterable[Figures], context: TaskContext, summary: dict[str, Any]) -> Iterator[Figures]:
    """The rows; at their end the summary tells what the source left out or mended."""
    yield from rows
    summary.update(context.remarks())


def _declared(source: Source, source_name: str, report: str) -> Report:
    """What the source says of this report; raises PermanentError when it has none of this name."""
    if report not in source.reports:
        names = ", ".join(sorted(source.reports))
        raise PermanentError(f"report must be one of {names} at {source_name} (got {report!r:.80})")
    return source.reports[report]


def _rows_or_halves(
    rows: Iterable[Figures], row_cap: int | None, task: Task, scope: ReportRange, summary: dict[str, Any]
) -> Iterator[Figures]:
    try:
        yield from _below_cap(rows, row_cap)
    except NotPermitted as error:
        error.feed = (scope.app_id, scope.report)
        raise
    except RangeTooLarge as error:
        if scope.start == scope.end:
            raise PermanentError(f"{error}: the single day {scope.start} cannot be split, nothing is stored") from None
        middle = scope.start + (scope.end - scope.start) // 2
        halves = [(scope.start, middle), (middle + timedelta(1), scope.end)]
        follow_ups = [task_for_app(task, task.app_id, first, last) for first, last in halves]
        raise ResultReplaced(TaskResult(summary={**summary, "split_into": 2}, follow_ups=follow_ups)) from None


def _below_cap(rows: Iterable[Figures], row_cap: int | None) -> Iterator[Figures]:
    for number, row in enumerate(rows, 1):
        if number == row_cap:
            raise RangeTooLarge(f"the report has {row_cap} rows, the vendor's maximum, and may lack others")
        yield row


def _latest_day(is_snapshot: bool) -> tuple[date, date]:
    today = datetime.now(UTC).date()
    day = today if is_snapshot else today - timedelta(1)
    return day, day


APP_DATA = Executor("app_data", fetch_app_data, needs_account=True, check=check_app_data, cost=app_data_cost)
