"""crawlfleet: a distributed crawl-task system that keeps app-marketing data complete."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from crawlfleet.core.account import Account
    from crawlfleet.core.errors import (
        AuthError,
        NotPermitted,
        PermanentError,
        QuotaError,
        RangeTooLarge,
        TaskError,
        TransientError,
    )
    from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
    from crawlfleet.executors.contract import TaskContext, TaskResult
    from crawlfleet.executors.registry import task_executor
    from crawlfleet.model.task_spec import Task, TaskSpec
    from crawlfleet.services.fleet import Fleet, connect
    from crawlfleet.sources.contract import (
        ALL_APPS,
        AppListUnavailable,
        Cancellable,
        Limit,
        Report,
        Shape,
        Source,
        SourceSettings,
        Uncancelled,
    )
    from crawlfleet.sources.http.refusals import Refusal
    from crawlfleet.sources.http.transport import Session, Transport

_HOMES = {
    "crawlfleet.core.account": ("Account",),
    "crawlfleet.core.errors": (
        "AuthError",
        "NotPermitted",
        "PermanentError",
        "QuotaError",
        "RangeTooLarge",
        "TaskError",
        "TransientError",
    ),
    "crawlfleet.core.vendor_data": ("App", "AppList", "Figures", "ReportRange"),
    "crawlfleet.executors.contract": ("TaskContext", "TaskResult"),
    "crawlfleet.executors.registry": ("task_executor",),
    "crawlfleet.model.task_spec": ("Task", "TaskSpec"),
    "crawlfleet.services.fleet": ("Fleet", "connect"),
    "crawlfleet.sources.contract": (
        "ALL_APPS",
        "AppListUnavailable",
        "Cancellable",
        "Limit",
        "Report",
        "Shape",
        "Source",
        "SourceSettings",
        "Uncancelled",
    ),
    "crawlfleet.sources.http.transport": ("Session", "Transport"),
    "crawlfleet.sources.http.refusals": ("Refusal",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "ALL_APPS",
    "Account",
    "App",
    "AppList",
    "AppListUnavailable",
    "AuthError",
    "Cancellable",
    "Figures",
    "Fleet",
    "Limit",
    "NotPermitted",
    "PermanentError",
    "QuotaError",
    "RangeTooLarge",
    "Refusal",
    "Report",
    "ReportRange",
    "Session",
    "Shape",
    "Source",
    "SourceSettings",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskSpec",
    "TransientError",
    "Transport",
    "Uncancelled",
    "__version__",
    "connect",
    "task_executor",
]


def __getattr__(name: str) -> Any:
    """Import on first use: a worker process needs the executors' part and no database."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'crawlfleet' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
