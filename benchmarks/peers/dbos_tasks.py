"""DBOS: a task is a workflow without steps, whose state and result are kept.

Run as a program, it is the worker: `python -m benchmarks.peers.dbos_tasks CONCURRENCY [POLLING_SECONDS]`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.peers import stamps
from benchmarks.peers.enqueue import Call, Enqueue
from benchmarks.peers.table import STORE_VARIABLE

QUEUE = "tasks"
POLLING_SECONDS = "0.001"  # it takes at most CONCURRENCY tasks each time it looks, by default once in a second


@DBOS.workflow(name="noop")
def noop() -> int:
    return stamps.stamp()


@DBOS.workflow(name="wait")
async def wait(number: int, seconds: float) -> int:
    return await stamps.wait_async(number, seconds)


def launch() -> None:
    """Make the tables."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": os.environ[STORE_VARIABLE],
        "log_level": "WARNING",
        "run_admin_server": False,
    }
    DBOS(config=config)
    DBOS.launch()


@contextmanager
def enqueuer() -> Iterator[Enqueue]:
    """It has no call for many, so one each."""
    launch()
    DBOS.destroy()
    client = DBOSClient(system_database_url=os.environ[STORE_VARIABLE])

    def enqueue(task: Any, calls: Sequence[Call]) -> None:
        for call in calls:
            client.enqueue({"queue_name": QUEUE, "workflow_name": task.__name__}, **call)

    yield enqueue
    client.destroy()


if __name__ == "__main__":
    launch()
    concurrency, polling_seconds = [*sys.argv[1:], POLLING_SECONDS][:2]
    DBOS.register_queue(QUEUE, worker_concurrency=int(concurrency), polling_interval_sec=float(polling_seconds))
    threading.Event().wait()
