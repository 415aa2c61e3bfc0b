"""A database that is far away."""

from __future__ import annotations

import time
from dataclasses import replace

from sqlalchemy.engine import make_url

from benchmarks.place import Place
from crawlfleet.model.task_spec import TaskSpec
from tests.tcp_proxy import TcpProxy

SLOTS = (5, 50)


def far_20(place: Place, tasks: int) -> dict[str, float]:
    """How fast one node drains tasks that do nothing, its database 20 ms away: behind a proxy that delays each byte.

    Size: tasks, added in one transaction from nearby. The first claim is counted from the start of the process, over
    the same distance, new connections included.
    """
    return far(place, tasks, 0.02)


def far_100(place: Place, tasks: int) -> dict[str, float]:
    """The same with a round trip of 100 ms, as to another continent."""
    return far(place, tasks, 0.1)


def far_300(place: Place, tasks: int) -> dict[str, float]:
    """The same with a round trip of 300 ms."""
    return far(place, tasks, 0.3)


def far(place: Place, tasks: int, round_trip: float) -> dict[str, float]:
    """Drain the tasks over such a distance, with few slots and with many."""
    address = make_url(place.url)
    assert address.port is not None
    figures: dict[str, float] = {}
    for slots in SLOTS:
        with TcpProxy("127.0.0.1", address.port, round_trip / 2) as proxy:
            distant = replace(place, url=address.set(port=proxy.port).render_as_string(hide_password=False))
            ids = place.fleet.add_tasks(TaskSpec("noop") for _ in range(tasks))
            began = time.time()
            with distant.node("--concurrent-tasks", str(slots)) as node:
                place.watch(node, lambda ids=ids: place.completed(ids))  # type: ignore[misc]
            epoch = place.newest_epoch()
        figures[f"tasks/s, {slots} at once"] = tasks / place.drain_seconds(tasks, ids[0])
        figures["to the first claim, s"] = place.first_claim(epoch).timestamp() - began
    return figures
