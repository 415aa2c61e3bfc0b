"""procrastinate: jobs stay in its table with their state and events."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from procrastinate import App, PsycopgConnector

from benchmarks.peers.stamps import stamp
from benchmarks.peers.table import STORE_VARIABLE

app = App(connector=PsycopgConnector(conninfo=os.environ[STORE_VARIABLE]))


@app.task(name="noop")
async def noop() -> int:
    return stamp()


@contextmanager
def enqueuer() -> Iterator[Callable[[int], None]]:
    """All in one statement."""
    with app.open():
        app.schema_manager.apply_schema()
        yield lambda count: noop.batch_defer(*({} for _ in range(count)))
