"""procrastinate: jobs stay in its table with their state and events."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from procrastinate import App, PsycopgConnector

from benchmarks.peers import stamps
from benchmarks.peers.enqueue import Enqueue
from benchmarks.peers.table import STORE_VARIABLE

app = App(connector=PsycopgConnector(conninfo=os.environ[STORE_VARIABLE]))


@app.task(name="noop")
async def noop() -> int:
    return stamps.stamp()


@app.task(name="wait")
async def wait(number: int, seconds: float) -> int:
    return await stamps.wait_async(number, seconds)


@contextmanager
def enqueuer() -> Iterator[Enqueue]:
    """All in one statement."""
    with app.open():
        if not app.check_connection():  # there are no tables yet
            app.schema_manager.apply_schema()
        yield lambda task, calls: task.batch_defer(*calls)
