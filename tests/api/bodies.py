"""Executors of the API tests; a node in a child process imports this module, too."""

from __future__ import annotations

from typing import Any

from crawlfleet.core.errors import PermanentError
from crawlfleet.executors.contract import TaskContext
from crawlfleet.executors.registry import task_executor
from crawlfleet.model.task_spec import Task


@task_executor("api_test.ok")
def ok(task: Task, context: TaskContext) -> dict[str, Any]:
    return {"seen": True}


@task_executor("api_test.never")
def never(task: Task, context: TaskContext) -> dict[str, Any]:
    raise PermanentError("never")
