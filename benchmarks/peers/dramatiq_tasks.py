"""dramatiq: results on Redis, none on RabbitMQ, which cannot keep them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers import stamps
from benchmarks.peers.enqueue import Enqueue
from benchmarks.peers.table import STORE_VARIABLE

URL = os.environ[STORE_VARIABLE]
if URL.startswith("redis:"):
    broker = RedisBroker(url=URL)
    broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True))
else:
    broker = RabbitmqBroker(url=URL)
dramatiq.set_broker(broker)


@dramatiq.actor
def noop() -> int:
    return stamps.stamp()


@dramatiq.actor
def wait(number: int, seconds: float) -> int:
    return stamps.wait(number, seconds)


@contextmanager
def enqueuer() -> Iterator[Enqueue]:
    """A group sends one each."""
    yield lambda task, calls: dramatiq.group(task.message(**call) for call in calls).run()
