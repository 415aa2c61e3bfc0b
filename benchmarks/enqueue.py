"""Queueing tasks."""

from __future__ import annotations

import time

from benchmarks.place import Place
from crawlfleet.model.task_spec import TaskSpec

SINGLES = 100  # at most so many are queued one by one


def enqueue(place: Place, tasks: int) -> dict[str, float]:
    """How fast tasks are queued: all in one call, and one call each.

    Size: tasks. A call is a transaction, so the single ones measure a commit that waits for the disk. The bulk includes
    making and checking the specs.
    """
    began = time.perf_counter()
    place.fleet.add_tasks(TaskSpec("noop", task_data={"n": n}) for n in range(tasks))
    bulk = time.perf_counter() - began
    singles = min(tasks, SINGLES)
    began = time.perf_counter()
    for n in range(singles):
        place.fleet.add_task("noop", task_data={"n": n})
    single = time.perf_counter() - began
    return {"in one call, tasks/s": tasks / bulk, "one by one, tasks/s": singles / single}
