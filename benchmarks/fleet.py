"""Several nodes on one queue."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.drain import cpu_seconds
from benchmarks.fleet_idle import server_process, tree_seconds
from benchmarks.place import Place
from crawlfleet.model.task_spec import TaskSpec

NODES = (1, 2, 4, 8)


def fleet(place: Place, tasks: int) -> dict[str, float]:
    """How the drain grows with the number of nodes: 1, 2, 4 and 8 on one database, 5 tasks at once each.

    Size: tasks for each node, which do nothing, added in one transaction to nodes that wait; fewer would be shared out
    in a few claims of up to 2,000. All nodes and the server share this machine, so the growth ends at its cores: the
    CPU of all nodes and of the server for each task tells what nodes cost each other.
    """
    figures: dict[str, float] = {}
    for count in NODES:
        total = tasks * count
        with ExitStack() as stack:
            nodes = [stack.enter_context(place.node(device_id=f"of-{count}-{n}")) for n in range(count)]
            for node in nodes:
                node.wait_started()
            server = server_process(place)
            before, served = sum(cpu_seconds(node.process.pid) for node in nodes), tree_seconds(server)
            ids = place.fleet.add_tasks(TaskSpec("noop") for _ in range(total))
            place.watch(nodes[0], lambda ids=ids, count=count: place.completed(ids, count))  # type: ignore[misc]
            cpu = sum(cpu_seconds(node.process.pid) for node in nodes) - before
            served = tree_seconds(server) - served
        figures[f"tasks/s, nodes: {count}"] = total / place.drain_seconds(total, ids[0])
        figures[f"CPU of all nodes, µs/task, nodes: {count}"] = cpu / total * 1e6
        figures[f"CPU of the server, µs/task, nodes: {count}"] = served / total * 1e6
    return figures
