"""Fifty devices that have nothing to do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import sqlalchemy as sa

from benchmarks.idle import SETTLE_SECONDS
from benchmarks.place import Place
from crawlfleet.api.distribution_api import init_distribution_services
from crawlfleet.settings.layers import load_settings

DEVICES = 50


def fleet_idle(place: Place, seconds: int) -> dict[str, float]:
    """What 50 devices with an empty queue take of their database server: CPU in percent of one core.

    Size: seconds of watching; a beat comes every 30 s, so less tells little. All devices are in one process, each with
    the threads and connections of a real node. Watched twice: a master with 49 workers, then 50 that claim for
    themselves. What the server does for itself meanwhile, a vacuum say, is in it.
    """
    return {
        "master and workers, % of a core": server_use(place, "worker", seconds),
        "each for itself, % of a core": server_use(place, "standalone", seconds),
    }


def server_use(place: Place, mode: str, seconds: int) -> float:
    """The share of a core that the server uses for such a fleet."""
    # a node takes a second to stop: all at once
    with ThreadPoolExecutor(DEVICES) as stopping, ExitStack() as stack:
        for number in range(DEVICES):
            own = {"device_id": f"{mode}-{number}", "mode": "master" if mode == "worker" and not number else mode}
            settings = load_settings(None, {"database_url": place.url, "api": False, **own}, environ={})
            node = init_distribution_services(settings=settings)
            stack.callback(stopping.submit, node.stop)
            node.start()
        time.sleep(SETTLE_SECONDS)
        server = server_process(place)
        used, began = tree_seconds(server), time.monotonic()
        time.sleep(seconds)
        return (tree_seconds(server) - used) / (time.monotonic() - began) * 100


def server_process(place: Place) -> psutil.Process:
    """The server's process; PostgreSQL's is the parent of the one that serves us."""
    db = place.fleet.db
    with db.read() as connection:
        if db.family == "postgresql":
            backend = psutil.Process(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
            parent = backend.parent()
            assert parent is not None
            return parent
        with open(connection.execute(sa.text("SELECT @@pid_file")).scalar_one(), encoding="ascii") as stream:
            return psutil.Process(int(stream.read()))


def tree_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of all its children so far, those included that have ended."""
    used = process.cpu_times()
    ended: float = used.children_user + used.children_system
    children = [each.cpu_times() for each in process.children(recursive=True)]
    return ended + sum(each.user + each.system for each in (used, *children))
