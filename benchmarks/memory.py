"""Memory over a long drain."""

from __future__ import annotations

from benchmarks.place import Place
from crawlfleet.model.task_spec import TaskSpec


def memory(place: Place, tasks: int) -> dict[str, float]:
    """Resident memory of a node without API: at rest, after a tenth of a long drain, and at its end.

    Size: tasks that do nothing, 5 at once. What matters is that the last two are alike: Python keeps what it once
    took, so the figure after a tenth is the level, and growth from there on would be a leak.
    """
    with place.node() as node:
        node.wait_started()
        at_rest = place.watch(node, lambda: True)[-1]
        ids = place.fleet.add_tasks(TaskSpec("noop") for _ in range(tasks))
        samples = place.watch(node, lambda: place.completed(ids))
    place.drain_seconds(tasks)
    return {
        "at rest, MB": at_rest,
        "after a tenth, MB": samples[len(samples) // 10],
        "at the end, MB": samples[-1],
        "most, MB": max(samples),
    }
