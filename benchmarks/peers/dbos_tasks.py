"""DBOS: a task is a workflow without steps, whose state and result are kept. Run as a program, it is the worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.peers.stamps import stamp
from benchmarks.peers.table import CONCURRENCY, STORE_VARIABLE

QUEUE = "noops"
POLLING_SECONDS = 0.001  # it takes at most CONCURRENCY tasks each time it looks, by default once in a second


@DBOS.workflow(name="noop")
def noop() -> int:
    return stamp()


def launch() -> None:
    """Make the tables and the queue, and work."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": os.environ[STORE_VARIABLE],
        "log_level": "WARNING",
        "run_admin_server": False,
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=POLLING_SECONDS)


@contextmanager
def enqueuer() -> Iterator[Callable[[int], None]]:
    """It has no call for many, so one each."""
    launch()  # makes the tables
    DBOS.destroy()
    client = DBOSClient(system_database_url=os.environ[STORE_VARIABLE])

    def enqueue(count: int) -> None:
        for _ in range(count):
            client.enqueue({"queue_name": QUEUE, "workflow_name": "noop"})

    yield enqueue
    client.destroy()


if __name__ == "__main__":
    launch()
    threading.Event().wait()
