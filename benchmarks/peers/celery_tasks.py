"""celery: processes, as is its default; results on Redis, none on RabbitMQ, which cannot keep them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from celery import Celery

from benchmarks.peers.stamps import stamp
from benchmarks.peers.table import STORE_VARIABLE

URL = os.environ[STORE_VARIABLE]
app = Celery("bench", broker=URL, backend=URL if URL.startswith("redis:") else None)
app.conf.worker_prefetch_multiplier = 100  # its guide on optimising: large for many short tasks
app.conf.task_ignore_result = not URL.startswith("redis:")


@app.task(name="noop")
def noop() -> int:
    return stamp()


@contextmanager
def enqueuer() -> Iterator[Callable[[int], None]]:
    """One each, over one producer."""
    with app.producer_pool.acquire(block=True) as producer:

        def enqueue(count: int) -> None:
            for _ in range(count):
                noop.apply_async(producer=producer)

        yield enqueue
