"""Working a queue off."""

from __future__ import annotations

import psutil

from benchmarks.place import Place
from crawlfleet.model.task_spec import TaskSpec


def drain_5(place: Place, tasks: int) -> dict[str, float]:
    """How fast one node drains tasks that do nothing, 5 at once in threads: what the queue itself costs.

    Size: tasks, added in one transaction to a node that waits. From the first claim to the turn that
    records the last end. CPU is
    the node's own, of all its threads; it tells more than the rate when the machine is busy with something else.
    """
    return drain(place, tasks, "noop", 5)


def drain_50(place: Place, tasks: int) -> dict[str, float]:
    """The same with 50 at once: larger batches, more threads that fight for the interpreter."""
    return drain(place, tasks, "noop", 50)


def drain(place: Place, tasks: int, task_type: str, slots: int) -> dict[str, float]:
    """Add the tasks to a node that waits for them; how it drains them."""
    with place.node("--concurrent-tasks", str(slots)) as node:
        node.wait_started()
        before = cpu_seconds(node.process.pid)
        ids = place.fleet.add_tasks(TaskSpec(task_type) for _ in range(tasks))
        place.watch(node, lambda: place.completed(ids))
        cpu = cpu_seconds(node.process.pid) - before
    return {"tasks/s": tasks / place.drain_seconds(tasks, ids[0]), "CPU of the node, µs/task": cpu / tasks * 1e6}


def cpu_seconds(pid: int) -> float:
    """CPU time that the process has used so far, user and system."""
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system
