"""huey: results are stored; SQLite in WAL mode, as is its default."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huey import PostgresHuey, RedisHuey, SqliteHuey

from benchmarks.peers.stamps import stamp
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
    return stamp()


@contextmanager
def enqueuer() -> Iterator[Callable[[int], None]]:
    """It has no call for many, so one each."""

    def enqueue(count: int) -> None:
        for _ in range(count):
            noop()

    yield enqueue
