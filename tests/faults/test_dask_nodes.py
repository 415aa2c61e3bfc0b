"""Real nodes whose bodies run on a real Dask cluster, of which parts are killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.insights import devices, stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.appsflyer.invented_data import expected_rows
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from tests.conftest import Backend
from tests.dask_cluster import DaskCluster
from tests.nodes import NodeProcess
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
FIRST = date(2026, 4, 1)
BODIES = ("--executors", "tests.engines.bodies")


@pytest.fixture
def cluster() -> Iterator[DaskCluster]:
    cluster = DaskCluster(workers=2, threads=2)
    yield cluster
    cluster.stop()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = connect(f"sqlite:///{tmp_path}/c.db")
    yield fleet
    fleet.close()


def on(cluster: DaskCluster, *more: str) -> tuple[str, ...]:
    return ("--engine", "dask", "--dask-scheduler", cluster.address, *BODIES, *more)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_worker_killed_in_the_middle_loses_no_task_and_completes_none_twice(
    backend: Backend, cluster: DaskCluster, tmp_path: Path
) -> None:
    fleet = connect(backend.url)
    gate = tmp_path / "gate"
    total = 120
    ids = fleet.add_tasks(TaskSpec("noop", task_data={"n": n}) for n in range(total - 4))
    ids += fleet.add_tasks(TaskSpec("gate", task_data={"gate": str(gate)}, priority=9) for _ in range(4))
    options = on(cluster, "--concurrent-tasks", "4", "--until-idle")
    with NodeProcess(tmp_path, backend.url, *options) as node:
        wait_until(lambda: fleet.tasks.stats()["running"] == 4, 60, "a body on each thread of the cluster")
        cluster.workers[0].kill()
        node.wait_for("was lost while the body ran", times=2)
        gate.touch()
        assert node.wait(120) == 0, node.log[-5000:]
    assert fleet.tasks.stats()["completed"] == total
    query = "SELECT task_id, status FROM cl_task_assignment"
    with fleet.db.read() as connection:
        runs = [tuple(row) for row in connection.execute(sa.text(query))]
    assert sorted(task for task, status in runs if status == "completed") == sorted(ids)
    assert len(runs) == total + 2, "only what the lost worker ran was run again"
    fleet.close()


def test_a_body_that_runs_too_long_is_killed_on_its_worker(cluster: DaskCluster, fleet: Fleet, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/c.db"
    [task] = fleet.add_tasks([TaskSpec("endless", execution_timeout=1, max_retry_count=0)])
    with NodeProcess(tmp_path, url, *on(cluster, "--concurrent-tasks", "1", "--until-idle")) as node:
        assert node.wait(60) == 1
        found = fleet.tasks.get(task)
        assert found is not None
        assert "timed out: the body ran longer than its execution_timeout of 1 s" in str(found["error_message"])


def test_no_call_of_the_cluster_is_one_too_many(cluster: DaskCluster, fleet: Fleet, tmp_path: Path) -> None:
    """Days count against a window, a month against a day: of those each call was lost without being sent.

    Token and base address are known to the node alone; the vendor counts, and a worker is killed.
    """
    url = f"sqlite:///{tmp_path}/c.db"
    config = tmp_path / "settings.toml"
    with Sandbox(apps=2, minute_seconds=1) as sandbox:
        fleet.accounts.add(Account("appsflyer", "alice", token_env="ALICE_TOKEN"))
        apps = [app.app_id for app in sandbox.apps_of("alice")]
        specs = [
            TaskSpec("app_data", username="alice", app_id=app, start_date=day, end_date=day)
            for app in apps
            for day in (FIRST, FIRST + timedelta(1), FIRST + timedelta(2))
        ]
        before, end = FIRST - timedelta(31), FIRST - timedelta(1)
        specs += [TaskSpec("app_data", username="alice", app_id=app, start_date=before, end_date=end) for app in apps]
        fleet.add_tasks(specs)
        config.write_text(
            f'[sources.appsflyer]\nbase_url = "{sandbox.base_url}"\n'
            "[sources.appsflyer.limits]\naggregate_short_range = {calls = 1, seconds = 1}\n"
        )
        options = on(cluster, "--until-idle", "--config", str(config))
        with NodeProcess(tmp_path, url, *options, ALICE_TOKEN="sandbox-alice") as node:
            node.wait_for("completed successfully", times=2)
            cluster.workers[0].kill()
            assert node.wait(120) == 0, node.log[-5000:]
            assert "sandbox-alice" not in node.log
        calls = sandbox.stats()
    assert (calls["refused"], calls["over_quota"]) == (0, 0)
    assert fleet.tasks.stats()["completed"] == len(specs)
    last = FIRST + timedelta(2)
    expected = sum(len(expected_rows("alice", app, before, last)) for app in apps)
    assert len(list(stored_rows.data_rows(fleet.db, FeedFilter()))) == expected


def test_a_node_waits_for_a_scheduler_that_went_away_and_stops_in_order_meanwhile(
    cluster: DaskCluster, fleet: Fleet, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/c.db"
    with NodeProcess(tmp_path, url, *on(cluster)) as node:
        node.wait_started()
        cluster.stop()
        node.wait_for("Dask scheduler away, waiting for it")
        fleet.add_tasks(TaskSpec("noop") for _ in range(30))
        wait_until(lambda: fleet.tasks.stats()["assigned"] >= 5, 30, "tasks to wait with the node")
        cluster.start_scheduler()
        cluster.add_worker()
        node.wait_for("Dask scheduler back")
        wait_until(lambda: fleet.tasks.stats()["completed"] == 30, 60, "all tasks to be completed")
        cluster.stop()
        node.wait_for("Dask scheduler away, waiting for it", times=2)
        fleet.add_tasks(TaskSpec("noop") for _ in range(30))
        wait_until(lambda: fleet.tasks.stats()["assigned"] >= 5, 30, "tasks to wait with the node")
        node.signal(signal.SIGTERM)
        assert node.wait(60) == 0
        assert "Traceback" not in node.log
    assert fleet.tasks.stats()["pending"] == 30, "what waited went back"


def test_a_node_that_cannot_reach_its_cluster_says_so_and_registers_no_device(fleet: Fleet, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/c.db"
    for options, code, line in (
        (("--dask-scheduler", f"tcp://127.0.0.1:{free_port()}"), 3, r"Dask scheduler tcp://\S+ cannot be reached"),
        (("--dask-scheduler", "localhost"), 2, "dask_scheduler must be an address such as tls://host:8786"),
        ((), 2, "engine dask needs the address of a cluster: --dask-scheduler"),
    ):
        with NodeProcess(tmp_path, url, "--engine", "dask", *options) as node:
            assert node.wait(60) == code, node.log
            assert node.count(line) == 1, node.log
            assert "Traceback" not in node.log
    assert devices.devices(fleet.db) == []
