"""Running a body: check the task, call the function, read its lazy result, and make one `Outcome` of it all.

The body holds its slot meanwhile. Neither function raises: whatever a body does, even sys.exit(), its engine lives on.
Neither returns in another process than it was called in: a child that a body forked ends here, or it would go on as a
second engine.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from typing import NoReturn

from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.executors.outcome import failed
from crawlfleet.executors.result import collect
from crawlfleet.model.ending import Outcome
from crawlfleet.model.task_spec import Task


def run_body(executor: Executor, task: Task, context: TaskContext) -> Outcome:
    """Run a plain function to its end."""
    outcome, process = Outcome(), os.getpid()
    try:
        context.check()
        if executor.check is not None:
            executor.check(task)
        with closing(collect(executor.function(task, context), outcome)) as steps:
            for _ in steps:
                context.check()
    except BaseException as error:
        if os.getpid() != process:
            _leave(error)
        return failed(error, context, executor)
    if os.getpid() != process:
        _leave()
    return outcome


async def run_body_async(executor: Executor, task: Task, context: TaskContext) -> Outcome:
    """Run an `async def` to its end; other coroutines get their turn between batches of its rows."""
    outcome, process = Outcome(), os.getpid()
    try:
        context.check()
        if executor.check is not None:
            executor.check(task)
        with closing(collect(await executor.function(task, context), outcome)) as steps:
            for _ in steps:
                context.check()
                await asyncio.sleep(0)
    except GeneratorExit:  # the loop is gone and nobody awaits this any more
        raise
    except BaseException as error:
        if os.getpid() != process:
            _leave(error)
        return failed(error, context, executor)
    if os.getpid() != process:
        _leave()
    return outcome


def _leave(error: BaseException | None = None) -> NoReturn:
    """End this process, which a body forked, with nothing flushed, closed or told: all of that is its parent's."""
    code = error.code if isinstance(error, SystemExit) else 0 if error is None else 1
    os._exit(code if isinstance(code, int) else 1 if code else 0)
