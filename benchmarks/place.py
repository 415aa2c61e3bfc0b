"""Where one repetition happens: an empty database, a folder, and nodes at work on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import sqlalchemy as sa

from crawlfleet.core.sql import utc
from crawlfleet.services.fleet import Fleet, connect
from tests.nodes import NodeProcess
from tests.servers import SharedServer

SAMPLE_SECONDS = 0.1  # asking more often would itself take a share of the machine
PATIENCE_SECONDS = 1800  # a benchmark that takes longer has failed
LAST_TASKS = 2000  # a node holds at most so many beyond its slots: when these have ended, all have
MB = 1_000_000


@dataclass(frozen=True)
class Place:
    """A fresh database with tables, seen through `fleet`, and an empty folder."""

    fleet: Fleet
    url: str
    folder: Path

    def node(
        self,
        *options: str,
        api: bool = False,
        device_id: str = "node-1",
        environ: Mapping[str, str] | None = None,
    ) -> NodeProcess:
        """A node that starts now, with the bodies of the benchmarks; killed with its `with` block."""
        options = ("--executors", "benchmarks.bodies", *options)
        environ = {"PYTHONDONTWRITEBYTECODE": "", **(environ or {})}  # only the first start ever compiles
        return NodeProcess(self.folder, self.url, *options, device_id=device_id, api=api, **environ)

    def watch(self, node: NodeProcess, done: Callable[[], bool]) -> list[float]:
        """The node's resident memory in MB, every 0.1 s until `done`.

        Raises RuntimeError with the end of its log when the node ends or takes forever.
        """
        process, samples = psutil.Process(node.process.pid), []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            if node.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node did not do its work:\n{node.log[-3000:]}")
            samples.append(process.memory_info().rss / MB)
            time.sleep(SAMPLE_SECONDS)
        return [*samples, process.memory_info().rss / MB]

    def completed(self, task_ids: Sequence[int], nodes: int = 1) -> bool:
        """True when the last of these tasks have completed; RuntimeError when one of those has failed.

        As long as the very last one has not ended, only that one is looked at: asking for thousands ten times a second
        took a server as much time as working them off.
        """
        if set(self.fleet.tasks.states(task_ids[-1:]).values()) - {"completed", "failed"}:
            return False
        states = set(self.fleet.tasks.states(task_ids[-LAST_TASKS * nodes :]).values())
        if "failed" in states:
            raise RuntimeError("a task of the benchmark failed")
        return states == {"completed"}

    def drain_seconds(self, tasks: int, first_task: int = 0) -> float:
        """From the first claim to the turn that recorded the last end, by the database's clock; all completed once.

        Tasks with ids below `first_task` are left out.
        """
        query = (
            "SELECT MIN(assigned_at), MAX(updated_at), COUNT(*), COUNT(DISTINCT task_id) FROM cl_task_assignment"
            f" WHERE status = 'completed' AND task_id >= {first_task}"
        )
        with self.fleet.db.read() as connection:
            first, last, runs, done = connection.execute(sa.text(query)).one()
        if not runs == done == tasks:
            raise RuntimeError(f"{tasks} tasks should have completed once each: {done} did, in {runs} runs")
        return (moment(last) - moment(first)).total_seconds()

    def newest_epoch(self) -> int:
        """The registration of the node that claimed last."""
        with self.fleet.db.read() as connection:
            return int(connection.execute(sa.text("SELECT MAX(device_epoch) FROM cl_task_assignment")).scalar_one())

    def first_claim(self, epoch: int) -> datetime:
        """When the node of this registration claimed for the first time, by the database's clock."""
        query = sa.text("SELECT MIN(assigned_at) FROM cl_task_assignment WHERE device_epoch = :epoch")
        with self.fleet.db.read() as connection:
            return moment(connection.execute(query, {"epoch": epoch}).scalar_one())

    def runs(self) -> int:
        """How many runs there were, of any outcome."""
        with self.fleet.db.read() as connection:
            return int(connection.execute(sa.text("SELECT COUNT(*) FROM cl_task_assignment")).scalar_one())


def moment(value: object) -> datetime:
    """A moment as the database gave it, which must be one."""
    found = utc(value)
    assert found is not None, "the database holds no such moment"
    return found


@contextmanager
def fresh_place(folder: Path, server: SharedServer | None) -> Iterator[Place]:
    """A place on this server, or on a SQLite file below `folder`; both are thrown away with the `with` block."""
    with fresh_database(folder, server) as (url, work):
        fleet = connect(url)
        try:
            yield Place(fleet, url, work)
        finally:
            fleet.close()


@contextmanager
def fresh_database(folder: Path, server: SharedServer | None) -> Iterator[tuple[str, Path]]:
    """The URL of a database without tables, and an empty folder; both are thrown away with the `with` block."""
    with TemporaryDirectory(prefix="work-", dir=folder) as work:
        if server is None:
            yield f"sqlite:///{work}/crawlfleet.db", Path(work)
            return
        name = server.create_database(Path(work).name.replace("-", "_").lower())
        try:
            yield server.url(name), Path(work)
        finally:
            server.drop_database(name)
