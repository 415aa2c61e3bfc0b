"""taskiq: the broker that acknowledges, and results on Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers import stamps
from benchmarks.peers.enqueue import Call, Enqueue
from benchmarks.peers.table import STORE_VARIABLE

AT_ONCE = 50  # each waits on a connection of its own
URL = os.environ[STORE_VARIABLE]
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))


@broker.task(task_name="noop")
async def noop() -> int:
    return stamps.stamp()


@broker.task(task_name="wait")
async def wait(number: int, seconds: float) -> int:
    return await stamps.wait_async(number, seconds)


@contextmanager
def enqueuer() -> Iterator[Enqueue]:
    """It has no call for many, so one each, some at once."""
    with asyncio.Runner() as runner:
        runner.run(broker.startup())

        async def enqueue(task: Any, calls: Sequence[Call]) -> None:
            for first in range(0, len(calls), AT_ONCE):
                await asyncio.gather(*(task.kiq(**call) for call in calls[first : first + AT_ONCE]))

        yield lambda task, calls: runner.run(enqueue(task, calls))
        runner.run(broker.shutdown())
