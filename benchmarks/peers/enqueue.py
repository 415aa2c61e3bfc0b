"""Runs in the peers' environment: `python -m benchmarks.peers.enqueue MODULE TASKS [SECONDS|apart]` queues tasks.

Tasks of `SECONDS` wait so long, without they do nothing. Prints how many seconds it took to queue them; `apart` queues
one at a time and prints when.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

Call = dict[str, float]  # the arguments of one task, by name
Enqueue = Callable[[Any, Sequence[Call]], None]  # how a peer queues calls of one of its tasks
PAUSE_SECONDS = (0.05, 0.25)  # between two tasks, uneven so as not to keep step with a worker's own looks


def calls(tasks: int, seconds: float | None) -> list[Call]:
    """Of tasks that wait, numbered from 0, or with None of tasks that do nothing."""
    return [{} if seconds is None else {"number": number, "seconds": seconds} for number in range(tasks)]


def apart(enqueue_one: Callable[[Call], object], tasks: int) -> list[float]:
    """Queue tasks that do not wait, one at a time with pauses; the moment before each, in seconds since 1970."""
    dice, moments = random.Random(1), []
    for call in calls(tasks, 0):
        time.sleep(dice.uniform(*PAUSE_SECONDS))
        moments.append(time.time())
        enqueue_one(call)
    return moments


def main(module: str, tasks: int, how: str | None = None) -> None:
    """Connections and tables are made before the clock runs."""
    peer = import_module(f"benchmarks.peers.{module}")
    with peer.enqueuer() as enqueue:
        if how == "apart":
            print(*apart(lambda call: enqueue(peer.wait, [call]), tasks))
            return
        seconds = None if how is None else float(how)
        began = time.perf_counter()
        enqueue(peer.noop if seconds is None else peer.wait, calls(tasks, seconds))
        print(time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
