"""A Dask cluster of real processes on loopback: a scheduler, and workers that can be killed one by one."""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.ports import free_port
from tests.reaper import reaper
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
START_SECONDS = 60


class DaskProcess:
    """`python -m dask ...` in a process of its own."""

    def __init__(self, *arguments: str, environ: dict[str, str] | None = None) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            env={**os.environ, "PYTHONPATH": path, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        reaper.watch(self.process.pid)

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9; what it started itself notices or does not."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        reaper.forget(self.process.pid)


class DaskCluster:
    """A scheduler on a free port and so many workers of `threads` threads each, without nannies that would replace
    a killed one."""

    def __init__(self, workers: int = 2, threads: int = 2, environ: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._threads = threads
        self._environ = environ
        self.scheduler: DaskProcess
        self.workers: list[DaskProcess] = []
        self.start_scheduler()
        for _ in range(workers):
            self.add_worker()
        self.wait_for_workers(workers)

    def start_scheduler(self) -> None:
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        self.scheduler = DaskProcess("scheduler", *options)

    def add_worker(self) -> DaskProcess:
        options = ("--host", "127.0.0.1", "--no-nanny", "--no-dashboard", "--nthreads", str(self._threads))
        worker = DaskProcess("worker", self.address, *options, environ=self._environ)
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, count: int) -> None:
        from distributed import Client

        with Client(self.address, timeout=START_SECONDS, set_as_default=False) as client:
            wait_until(lambda: len(client.nthreads()) >= count, START_SECONDS, f"{count} Dask workers")

    def worker_of(self, pid: int) -> DaskProcess:
        """The worker that this process is a child of."""
        parents: Sequence[int] = [each.pid for each in psutil.Process(pid).parents()]
        return next(worker for worker in self.workers if worker.pid in parents)

    def stop(self) -> None:
        for each in (*self.workers, self.scheduler):
            each.kill()


@functools.cache
def shared_dask() -> DaskCluster:
    """A cluster for tests that break nothing; ends with the test process."""
    cluster = DaskCluster(workers=2, threads=4)
    atexit.register(cluster.stop)
    return cluster
