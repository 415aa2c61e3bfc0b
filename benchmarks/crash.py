"""A killed node."""

from __future__ import annotations

import time

from benchmarks.place import Place
from crawlfleet.model.task_spec import TaskSpec

SLOTS = 5
BODY_SECONDS = 0.05


def crash(place: Place, tasks: int) -> dict[str, float]:
    """What `kill -9` in the middle of the work costs: the node is started again at once and finishes.

    Size: tasks of 50 ms, 5 at once. `back at work` is from the kill to the first claim of the new process, its start
    included, which on a busy machine is nearly all of it. `more than the work itself` is from the first claim of all to
    the last end, less the time that the bodies alone take. That each task completed exactly once is checked, too.
    """
    ids = place.fleet.add_tasks(TaskSpec("wait_50ms") for _ in range(tasks))
    with place.node() as node:
        place.watch(node, lambda: place.completed(ids[: tasks // 2]))
        node.kill()
    killed = time.time()
    with place.node() as node:
        place.watch(node, lambda: place.completed(ids))
    seconds = place.drain_seconds(tasks)
    return {
        "back at work, s": place.first_claim(place.newest_epoch()).timestamp() - killed,
        "all done, s": seconds,
        "more than the work itself, s": seconds - tasks * BODY_SECONDS / SLOTS,
        "runs lost": float(place.runs() - tasks),
    }
