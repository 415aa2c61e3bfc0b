"""From adding a task to its body."""

from __future__ import annotations

import random
import time
from statistics import quantiles

from benchmarks.place import Place

PAUSE_SECONDS = (0.05, 0.25)  # between two tasks, uneven so as not to keep step with the node's own looks


def latency(place: Place, tasks: int) -> dict[str, float]:
    """Milliseconds from calling `add_task` to the beginning of the body, on a node that waits for work.

    Size: tasks, one at a time. Includes the commit of the adding transaction, and the node's noticing: on SQLite Linux
    tells it of writes to the file, PostgreSQL notifies, MariaDB is asked every 150 ms. Both clocks are this machine's.
    """
    dice = random.Random(1)
    with place.node() as node:
        node.wait_started()
        ids, asked = [], []
        for _ in range(tasks):
            time.sleep(dice.uniform(*PAUSE_SECONDS))
            asked.append(time.time())
            ids.append(place.fleet.add_task("tell_moment"))
        place.watch(node, lambda: place.completed(ids))
    waits = [began(place, task_id) - moment for task_id, moment in zip(ids, asked, strict=True)]
    cuts = quantiles(waits, n=20, method="inclusive")
    return {"half within, ms": cuts[9] * 1000, "95 % within, ms": cuts[18] * 1000}


def began(place: Place, task_id: int) -> float:
    task = place.fleet.tasks.get(task_id)
    assert task is not None
    return float(task["task_ret"]["began"])
