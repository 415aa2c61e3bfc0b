"""`make test-ha`: the primary is killed under load, a standby takes over, and nothing that was acknowledged is lost.

Starts three etcd, three Patroni and three PostgreSQL of its own on free loopback ports, and ends them.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services.fleet import connect
from deploy.ha.cluster import Cluster, ClusterError
from tests import debian_packages
from tests.nodes import NodeProcess
from tests.waiting import wait_until

PACKAGES = ("patroni", "python3-etcd", "etcd-server", "postgresql")
NODES = 2
FAILOVER_SECONDS = 120  # the longest we wait; how long it took is printed


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="crawlfleet-ha-", dir="/tmp"))
    cluster = Cluster(directory)
    try:
        try:
            cluster.start()
        except ClusterError as missing:
            if cluster.state:
                raise
            if not debian_packages.may_install():
                pytest.skip(str(missing))
            debian_packages.install(PACKAGES)
            cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory)


class Producer(threading.Thread):
    """Adds a little more than the nodes can do, until it is told to stop; `ids` are those that were acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.ids: list[int] = []
        self.refused = 0
        self._fleet = connect(url)
        self._stop_asked = threading.Event()
        self._number = 0

    def run(self) -> None:
        while not self._stop_asked.wait(0.1):
            specs = []
            for _ in range(8):
                self._number += 1
                specs.append(TaskSpec("paced", task_data={"n": self._number}))
            try:
                self.ids += self._fleet.add_tasks(specs)
            except DatabaseUnreachable:
                self.refused += 1

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(60)
        assert not self.is_alive()
        self._fleet.close()


def completed(nodes: list[NodeProcess]) -> set[int]:
    """The tasks that a node said to be completed, which it does once the COMMIT was acknowledged."""
    found = (re.findall(r"Task (\d+) completed successfully", node.log) for node in nodes)
    return {int(number) for numbers in found for number in numbers}


def first_completion(node: NodeProcess, after_task: int) -> datetime | None:
    """When a node completed its first task younger than this one, by its log."""
    for line in node.log.splitlines():
        found = re.search(r"^(\S+ \S+) .* Task (\d+) completed successfully", line)
        if found and int(found[2]) > after_task:
            return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f")  # noqa: DTZ007  (as local as the log)
    return None


def test_nothing_acknowledged_is_lost_when_the_primary_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    options = ("--executors", "tests.faults.bodies", "--concurrent-tasks", "4", "--config", str(tmp_path / "c.toml"))
    (tmp_path / "c.toml").write_text("heartbeat_interval = 2\noffline_timeout = 60\n")
    producer = Producer(cluster.url)
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(NodeProcess(tmp_path, cluster.url, *options, device_id=f"node-{number}"))
            for number in range(NODES)
        ]
        for node in nodes:
            node.wait_started()
        producer.start()
        for number in (1, 2):
            before = len(completed(nodes))
            wait_until(lambda before=before: len(completed(nodes)) >= before + 100, 60, "100 tasks under load")
            killed_at = datetime.now()  # noqa: DTZ005  (as local as the log)
            killed = cluster.kill()
            acknowledged, done = len(producer.ids), len(completed(nodes))
            assert cluster.wait_for_primary() != killed
            youngest = max(producer.ids)  # what is added from now on, the new primary has acknowledged
            wait_until(
                lambda youngest=youngest: all(first_completion(node, youngest) for node in nodes),
                FAILOVER_SECONDS,
                "each node to complete a task again",
            )
            moments = [found for node in nodes if (found := first_completion(node, youngest))]
            seconds = [(moment - killed_at).total_seconds() for moment in moments]
            print(
                f"\nfailover {number}: primary {killed} killed with {acknowledged} tasks acknowledged and {done} "
                f"completed; first task completed after {min(seconds):.1f} s, by every node after {max(seconds):.1f} s"
            )
            cluster.revive()
        producer.stop()
        assert producer.refused, "the producer did not notice the outages: nothing was tried"
        db = connect(cluster.url)
        wait_until(lambda: db.tasks.stats()["completed"] == db.tasks.stats()["total"], 120, "all tasks to be completed")
        for node in nodes:
            assert node.process.poll() is None, node.log[-4000:]
            assert "Traceback" not in node.log
        said = completed(nodes)
        with db.db.read() as connection:
            rows = connection.execute(sa.text("SELECT task_id FROM cl_task_assignment WHERE status = 'completed'"))
            runs = Counter(rows.scalars())
            figures = connection.execute(sa.text("SELECT COUNT(*) FROM cl_app_data")).scalar_one()
        db.close()
    assert set(producer.ids) <= set(runs), "tasks that add_tasks acknowledged are gone"
    assert said <= set(runs), "runs that were acknowledged as completed are gone"
    assert set(runs.values()) == {1}, "a task was completed twice"
    assert figures == len(runs), "each task's row is there, once"
    print(f"{len(producer.ids)} tasks acknowledged, {len(runs)} completed, each once")
