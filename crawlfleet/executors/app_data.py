"""Task type `app_data`: the figures of one app over a range of days; without an app id, one task for each app."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from crawlfleet.core.figures import ReportRange
from crawlfleet.executors.contract import Executor, TaskContext, TaskResult
from crawlfleet.executors.task_dates import asked_range, count_days, only_known, required
from crawlfleet.executors.user_apps import tasks_per_app, visible_apps
from crawlfleet.model.task_spec import DEFAULT_REPORT, Task, TaskSpec
from crawlfleet.sources.base import Shape, Source


def check_app_data(task: Task) -> None:
    """Raise PermanentError for a missing or impossible parameter."""
    required(task, "source", "username")
    only_known(task, "days")
    asked_range(task)


def app_data_cost(spec: TaskSpec, source: Source) -> Shape:
    """One call of the shape that fits its days; a list of apps without an app. Raises PermanentError: too many days."""
    if not spec.app_id:
        return source.app_list
    report = source.reports.get(spec.report or DEFAULT_REPORT)
    return Shape() if report is None else report.shape_of(count_days(spec))


def fetch_app_data(task: Task, context: TaskContext) -> TaskResult:
    """The rows of the report, read while the vendor's answer arrives; they replace the range. Default: yesterday."""
    source, username = context.account.source, context.account.username
    yesterday = datetime.now(UTC).date() - timedelta(1)
    start, end = asked_range(task) or (yesterday, yesterday)
    report = task.report or DEFAULT_REPORT
    summary = {
        "source": source,
        "username": username,
        "report": report,
        "start_date": start.isoformat(),
        "end_date": end.isoformat(),
    }
    if not task.app_id:
        follow_ups = tasks_per_app(task, (app.app_id for app in visible_apps(context)), start, end)
        return TaskResult(summary={**summary, "app_tasks": len(follow_ups)}, follow_ups=follow_ups)
    rows = context.source.fetch_app_data(context.account, task.app_id, report, start, end, context)
    settle_days = context.source.reports[report].settle_days
    scope = ReportRange(source, username, task.app_id, report, start, end, settle_days)
    return TaskResult(rows=rows, replaces=scope, summary={**summary, "app_id": task.app_id})


APP_DATA = Executor("app_data", fetch_app_data, needs_account=True, check=check_app_data, cost=app_data_cost)
