"""Executors of the service tests; worker processes and nodes in child processes import this module, too.

A body that is held waits until the file `gate` appears. `stubborn` ones look at no cancel, as many bodies do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from datetime import date
from typing import Any

from crawlfleet.core.errors import AuthError, PermanentError, QuotaError, TransientError
from crawlfleet.core.vendor_data import Figures, ReportRange
from crawlfleet.executors.contract import TaskContext, TaskResult
from crawlfleet.executors.registry import task_executor
from crawlfleet.model.task_spec import Task

DAY = date(2026, 1, 31)
POLL_SECONDS = 0.005
ERRORS = {
    "permanent": PermanentError("never"),
    "transient": TransientError("later"),
    "quota": QuotaError("used up", retry_after=3600),
    "auth": AuthError("refused"),
}


@task_executor("quick")
def quick(task: Task, context: TaskContext) -> dict[str, Any]:
    return dict(task.task_data)


@task_executor("async_quick")
async def async_quick(task: Task, context: TaskContext) -> dict[str, Any]:
    return dict(task.task_data)


def talk(task: Task, context: TaskContext) -> None:
    for level, text in task.task_data["lines"]:
        context.log.log(level, "said: %s", text.replace("<NUL>", "\0"))
    if "traceback" in task.task_data:
        try:
            raise ValueError(task.task_data["traceback"])
        except ValueError:
            context.log.exception("went wrong")


@task_executor("talking")
def talking(task: Task, context: TaskContext) -> None:
    talk(task, context)


@task_executor("async_talking")
async def async_talking(task: Task, context: TaskContext) -> None:
    talk(task, context)


@task_executor("breaking")
def breaking(task: Task, context: TaskContext) -> None:
    1 // 0  # noqa: B018


@task_executor("async_breaking")
async def async_breaking(task: Task, context: TaskContext) -> None:
    1 // 0  # noqa: B018


@task_executor("raising")
def raising(task: Task, context: TaskContext) -> None:
    raise ERRORS[task.task_data["kind"]]


ODD: list[Any] = []  # what bodies of the type `odd` return or raise, each once


@task_executor("odd")
def odd(task: Task, context: TaskContext) -> Any:
    found = ODD.pop()
    if isinstance(found, Exception):
        raise found
    return found


@task_executor("held")
def held(task: Task, context: TaskContext) -> dict[str, Any]:
    while not os.path.exists(task.task_data["gate"]):
        context.sleep(POLL_SECONDS)
    return {"passed": True}


@task_executor("chatting")
def chatting(task: Task, context: TaskContext) -> None:
    context.log.info("waits for the gate")
    while not os.path.exists(task.task_data["gate"]):
        context.sleep(POLL_SECONDS)
    context.log.info("the gate is open")


@task_executor("async_held")
async def async_held(task: Task, context: TaskContext) -> dict[str, Any]:
    while not os.path.exists(task.task_data["gate"]):
        await asyncio.sleep(POLL_SECONDS)
    return {"passed": True}


@task_executor("async_blocking")
async def async_blocking(task: Task, context: TaskContext) -> None:
    while not os.path.exists(task.task_data["gate"]):
        time.sleep(POLL_SECONDS)


@task_executor("async_blocking_inside")
async def async_blocking_inside(task: Task, context: TaskContext) -> None:
    await asyncio.gather(async_blocking(task, context))


@task_executor("async_deaf")
async def async_deaf(task: Task, context: TaskContext) -> None:
    while not os.path.exists(task.task_data["gate"]):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(POLL_SECONDS)


@task_executor("stubborn")
def stubborn(task: Task, context: TaskContext) -> dict[str, Any]:
    while not os.path.exists(task.task_data["gate"]):
        time.sleep(POLL_SECONDS)
    return {"passed": True}


@task_executor("with_token")
def with_token(task: Task, context: TaskContext) -> None:
    context.account.token()


@task_executor("calling")
def calling(task: Task, context: TaskContext) -> None:
    """One call, however many the task holds."""
    context.before_call()
    context.after_answer()


@task_executor("dying")
def dying(task: Task, context: TaskContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task_executor("fetch_paid")
def fetch_paid(task: Task, context: TaskContext) -> TaskResult:
    """The same, with a call."""
    context.before_call()
    context.after_answer()
    return fetch(task, context)


@task_executor("fetch")
def fetch(task: Task, context: TaskContext) -> TaskResult:
    """`rows` rows of `app`, each 2 x `wide` characters wider; with `poison` the last one's campaign is called so."""
    count = task.task_data["rows"]
    poisoned = task.task_data.get("poison")
    extra = {"events": 'x"' * task.task_data.get("wide", 0)}
    figures = (
        Figures(DAY, campaign="poison" if poisoned and n == count - 1 else f"c{n}", clicks=n, extra=extra)
        for n in range(count)
    )
    return TaskResult(rows=figures, replaces=ReportRange("s", "u", task.task_data["app"], "r", DAY, DAY))


@task_executor("weigh")
def weigh(task: Task, context: TaskContext) -> dict[str, Any]:
    """How large its task_data is."""
    return {"size": len(task.task_data["text"])}
