"""A database that is far away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date

from sqlalchemy.engine import make_url

from benchmarks.place import Place
from benchmarks.quota import serve_vendor
from crawlfleet.core.account import Account
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.appsflyer.invented_data import apps_of
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


def far_reports(place: Place, reports: int) -> dict[str, float]:
    """How fast one node fetches and stores reports, its database 100 ms away, 5 and 50 at once.

    Size: reports, each of one day of an app of its own, some 30 rows, from a simulated vendor on this machine, which
    is asked 20 ms away at most; nothing waits for a quota.
    """
    place.fleet.accounts.add(Account("appsflyer", "far", "agency", token_env="TOKEN_FAR"))
    apps = iter(apps_of("far", reports * len(SLOTS)))
    figures: dict[str, float] = {}
    with serve_vendor(window_seconds=60, apps=reports * len(SLOTS)) as address:
        environ = {"TOKEN_FAR": "sandbox-far", "CRAWLFLEET_APPSFLYER_BASE_URL": address}
        for slots in SLOTS:
            with far_away(place, 0.1) as distant:
                day = date(2026, 4, 1)
                ids = place.fleet.add_tasks(
                    TaskSpec("app_data", "far", app_id=next(apps).app_id, start_date=day, end_date=day)
                    for _ in range(reports)
                )
                with distant.node("--concurrent-tasks", str(slots), environ=environ) as node:
                    place.watch(node, lambda ids=ids: place.completed(ids))  # type: ignore[misc]
            figures[f"reports/s, {slots} at once"] = reports / place.drain_seconds(reports, ids[0])
    return figures


def far(place: Place, tasks: int, round_trip: float) -> dict[str, float]:
    """Drain the tasks over such a distance, with few slots and with many."""
    figures: dict[str, float] = {}
    for slots in SLOTS:
        with far_away(place, round_trip) as distant:
            ids = place.fleet.add_tasks(TaskSpec("noop") for _ in range(tasks))
            began = time.time()
            with distant.node("--concurrent-tasks", str(slots)) as node:
                place.watch(node, lambda ids=ids: place.completed(ids))  # type: ignore[misc]
            epoch = place.newest_epoch()
        figures[f"tasks/s, {slots} at once"] = tasks / place.drain_seconds(tasks, ids[0])
        figures["to the first claim, s"] = place.first_claim(epoch).timestamp() - began
    return figures


@contextmanager
def far_away(place: Place, round_trip: float) -> Iterator[Place]:
    """The same place for nodes that are so many seconds away from its database."""
    address = make_url(place.url)
    assert address.port is not None
    with TcpProxy("127.0.0.1", address.port, round_trip / 2) as proxy:
        yield replace(place, url=address.set(port=proxy.port).render_as_string(hide_password=False))
