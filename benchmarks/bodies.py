"""What the tasks of the benchmarks do: next to nothing, for a known time."""

from __future__ import annotations

import asyncio
import time

import crawlfleet
from benchmarks.peers import stamps


@crawlfleet.task_executor("noop")
def noop(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> None:
    return None


@crawlfleet.task_executor("wait_10ms")
async def wait_10ms(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> None:
    await asyncio.sleep(0.01)


@crawlfleet.task_executor("wait_100ms")
async def wait_100ms(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> None:
    await asyncio.sleep(0.1)


@crawlfleet.task_executor("wait_50ms")
def wait_50ms(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> None:
    context.sleep(0.05)


@crawlfleet.task_executor("tell_moment")
def tell_moment(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> dict[str, float]:
    """When the body began, by this machine's clock, in seconds since 1970."""
    return {"began": time.time()}


@crawlfleet.task_executor("stamp")
def stamp(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> dict[str, int]:
    """What the tasks of the peers do, too."""
    return {"ran": stamps.stamp()}


@crawlfleet.task_executor("wait_stamped")
async def wait_stamped(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> dict[str, int]:
    """As do those of the peers that know asyncio."""
    return {"ran": await stamps.wait_async(**task.task_data)}
