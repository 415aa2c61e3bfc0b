"""One measurement: queue tasks that do nothing, then start a worker and watch it work them off."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.peers.stamps import STAMPS_VARIABLE, count_stamps, seconds_between
from benchmarks.peers.table import CONCURRENCY, STORE_VARIABLE, Peer
from benchmarks.place import Place
from crawlfleet.model.task_spec import TaskSpec
from tests.nodes import ROOT
from tests.reaper import reaper

ENQUEUE, DRAIN, CPU = "enqueue, tasks/s", "drain, tasks/s", "CPU of the worker, s/1,000 tasks"
PATIENCE_SECONDS = 600
POLL_SECONDS = 0.005
SETTLE_SECONDS = 0.5  # what a worker has to write after its last body


def crawlfleet(place: Place, tasks: int) -> dict[str, float]:
    """The rate is from the first claim until the end of the last run is stored."""
    stamps = place.folder / "stamps"
    began = time.perf_counter()
    ids = place.fleet.add_tasks(TaskSpec("stamp") for _ in range(tasks))
    enqueued = time.perf_counter() - began
    with place.node("--concurrent-tasks", str(CONCURRENCY), environ={STAMPS_VARIABLE: str(stamps)}) as node:
        cpu = watch(node.process, stamps, tasks, lambda: node.log)
        place.watch(node, lambda: place.completed(ids))
    return {ENQUEUE: tasks / enqueued, DRAIN: tasks / place.drain_seconds(tasks), CPU: cpu / tasks * 1000}


def peer(one: Peer, binaries: Path, url: str, folder: Path, tasks: int) -> dict[str, float]:
    """The rate is from the beginning of the first body to that of the last, which favours the peer."""
    stamps, log_path = folder / "stamps", folder / "worker.log"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), STORE_VARIABLE: url, STAMPS_VARIABLE: str(stamps)}
    enqueued = enqueue_seconds(one, binaries, folder, environ, tasks)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(binaries / one.worker[0]), *one.worker[1:]],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    reaper.watch(process.pid)
    try:
        cpu = watch(process, stamps, tasks, lambda: log_path.read_text(errors="replace"))
    finally:
        end(process)
        reaper.forget(process.pid)
    return {ENQUEUE: tasks / enqueued, DRAIN: tasks / seconds_between(stamps), CPU: cpu / tasks * 1000}


def enqueue_seconds(one: Peer, binaries: Path, folder: Path, environ: dict[str, str], tasks: int) -> float:
    """How long the peer takes to queue so many tasks; RuntimeError when it cannot."""
    command = [str(binaries / "python"), "-m", "benchmarks.peers.enqueue", one.module, str(tasks)]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as slow:
        raise RuntimeError(f"{one.name} queued {tasks} tasks in no {PATIENCE_SECONDS} s") from slow
    if done.returncode != 0:
        raise RuntimeError(f"{one.name} queued no tasks:\n{done.stderr[-3000:]}")
    return float(done.stdout.split()[-1])


def watch(process: subprocess.Popen[bytes], stamps: Path, tasks: int, log: Callable[[], str]) -> float:
    """Seconds of CPU of the worker and its children, from the first body until all have run and are recorded.

    Raises RuntimeError with the end of its log when the worker ends or takes forever.
    """
    before = None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (ran := count_stamps(stamps)) < tasks:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the worker ran {ran} of {tasks} tasks:\n{log()[-3000:]}")
        if ran and before is None:
            before = cpu_of_family(process.pid)
        time.sleep(POLL_SECONDS)
    if before is None:
        before = cpu_of_family(process.pid)  # so few tasks that all ran between two looks
    time.sleep(SETTLE_SECONDS)
    return cpu_of_family(process.pid) - before


def family(pid: int) -> Sequence[psutil.Process]:
    """The process and all that came from it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_of_family(pid: int) -> float:
    """CPU time that they have used so far, user and system."""
    return sum(used.user + used.system for used in (each.cpu_times() for each in family(pid)))


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the worker and its children; some make sessions of their own."""
    if process.poll() is None:
        for each in reversed(family(process.pid)):
            each.kill()
    process.wait()
