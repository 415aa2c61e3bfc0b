"""Task type `user_apps`: which apps an account sees, and the `app_data` tasks of the days that the task names."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from crawlfleet.core.errors import PermanentError
from crawlfleet.core.vendor_data import App, AppList
from crawlfleet.executors.contract import Executor, TaskContext, TaskResult
from crawlfleet.executors.task_dates import asked_range, only_known, required
from crawlfleet.model.task_spec import BELIEVE_EMPTY, Task, TaskSpec
from crawlfleet.sources.contract import ALL_APPS, AppListUnavailable, Shape, Source
from crawlfleet.sources.registry import default_report


def check_user_apps(task: Task) -> None:
    """Raise PermanentError for a missing or impossible parameter."""
    required(task, "source", "username")
    only_known(task, "days", BELIEVE_EMPTY)
    asked_range(task)


def user_apps_cost(_spec: TaskSpec, source: Source) -> Shape:
    """One list of apps."""
    return source.app_list


def sync_user_apps(task: Task, context: TaskContext) -> TaskResult:
    """The account's apps, which replace those stored before.

    With days, an `app_data` task for each app follows, or one for all of them where the report takes that.
    """
    source, username = context.account.source, context.account.username
    apps = visible_apps(context)
    summary = {"username": username, "source": source, "synced_apps": len(apps), **context.remarks()}
    days = asked_range(task)
    app_ids = [ALL_APPS] if days and asks_for_all_apps(task, context.source) else [app.app_id for app in apps]
    follow_ups = tasks_per_app(task, app_ids, *days) if days else []
    scope = AppList(source, username, by_hand=bool(context.account.app_ids))
    return TaskResult(rows=apps, replaces=scope, summary=summary, follow_ups=follow_ups)


def asks_for_all_apps(task: Task | TaskSpec, source: Source) -> bool:
    """Whether one call brings the task's report for all apps of the account."""
    report = source.reports.get(task.report) if task.report else next(iter(source.reports.values()), None)
    return report is not None and report.account_wide


def visible_apps(context: TaskContext) -> list[App]:
    """The apps as the vendor lists them, or those named by hand when it lists none for this account."""
    try:
        return list(context.source.list_apps(context.account, context))
    except AppListUnavailable as error:
        if not context.account.app_ids:
            raise PermanentError(f"{error}; name the account's apps with --app-id to go on without a list") from None
        context.log.warning(
            "app list unavailable, using the %d configured apps: %s", len(context.account.app_ids), error
        )
        return [App(app_id) for app_id in dict.fromkeys(context.account.app_ids)]


def tasks_per_app(task: Task, app_ids: Iterable[str], start: date | None, end: date | None) -> list[TaskSpec]:
    """One `app_data` task for each app over these days, by app id, as urgent as the task they follow."""
    return [task_for_app(task, app_id, start, end) for app_id in sorted(set(app_ids))]


def task_for_app(task: Task, app_id: str | None, start: date | None, end: date | None) -> TaskSpec:
    """An `app_data` task over these days for the account, report and priority of the task that it follows."""
    return TaskSpec(
        "app_data",
        username=task.username,
        source=task.source,
        app_id=app_id,
        start_date=start,
        end_date=end,
        report=task.report or (default_report(task.source) if task.source else None),
        priority=task.priority,
        task_data={BELIEVE_EMPTY: True} if task.task_data.get(BELIEVE_EMPTY) else None,
    )


USER_APPS = Executor("user_apps", sync_user_apps, needs_account=True, check=check_user_apps, cost=user_apps_cost)
