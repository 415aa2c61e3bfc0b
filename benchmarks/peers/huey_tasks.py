"""huey: results are stored; SQLite in WAL mode, as is its default."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from huey import PostgresHuey, RedisHuey, SqliteHuey

from benchmarks.peers import stamps
from benchmarks.peers.enqueue import Call, Enqueue
from benchmarks.peers.table import STORE_VARIABLE

URL = os.environ[STORE_VARIABLE]
if URL.startswith("sqlite:///"):
    huey = SqliteHuey(filename=URL.removeprefix("sqlite:///"))
elif URL.startswith("postgresql:"):
    huey = PostgresHuey(dsn=URL)
else:
    huey = RedisHuey(url=URL)


@huey.task()
def noop() -> int:
    return stamps.stamp()


@huey.task()
def wait(number: int, seconds: float) -> int:
    return stamps.wait(number, seconds)


@contextmanager
def enqueuer() -> Iterator[Enqueue]:
    """It has no call for many, so one each."""

    def enqueue(task: Any, calls: Sequence[Call]) -> None:
        for call in calls:
            task(**call)

    yield enqueue
