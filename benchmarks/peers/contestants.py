"""Crawlfleet and its peers, seen alike: something that queues tasks, and a worker that runs them."""

from __future__ import annotations

import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.peers.enqueue import apart, calls
from benchmarks.peers.stamps import STAMPS_VARIABLE, count_stamps, read_stamps
from benchmarks.peers.table import STORE_VARIABLE, Peer
from benchmarks.place import MB, Place
from crawlfleet.model.task_spec import TaskSpec
from tests.nodes import ROOT
from tests.reaper import reaper
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

PATIENCE_SECONDS = 600
POLL_SECONDS = 0.005
SETTLE_SECONDS = 0.5  # what a worker has to write after its last body


@dataclass(frozen=True)
class Worker:
    """A worker's process, and how to read its log."""

    process: subprocess.Popen[bytes]
    log: Callable[[], str]

    def family(self) -> Sequence[psutil.Process]:
        """The process and all that came from it."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU time that they have used so far, user and system."""
        return sum(used.user + used.system for used in (each.cpu_times() for each in self.family()))

    def watch(self, stamps: Path, expected: int, window_seconds: float | None = None) -> float:
        """Seconds of CPU from the first body until there are so many stamps, or until the window has passed.

        What the worker writes just after its last body is included. Raises RuntimeError with the end of its log when it
        ends, does not begin, or takes forever where there is no window.
        """
        begun = self.stays_until(lambda: count_stamps(stamps) > 0, PATIENCE_SECONDS)
        before = self.cpu_seconds()
        patience = PATIENCE_SECONDS if window_seconds is None else window_seconds
        done = begun and self.stays_until(lambda: count_stamps(stamps) >= expected, patience)
        if not done and (window_seconds is None or not begun):
            raise RuntimeError(f"the worker left {count_stamps(stamps)} of {expected} stamps:\n{self.log()[-3000:]}")
        time.sleep(SETTLE_SECONDS)
        return self.cpu_seconds() - before

    def stays_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """False when the condition does not come true in time; RuntimeError when the worker ends meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            if self.process.poll() is not None:
                raise RuntimeError(f"the worker ended:\n{self.log()[-3000:]}")
            time.sleep(POLL_SECONDS)
        return True

    def memory_mb(self) -> float:
        """Resident memory of all together; what they share is counted once for each."""
        return sum(each.memory_info().rss for each in self.family()) / MB

    def kill(self) -> None:
        """kill -9 it and its children, which may have sessions of their own; the parent first, or it replaces them."""
        if self.process.poll() is None:
            for each in self.family():
                try:
                    each.kill()
                except psutil.NoSuchProcess:  # it went with its parent
                    pass
        self.process.wait()


@dataclass
class Contestant(ABC):
    """One queue on one fresh store, with an empty folder of its own."""

    folder: Path

    @property
    def stamps(self) -> Path:
        """Where its tasks note that they ran."""
        return self.folder / "stamps"

    @abstractmethod
    def enqueue(self, tasks: int, seconds: float | None = None) -> float:
        """How long it takes to queue so many tasks that wait so many seconds, with None tasks that do nothing."""

    @abstractmethod
    def enqueue_apart(self, tasks: int) -> list[float]:
        """Queue tasks one at a time with uneven pauses; the moment at which each call began."""

    @abstractmethod
    def worker(self, concurrency: int, round_trip_seconds: float = 0) -> AbstractContextManager[Worker]:
        """A worker that starts now, so far from its store; killed with its `with` block."""

    @abstractmethod
    def drain_seconds(self) -> float:
        """How long it took to work off all tasks, which do nothing and have run."""


@dataclass
class Ours(Contestant):
    """Crawlfleet."""

    place: Place
    ids: Sequence[int] = ()

    def enqueue(self, tasks: int, seconds: float | None = None) -> float:
        """In one call."""
        task_type = "stamp" if seconds is None else "wait_stamped"
        began = time.perf_counter()
        self.ids = self.place.fleet.add_tasks(TaskSpec(task_type, task_data=call) for call in calls(tasks, seconds))
        return time.perf_counter() - began

    def enqueue_apart(self, tasks: int) -> list[float]:
        return apart(lambda call: self.place.fleet.add_task("wait_stamped", task_data=call), tasks)

    @contextmanager
    def worker(self, concurrency: int, round_trip_seconds: float = 0) -> Iterator[Worker]:
        """A node without its API, always the same device."""
        environ = {STAMPS_VARIABLE: str(self.stamps)}
        with distant(self.place.url, round_trip_seconds) as url:
            place = replace(self.place, url=url)
            with place.node("--concurrent-tasks", str(concurrency), environ=environ) as node:
                yield Worker(node.process, lambda: node.log)

    def drain_seconds(self) -> float:
        """From the first claim to the end of the last run, as they are stored."""
        wait_until(lambda: self.place.completed(self.ids), PATIENCE_SECONDS, "the end of the last run")
        return self.place.drain_seconds(len(self.ids))


@dataclass
class Theirs(Contestant):
    """A peer at `url`, set up for one scenario; `binaries` are those of the peers' environment."""

    peer: Peer
    scenario: str
    url: str
    binaries: Path

    def enqueue(self, tasks: int, seconds: float | None = None) -> float:
        """As many at once as it has a call for; RuntimeError when it cannot."""
        [seconds_taken] = self._enqueue(tasks, *([] if seconds is None else [str(seconds)]))
        return seconds_taken

    def enqueue_apart(self, tasks: int) -> list[float]:
        return self._enqueue(tasks, "apart")

    def _enqueue(self, tasks: int, *how: str) -> list[float]:
        words = [self.peer.module, str(tasks), *how]
        command = [str(self.binaries / "python"), "-m", "benchmarks.peers.enqueue", *words]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self._environ(self.url),
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as slow:
            raise RuntimeError(f"{self.peer.name} queued {tasks} tasks in no {PATIENCE_SECONDS} s") from slow
        if done.returncode != 0:
            raise RuntimeError(f"{self.peer.name} queued no tasks:\n{done.stderr[-3000:]}")
        return [float(word) for word in done.stdout.splitlines()[-1].split()]

    @contextmanager
    def worker(self, concurrency: int, round_trip_seconds: float = 0) -> Iterator[Worker]:
        """As its documentation starts one."""
        log_path = self.folder / "worker.log"
        words = [*self.peer.worker, *self.peer.besides.get(self.scenario, ())]
        program, *arguments = [word.format(concurrency=concurrency) for word in words]
        with distant(self.url, round_trip_seconds) as url, log_path.open("ab") as log:
            process = subprocess.Popen(
                [str(self.binaries / program), *arguments],
                cwd=self.folder,
                env=self._environ(url),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            worker = Worker(process, lambda: log_path.read_text(errors="replace"))
            reaper.watch(process.pid)
            try:
                yield worker
            finally:
                worker.kill()
                reaper.forget(process.pid)

    def drain_seconds(self) -> float:
        """From the beginning of the first body to that of the last, which favours the peer."""
        moments = [each.moment for each in read_stamps(self.stamps)]
        return max(moments) - min(moments)

    def _environ(self, url: str) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            STORE_VARIABLE: url,
            STAMPS_VARIABLE: str(self.stamps),
        }


@contextmanager
def distant(url: str, round_trip_seconds: float) -> Iterator[str]:
    """The URL of the same store at such a distance; with 0 its own."""
    if not round_trip_seconds:
        yield url
        return
    parts = urlsplit(url)
    assert parts.port is not None
    with TcpProxy("127.0.0.1", parts.port, round_trip_seconds / 2) as proxy:
        yield parts._replace(netloc=parts.netloc.removesuffix(str(parts.port)) + str(proxy.port)).geturl()
