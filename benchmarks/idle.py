"""Having nothing to do."""

from __future__ import annotations

import time

import psutil

from benchmarks.drain import cpu_seconds
from benchmarks.place import MB, Place

SETTLE_SECONDS = 2.0  # the API is imported, the first beat is sent


def idle(place: Place, seconds: int) -> dict[str, float]:
    """What a node with an empty queue takes: CPU in percent of one core, lines of log in a minute, memory.

    Size: seconds of watching. The node has the API as by default and nobody asks it. The kernel counts CPU time in
    steps of 10 ms, so a short window says little; what the database server spends on the node is not in it.
    """
    with place.node(api=True) as node:
        node.wait_started()
        time.sleep(SETTLE_SECONDS)
        pid = node.process.pid
        lines, cpu, began = node.count("\n"), cpu_seconds(pid), time.monotonic()
        time.sleep(seconds)
        window = time.monotonic() - began
        used = cpu_seconds(pid) - cpu
        return {
            "CPU, % of a core": used / window * 100,
            "lines of log in a minute": (node.count("\n") - lines) / window * 60,
            "memory with API, MB": psutil.Process(pid).memory_info().rss / MB,
        }
