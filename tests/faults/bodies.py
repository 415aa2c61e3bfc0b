"""Executors for the fault tests. `gate` is a file: bodies wait while it exists."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import crawlfleet


@crawlfleet.task_executor("quick")
def quick(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> dict[str, Any]:
    return {"n": task.task_data["n"]}


@crawlfleet.task_executor("gated")
def gated(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> crawlfleet.TaskResult:
    """Waits for its gate to go, then stores one row and queues one follow-up; looks at no cancel, as many bodies do."""
    while os.path.exists(task.task_data["gate"]):
        time.sleep(0.02)
    n = task.task_data["n"]
    day = date(2026, 1, 1)
    return crawlfleet.TaskResult(
        rows=[crawlfleet.Figures(day, media_source=f"m{n}", installs=n)],
        replaces=crawlfleet.ReportRange("test", "u", f"app{n}", "r", day, day),
        follow_ups=[crawlfleet.TaskSpec("quick", task_data={"n": n})] if task.task_data.get("follow") else (),
        summary={"n": n},
    )


@crawlfleet.task_executor("paced")
def paced(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> crawlfleet.TaskResult:
    """Takes a tenth of a second, then stores one row."""
    context.sleep(0.1)
    n, day = task.task_data["n"], date(2026, 1, 1)
    return crawlfleet.TaskResult(
        rows=[crawlfleet.Figures(day, installs=n)],
        replaces=crawlfleet.ReportRange("test", "u", f"app{n}", "r", day, day),
    )


@crawlfleet.task_executor("stormy")
def stormy(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> crawlfleet.TaskResult:
    """Takes a moment, stores `rows` rows and queues one follow-up."""
    context.sleep(random.uniform(0.0, 0.2))
    n, day = task.task_data["n"], date(2026, 1, 1)
    return crawlfleet.TaskResult(
        rows=[crawlfleet.Figures(day, media_source=f"m{row}", installs=n) for row in range(task.task_data["rows"])],
        replaces=crawlfleet.ReportRange("test", "u", f"app{n}", "r", day, day),
        follow_ups=[crawlfleet.TaskSpec("quick", task_data={"n": n})],
    )


@crawlfleet.task_executor("gated_plain")
def gated_plain(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> dict[str, Any]:
    """The same without rows, between which its engine would look at a cancel: this result always comes in."""
    while os.path.exists(task.task_data["gate"]):
        time.sleep(0.02)
    return {"n": task.task_data["n"]}


@crawlfleet.task_executor("short")
def short(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> dict[str, Any]:
    time.sleep(0.05)
    return {"n": task.task_data["n"]}


@crawlfleet.task_executor("endless")
def endless(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> None:
    while True:
        time.sleep(0.05)


@crawlfleet.task_executor("leaving")
def leaving(task: crawlfleet.Task, context: crawlfleet.TaskContext) -> None:
    """Returns while a thread and a process of its own go on, for which Python waits at its end."""
    ThreadPoolExecutor(1, "of-the-body").submit(time.sleep, 600)
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(10,), name="left").start()
