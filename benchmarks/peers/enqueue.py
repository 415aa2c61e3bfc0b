"""Runs in the peers' environment: `python -m benchmarks.peers.enqueue MODULE TASKS [SECONDS]` queues tasks.

Tasks of `SECONDS` wait so long, without they do nothing. Prints how many seconds it took to queue them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

Call = dict[str, float]  # the arguments of one task, by name
Enqueue = Callable[[Any, Sequence[Call]], None]  # how a peer queues calls of one of its tasks


def calls(tasks: int, seconds: float | None) -> list[Call]:
    """Of tasks that wait, numbered from 0, or with None of tasks that do nothing."""
    return [{} if seconds is None else {"number": number, "seconds": seconds} for number in range(tasks)]


def main(module: str, tasks: int, seconds: float | None) -> None:
    """Connections and tables are made before the clock runs."""
    peer = import_module(f"benchmarks.peers.{module}")
    task = peer.noop if seconds is None else peer.wait
    with peer.enqueuer() as enqueue:
        began = time.perf_counter()
        enqueue(task, calls(tasks, seconds))
        print(time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else None)
