"""How fast the HTTP API answers in front of a large fleet."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

import httpx2
import sqlalchemy as sa

from benchmarks.api_fleet import DEVICES, fill
from benchmarks.place import Place

PREFIX = "/api/distribution"
REQUESTS = 40  # of each kind
KEPT = ("system/overview", "tasks/stats", "tasks/forecast", "accounts")
FEWEST = 2  # with few tasks: only whether it works
STALL_SECONDS = 60
Ask = Callable[[httpx2.Client, int], httpx2.Response]


def api(place: Place, tasks: int) -> dict[str, float]:
    """How long each endpoint takes to answer one client over a connection that is kept, with a node behind it.

    Size: tasks, 5 % of them failed and 30 % open; ten times as many rows of figures; heartbeats of 20 devices over
    seven days (for a million tasks). The first answer of each kind is not counted: it may have to read from the disk.
    What counts a table whole is kept in memory by the node, for twenty times as long as it took, at most a minute; how
    long its first answer took is told beside it.
    """
    fill(place, tasks)
    requests = REQUESTS if tasks >= 10_000 else FEWEST
    figures: dict[str, float] = {}
    with serving(place) as client:
        for name, ask in endpoints(place):
            first, *took = [seconds(client, ask, number) for number in range(requests + 1)]
            if name in KEPT:
                figures[f"{name}, first, ms"] = first * 1000
            places = quantiles(took, n=20)
            figures[f"{name}, half within, ms"] = places[9] * 1000
            figures[f"{name}, 95 % within, ms"] = places[18] * 1000
    return figures


@contextmanager
def serving(place: Place) -> Iterator[httpx2.Client]:
    """A node, and a client of its API."""
    with place.node(api=True) as node:
        node.wait_started()
        match = re.search(r"HTTP API available at (\S+)", node.log)
        assert match is not None
        with httpx2.Client(base_url=match[1] + PREFIX, timeout=STALL_SECONDS, trust_env=False) as client:
            yield client


def seconds(client: httpx2.Client, ask: Ask, number: int) -> float:
    """How long the answer took; RuntimeError when it is none."""
    began = time.perf_counter()
    answer = ask(client, number)
    took = time.perf_counter() - began
    if answer.status_code >= 300:
        raise RuntimeError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:300]}")
    return took


def endpoints(place: Place) -> Iterator[tuple[str, Ask]]:
    """Every endpoint with what it is asked, each time something else where there is something to choose."""
    dice = random.Random(7)
    ids = {state: _ids(place, state) for state in ("pending", "failed", "completed", "cancelled")}
    usernames = sorted({row["username"] for row in place.fleet.accounts.find()})
    with place.fleet.db.read() as connection:
        runs = list(connection.execute(sa.text("SELECT id FROM cl_task_assignment ORDER BY id LIMIT 1000")).scalars())

    def get(path: str, **choices: Any) -> Ask:
        """A GET whose path and parameters take one of the given choices each time."""

        def ask(client: httpx2.Client, _number: int) -> httpx2.Response:
            chosen = {name: dice.choice(of) if isinstance(of, list) else of for name, of in choices.items()}
            inside = {name: chosen.pop(name) for name in list(chosen) if f"{{{name}}}" in path}
            return client.get(path.format(**inside), params=chosen)

        return ask

    def post(path: str, task_ids: list[int] | None = None, body: Any = None) -> Ask:
        return lambda client, number: client.post(
            path if task_ids is None else path.format(task_id=task_ids[number]), json=body
        )

    device_ids = [f"device-{n}" for n in range(DEVICES)]
    newest = max(ids["pending"])
    yield "system/overview", get("/system/overview")
    yield "tasks/stats", get("/tasks/stats")
    yield "tasks/forecast", get("/tasks/forecast")
    yield "tasks/forecast of an account", get("/tasks/forecast", username=usernames)
    yield "tasks", get("/tasks", before=[newest // n for n in range(1, 20)])
    yield "tasks by state", get("/tasks", status=[*ids])
    yield "tasks of an account", get("/tasks", username=usernames)
    yield "tasks of an account by state", get("/tasks", username=usernames, status=[*ids])
    yield "tasks of an app", get("/tasks", app_id=[f"com.example.app{n}" for n in range(20)])
    yield "tasks of an app that failed", get("/tasks", app_id="com.example.app7", status="failed")
    yield "tasks of no such type", get("/tasks", task_type="nothing")
    yield "tasks, a page of 1,000", get("/tasks", limit=1000)
    yield "tasks/ID", get("/tasks/{task_id}", task_id=ids["completed"])
    yield "tasks/ID/explain, pending", get("/tasks/{task_id}/explain", task_id=ids["pending"])
    yield "tasks/ID/explain, failed", get("/tasks/{task_id}/explain", task_id=ids["failed"])
    yield "tasks/ID/events", get("/tasks/{task_id}/events", task_id=ids["cancelled"])
    yield "tasks/ID/logs", get("/tasks/{task_id}/logs", task_id=ids["completed"])
    yield "tasks/logs, a word", get("/tasks/logs", text="such", level="error")
    yield "tasks/logs, a word that is nowhere", get("/tasks/logs", text="nowhere")
    yield "assignments", get("/assignments")
    yield "assignments of a device", get("/assignments", device_id=device_ids)
    yield "assignments of a device that failed", get("/assignments", device_id=device_ids, status="failed")
    yield "assignments of a task", get("/assignments", task_id=ids["completed"])
    yield "assignments/ID", get("/assignments/{run}", run=runs)
    yield "devices", get("/devices")
    yield "devices/ID", get("/devices/{device}", device=device_ids)
    yield "devices/ID/stats", get("/devices/{device}/stats", device=device_ids)
    yield "stats/performance, 24 hours", get("/stats/performance/{device}", device=device_ids)
    yield "stats/performance, a week", get("/stats/performance/{device}", device=device_ids, hours=168)
    yield "management/scheduler/status", get("/management/scheduler/status")
    yield "accounts", get("/accounts")
    yield "accounts/SOURCE/NAME", get("/accounts/appsflyer/{name}", name=usernames)
    yield "apps", get("/apps")
    yield "budgets", get("/budgets")
    yield "budgets of an account", get("/budgets", username=usernames)
    yield "budgets that are blocked", get("/budgets", blocked="true")
    yield "data/rows", get("/data/rows")
    yield "data/rows of an account", get("/data/rows", username=usernames)
    yield "data/rows, a page of 1,000", get("/data/rows", limit=1000, username=usernames)
    yield "data/coverage", get("/data/coverage")
    yield "data/coverage of an account", get("/data/coverage", username=usernames)
    yield "data/gaps", get("/data/gaps")
    yield "audit", get("/audit")
    yield "add a task", post("/tasks", body={"task_type": "noop"})
    yield "add 100 tasks", post("/tasks", body=[{"task_type": "noop"}] * 100)
    yield "retry a task", post("/tasks/{task_id}/retry", ids["failed"])
    yield "cancel a task", post("/tasks/{task_id}/cancel", ids["pending"])
    yield "pause", post("/management/pause", body={"reason": "benchmark"})


def _ids(place: Place, state: str) -> list[int]:
    """The ids of 1,000 tasks in this state."""
    query = sa.text("SELECT id FROM cl_crawl_task WHERE status = :state ORDER BY id LIMIT 1000")
    with place.fleet.db.read() as connection:
        return list(connection.execute(query, {"state": state}).scalars())
