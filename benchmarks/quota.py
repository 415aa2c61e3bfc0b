"""A vendor's quota, shared by several nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from statistics import mean
from urllib.request import urlopen

import sqlalchemy as sa

from benchmarks.place import PATIENCE_SECONDS, Place, moment
from crawlfleet.core.account import Account
from crawlfleet.core.sql import json_rows
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.appsflyer.invented_data import apps_of
from tests.nodes import CLOCK_LIBRARY, ROOT, NodeProcess

NODES, ACCOUNTS, APPS = 3, 2, 10
CALLS = 5  # of each app: the first at once, each of the others in a window of its own
FIRST_DAY = date(2026, 4, 1)


def quota(place: Place, window_seconds: int) -> dict[str, float]:
    """Whether three nodes use what a vendor allows, and not a call more, while there is always work.

    Size: seconds of the vendor's window, in which each of 20 apps may be asked once. Five calls for each app, counted
    by a simulated vendor in a process of its own. The share is of the rate that is allowed, from an app's first call to
    its last, and the mean of all apps. Then the same again with one node killed in the middle: a call that it may have
    sent counts from the end of its lease, which here ends after half a window (after 3 s at least). On the database
    servers the clocks of two nodes go an hour fast and an hour slow, where libfaketime is installed.
    """
    with serve_vendor(window_seconds) as address:
        config = place.folder / "quota.toml"
        offline_timeout = max(3.0, window_seconds / 2)
        config.write_text(
            f"heartbeat_interval = {offline_timeout / 6}\noffline_timeout = {offline_timeout}\n"
            f'[sources.appsflyer]\nbase_url = "{address}"\n'
            f"[sources.appsflyer.limits]\naggregate_short_range = {{calls = 1, seconds = {window_seconds}}}\n",
            encoding="utf-8",
        )
        undisturbed = used_share(place, str(config), window_seconds, "calm")
        too_many = refused(address)
        disturbed = used_share(place, str(config), window_seconds, "hit", kill=True)
        return {
            "calls over quota": float(too_many),
            "used of what is allowed, %": undisturbed * 100,
            "calls over quota, a node killed": float(refused(address) - too_many),
            "used, a node killed, %": disturbed * 100,
        }


def used_share(place: Place, config: str, window_seconds: int, name: str, kill: bool = False) -> float:
    """Let the nodes fetch all days of all apps of new accounts; the share of the allowed rate at which they did."""
    environ = {}
    for number in range(ACCOUNTS):
        username = f"{name}{number}"
        environ[f"TOKEN_{username}"] = f"sandbox-{username}"
        place.fleet.accounts.add(Account("appsflyer", username, "agency", token_env=f"TOKEN_{username}"))
    ids = place.fleet.add_tasks(
        TaskSpec("app_data", username=f"{name}{number}", app_id=app.app_id, start_date=day, end_date=day)
        for number in range(ACCOUNTS)
        for app in apps_of(f"{name}{number}", APPS)
        for day in (FIRST_DAY + timedelta(n) for n in range(CALLS))
    )
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                place.node(
                    "--config", config, "--until-idle", device_id=f"{name}-{n}", environ=environ | clock(place, n)
                )
            )
            for n in range(NODES)
        ]
        if kill:
            place.watch(nodes[0], lambda: ended(place, ids) >= len(ids) // 2)
            nodes.pop(0).kill()
        for node in nodes:
            finish(node)
    if not place.completed(ids):
        raise RuntimeError("the nodes ended before their tasks")
    return mean(window_seconds * (CALLS - 1) / seconds for seconds in fetch_seconds(place, ids))


def clock(place: Place, number: int) -> dict[str, str]:
    """The environment of a node whose clock is wrong; on SQLite the node's clock is the database's own."""
    if place.url.startswith("sqlite") or number == 0 or not CLOCK_LIBRARY.exists():
        return {}
    shift = {1: "+1h", 2: "-1h"}[number]
    return {"LD_PRELOAD": str(CLOCK_LIBRARY), "DONT_FAKE_MONOTONIC": "1", "FAKETIME": shift}


def finish(node: NodeProcess) -> None:
    """Wait until the node has nothing left to do."""
    if node.wait(PATIENCE_SECONDS) != 0:
        raise RuntimeError(f"the node did not do its work:\n{node.log[-3000:]}")


def ended(place: Place, ids: list[int]) -> int:
    """How many of these tasks have completed."""
    return list(place.fleet.tasks.states(ids).values()).count("completed")


def fetch_seconds(place: Place, ids: list[int]) -> list[float]:
    """For each app, from the end of its first fetch to the end of its last, by the database's clock."""
    query = sa.text(
        "SELECT MIN(a.completed_at), MAX(a.completed_at) FROM"
        f" {place.fleet.db.dialect.rows(id='int')} JOIN cl_task_assignment a ON a.task_id = v.id"
        " JOIN cl_crawl_task t ON t.id = a.task_id WHERE a.status = 'completed' GROUP BY t.username, t.app_id"
    )
    with place.fleet.db.read() as connection:
        found = connection.execute(query, {"rows": json_rows([each] for each in ids)}).all()
    return [(moment(last) - moment(first)).total_seconds() for first, last in found]


@contextmanager
def serve_vendor(window_seconds: int, apps: int = APPS) -> Iterator[str]:
    """The address of a simulated vendor in a process of its own."""
    options = ["--port", "0", "--minute-seconds", str(window_seconds), "--apps", str(apps)]
    command = [sys.executable, str(ROOT / "main.py"), "sandbox", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            if found is None:
                raise RuntimeError("the simulated vendor told no address")
            yield found[0]
        finally:
            process.terminate()


def refused(address: str) -> int:
    """How many calls the vendor has refused."""
    with urlopen(f"{address}/__stats__") as answer:
        return int(json.load(answer)["refused"])
