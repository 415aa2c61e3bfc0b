"""taskiq: the broker that acknowledges, and results on Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.stamps import stamp
from benchmarks.peers.table import STORE_VARIABLE

AT_ONCE = 50  # each waits on a connection of its own
URL = os.environ[STORE_VARIABLE]
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))


@broker.task(task_name="noop")
async def noop() -> int:
    return stamp()


@contextmanager
def enqueuer() -> Iterator[Callable[[int], None]]:
    """It has no call for many, so one each, some at once."""
    with asyncio.Runner() as runner:
        runner.run(broker.startup())

        async def enqueue(count: int) -> None:
            for first in range(0, count, AT_ONCE):
                await asyncio.gather(*(noop.kiq() for _ in range(min(AT_ONCE, count - first))))

        yield lambda count: runner.run(enqueue(count))
        runner.run(broker.shutdown())
