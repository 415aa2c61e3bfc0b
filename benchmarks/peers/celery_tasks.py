"""celery: processes, as is its default; results on Redis, none on RabbitMQ, which cannot keep them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery

from benchmarks.peers import stamps
from benchmarks.peers.enqueue import Call, Enqueue
from benchmarks.peers.table import STORE_VARIABLE

URL = os.environ[STORE_VARIABLE]
app = Celery("bench", broker=URL, backend=URL if URL.startswith("redis:") else None)
app.conf.worker_prefetch_multiplier = 100  # its guide on optimising: large for many short tasks
app.conf.task_ignore_result = not URL.startswith("redis:")


@app.task(name="noop")
def noop() -> int:
    return stamps.stamp()


@app.task(name="wait")
def wait(number: int, seconds: float) -> int:
    return stamps.wait(number, seconds)


@contextmanager
def enqueuer() -> Iterator[Enqueue]:
    """One each, over one producer."""
    with app.producer_pool.acquire(block=True) as producer:

        def enqueue(task: Any, calls: Sequence[Call]) -> None:
            for call in calls:
                task.apply_async(kwargs=call, producer=producer)

        yield enqueue
