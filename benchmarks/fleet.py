"""Several nodes on one queue."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.drain import cpu_seconds
from benchmarks.place import Place
from crawlfleet.model.task_spec import TaskSpec

NODES = (1, 2, 4)


def fleet(place: Place, tasks: int) -> dict[str, float]:
    """How the drain grows with the number of nodes: 1, 2 and 4 standalone ones on one database, 5 tasks at once each.

    Size: tasks that do nothing, added in one transaction to nodes that wait; each count of nodes drains as many. All
    nodes and the server share this machine, so the growth ends at its cores: CPU of all nodes per task tells what
    nodes cost each other.
    """
    figures: dict[str, float] = {}
    for count in NODES:
        with ExitStack() as stack:
            nodes = [stack.enter_context(place.node(device_id=f"of-{count}-{n}")) for n in range(count)]
            for node in nodes:
                node.wait_started()
            before = sum(cpu_seconds(node.process.pid) for node in nodes)
            ids = place.fleet.add_tasks(TaskSpec("noop") for _ in range(tasks))
            place.watch(nodes[0], lambda ids=ids, count=count: place.completed(ids, count))  # type: ignore[misc]
            cpu = sum(cpu_seconds(node.process.pid) for node in nodes) - before
        figures[f"tasks/s, nodes: {count}"] = tasks / place.drain_seconds(tasks, ids[0])
        figures[f"CPU of all nodes, µs/task, nodes: {count}"] = cpu / tasks * 1e6
    return figures
