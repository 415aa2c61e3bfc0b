"""Starting a node."""

from __future__ import annotations

import time

from benchmarks.place import Place


def start(place: Place, tasks: int) -> dict[str, float]:
    """Seconds from starting `main.py distribute standalone` to its first claim, with the API as by default.

    Size: tasks that wait, which hardly matters. The tables exist already, and so do Python's compiled files and the
    file system's cache: the first start after installation or boot is slower.
    """
    ids = [place.fleet.add_task("noop") for _ in range(tasks)]
    began = time.time()
    with place.node(api=True) as node:
        place.watch(node, lambda: place.completed(ids))
        node.wait_started()
    return {"to the first claim, s": place.first_claim(place.newest_epoch()).timestamp() - began}
