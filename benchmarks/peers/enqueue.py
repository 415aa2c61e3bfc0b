"""Runs in the peers' environment: `python -m benchmarks.peers.enqueue MODULE COUNT` queues tasks, prints seconds."""

from __future__ import annotations

import sys
import time
from importlib import import_module


def main(module: str, count: int) -> None:
    """Connections and tables are made before the clock runs."""
    with import_module(f"benchmarks.peers.{module}").enqueuer() as enqueue:
        began = time.perf_counter()
        enqueue(count)
        print(time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
