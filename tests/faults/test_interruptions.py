"""Lost replies, stopped processes, databases that go away, signals: what a node does when the world does not hold."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.insights import stored_rows, tasks
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model import rescue
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import DeviceHeartbeatDAO
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services.fleet import Fleet, connect
from tests.conftest import Backend
from tests.nodes import ROOT, NodeProcess
from tests.servers import Server
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

BODIES = ("--executors", "tests.faults.bodies")
OUTAGE_SECONDS = 20


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Writes a settings file; gives the options that name it."""

    def write(**settings: float) -> tuple[str, str]:
        path = tmp_path / f"settings-{len(list(tmp_path.iterdir()))}.toml"
        path.write_text("\n".join(f"{name} = {value}" for name, value in settings.items()))
        return "--config", str(path)

    return write


def gated(fleet: Fleet, gate: Path, count: int, task_type: str = "gated", **more: object) -> list[int]:
    gate.touch()
    return fleet.add_tasks(
        TaskSpec(task_type, task_data={"n": n, "gate": str(gate), "follow": True}, **more)  # type: ignore[arg-type]
        for n in range(count)
    )


def status(fleet: Fleet, task_id: int) -> str:
    return str(fleet.tasks.get(task_id)["status"])  # type: ignore[index]


def completed_runs(db: Database) -> list[int]:
    query = "SELECT COUNT(*) FROM cl_task_assignment WHERE status = 'completed' GROUP BY task_id"
    with db.read() as connection:
        return list(connection.execute(sa.text(query)).scalars())


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_commit_whose_reply_is_lost_strands_nothing_and_runs_nothing_twice(
    backend: Backend, tmp_path: Path, config: Callable[..., tuple[str, str]]
) -> None:
    """One COMMIT after another loses its reply: of a claim, of the end of a run, of a beat."""
    fleet = connect(backend.url)
    options = config(heartbeat_interval=0.5, offline_timeout=60, schedule_interval=0.5)
    total = 60
    gate = tmp_path / "gate"
    gated(fleet, gate, total)
    assert backend.server is not None
    with (
        TcpProxy("127.0.0.1", backend.server.port) as proxy,
        NodeProcess(tmp_path, backend.url_at(proxy.port), *BODIES, *options) as node,
    ):
        node.wait_for("Executing task", times=5)
        cuts = [proxy.cut_after_request(b"COMMIT", nth=nth) for nth in (1, 3, 4, 6, 8, 11)]
        gate.unlink()
        wait_until(lambda: fleet.tasks.stats()["completed"] == 2 * total, 90, "all tasks and their follow-ups")
        wait_until(lambda: all(cut.happened.is_set() for cut in cuts), 60, "beats to be cut off, too")
        node.signal(signal.SIGTERM)
        assert node.wait(90) == 0, node.log[-5000:]
    stats = fleet.tasks.stats()
    assert (stats["completed"], stats["total"]) == (2 * total, 2 * total)
    assert set(completed_runs(fleet.db)) == {1}
    assert len(list(stored_rows.data_rows(fleet.db, FeedFilter()))) == total
    fleet.close()


def test_a_stopped_node_loses_its_lease_and_its_late_results_are_refused(
    backend: Backend, tmp_path: Path, config: Callable[..., tuple[str, str]]
) -> None:
    fleet = connect(backend.url)
    gate = tmp_path / "gate"
    options = config(heartbeat_interval=0.5, offline_timeout=2, schedule_interval=0.2, concurrent_tasks=6)
    with (
        NodeProcess(tmp_path, backend.url, *BODIES, *options, device_id="stopped") as stopped,
        NodeProcess(tmp_path, backend.url, *BODIES, *options, device_id="other") as other,
    ):
        other.wait_started()
        DeviceDAO(fleet.db).set_draining("other", True)
        ids = gated(fleet, gate, 3) + gated(fleet, gate, 3, "gated_plain")
        wait_until(lambda: fleet.tasks.stats()["running"] == 6, 30, "six running tasks")
        stop_outside_a_transaction(stopped, fleet.db)
        other.wait_for("Device stopped is offline, releasing its tasks", timeout=30)
        assert [status(fleet, task_id) for task_id in ids] == ["pending"] * 6
        DeviceDAO(fleet.db).set_draining("other", False)
        wait_until(lambda: fleet.tasks.stats()["running"] == 6, 30, "its tasks running elsewhere")
        gate.unlink()
        wait_until(lambda: fleet.tasks.stats()["completed"] == 9, 30, "six tasks and three follow-ups")
        stopped.signal(signal.SIGCONT)
        stopped.wait_for("stale result rejected", times=3)
        stopped.wait_for("Device registered: stopped", times=2)
        DeviceDAO(fleet.db).set_draining("other", True)
        [again] = fleet.add_tasks([TaskSpec("quick", task_data={"n": 1})])
        stopped.wait_for(f"Task {again} completed")
        # those with rows may have seen in time that nobody wants them
        wait_until(lambda: 3 <= rejected(fleet, "stopped") <= 6, 30, "the count in a beat")
    assert set(completed_runs(fleet.db)) == {1}
    assert len(list(stored_rows.data_rows(fleet.db, FeedFilter()))) == 3
    fleet.close()


def rejected(fleet: Fleet, device_id: str) -> int:
    """How many stale results the latest beat of the device reports."""
    beat = DeviceHeartbeatDAO(fleet.db).latest(device_id) or {}
    return int(beat["status_info"].get("stale results rejected", 0))


def stop_outside_a_transaction(node: NodeProcess, db: Database) -> None:
    """SIGSTOP; a process stopped inside a transaction would keep its locks, on SQLite for ever, so try until not."""
    while True:
        node.signal(signal.SIGSTOP)
        try:
            if db.family == "sqlite":
                assert db.url.database is not None
                with sqlite3.connect(db.url.database, timeout=0.2) as connection:
                    connection.execute("BEGIN IMMEDIATE")
            else:
                with db.plain.begin() as shared:
                    shared.exec_driver_sql("SELECT id FROM cl_device FOR UPDATE NOWAIT")
            return
        except (sqlite3.OperationalError, sa.exc.OperationalError):
            node.signal(signal.SIGCONT)


def test_a_node_outlives_an_outage_of_its_database(
    private_server: Server, tmp_path: Path, config: Callable[..., tuple[str, str]]
) -> None:
    private_server.create_database("fleet")
    url = private_server.url("fleet")
    fleet = connect(url)
    gate = tmp_path / "gate"
    gated(fleet, gate, 20)
    options = config(heartbeat_interval=0.5, offline_timeout=60)
    with NodeProcess(tmp_path, url, *BODIES, *options, "--until-idle") as node:
        wait_until(lambda: fleet.tasks.stats()["running"] == 5, 30, "five running tasks")
        private_server.kill()
        gate.unlink()  # five bodies end while the database is away
        node.wait_for("database away", timeout=30)
        away_since = time.monotonic()
        wait_until(lambda: time.monotonic() - away_since > OUTAGE_SECONDS, OUTAGE_SECONDS + 5, "the outage")
        private_server.start()
        assert node.wait(60) == 0, node.log[-5000:]
        assert node.count("database away") == 1
        assert node.count("database back after") == 1
        assert node.count("Traceback") == 0
    stats = fleet.tasks.stats()
    assert (stats["completed"], stats["total"]) == (40, 40)
    assert set(completed_runs(fleet.db)) == {1}
    assert len(list(stored_rows.data_rows(fleet.db, FeedFilter()))) == 20
    fleet.close()


def test_a_graceful_stop_waits_hands_back_and_leaves(
    backend: Backend, tmp_path: Path, config: Callable[..., tuple[str, str]]
) -> None:
    fleet = connect(backend.url)
    gate = tmp_path / "gate"
    gate.touch()
    short = fleet.add_tasks([TaskSpec("gated", task_data={"n": n, "gate": str(gate)}) for n in range(2)])
    long = fleet.add_tasks([TaskSpec("endless") for _ in range(3)])
    waiting = fleet.add_tasks([TaskSpec("quick", task_data={"n": n}) for n in range(5)])
    with NodeProcess(tmp_path, backend.url, *BODIES, *config(shutdown_grace=2)) as node:
        wait_until(lambda: fleet.tasks.stats()["running"] == 5, 30, "five running tasks")
        node.signal(signal.SIGTERM)
        node.wait_for("TaskScheduler stopping")
        gate.unlink()
        assert node.wait(20) == 0, node.log[-4000:]
    assert [status(fleet, task_id) for task_id in short] == ["completed"] * 2
    for task_id in [*long, *waiting]:
        found = fleet.tasks.get(task_id)
        assert found is not None
        assert (found["status"], found["retry"], found["crash_count"]) == ("pending", 0, 0)
    assert [tasks.task_detail(fleet.db, t)["assignments"][0]["status"] for t in long] == ["released"] * 3  # type: ignore[index]
    assert all(tasks.task_detail(fleet.db, t)["assignments"] == [] for t in waiting)  # type: ignore[index]
    assert DeviceDAO(fleet.db).find()[0]["status"] == "offline"
    fleet.close()


def test_a_second_signal_ends_at_once_and_the_id_comes_back_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    fleet = connect(url)
    [task_id] = fleet.add_tasks([TaskSpec("endless")])
    with NodeProcess(tmp_path, url, *BODIES) as node:
        wait_until(lambda: status(fleet, task_id) == "running", 30, "the running task")
        node.signal(signal.SIGINT)
        node.signal(signal.SIGTERM)
        assert node.wait(5) in {128 + signal.SIGINT, 128 + signal.SIGTERM}
    rescue.cancel(fleet.db, [task_id])
    with NodeProcess(tmp_path, url, *BODIES, "--until-idle") as again:
        assert again.wait(20) == 0, again.log[-3000:]
    fleet.close()


def test_a_cancelled_task_is_told_to_its_body_and_a_timeout_ends_it(
    tmp_path: Path, config: Callable[..., tuple[str, str]]
) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    fleet = connect(url)
    options = config(heartbeat_interval=0.5, offline_timeout=5, retry_delay_seconds=0)
    cancelled = fleet.add_task("endless")
    timed_out = fleet.add_task("endless", execution_timeout=1, max_retry_count=1)
    with NodeProcess(tmp_path, url, *BODIES, *options, "--engine", "processes", "--until-idle") as node:
        wait_until(lambda: status(fleet, cancelled) == "running", 30, "the running task")
        rescue.cancel(fleet.db, [cancelled])
        assert node.wait(40) == 1, node.log[-3000:]
    found = fleet.tasks.get(timed_out)
    assert found is not None
    assert (status(fleet, cancelled), found["status"], found["retry"]) == ("cancelled", "failed", 2)
    assert "timed out" in str(found["error_message"])
    fleet.close()


def test_a_node_whose_threads_are_all_stuck_ends_with_1(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    fleet = connect(url)
    fleet.add_tasks(TaskSpec("endless", execution_timeout=1) for _ in range(2))
    with NodeProcess(tmp_path, url, *BODIES, "--concurrent-tasks", "2") as node:
        assert node.wait(30) == 1, node.log[-3000:]
        assert "all slots are held" in node.log
    assert fleet.tasks.stats()["pending"] == 2
    fleet.close()


def test_a_node_ends_whatever_bodies_left_behind_and_says_what(tmp_path: Path) -> None:
    """The device was offline, but its process lived on for as long as a body's own threads and children did."""
    url = f"sqlite:///{tmp_path}/c.db"
    fleet = connect(url)
    fleet.add_tasks([TaskSpec("leaving"), TaskSpec("short", max_retry_count=0)])
    with NodeProcess(tmp_path, url, *BODIES, "--until-idle") as node:
        assert node.wait(20) == 1, "the exit code is still that of the work"
    assert fleet.tasks.stats()["completed"] == 1
    fleet.close()
    said = r"ends without waiting for what task bodies left behind: thread of-the-body_0 in .*, process \d+ \(left\)"
    assert node.count(said) == 1


def test_the_working_directory_holds_the_users_executors(tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text((ROOT / "tests/faults/bodies.py").read_text())
    url = f"sqlite:///{tmp_path}/fleet.db"
    fleet = connect(url)
    fleet.add_task("quick", task_data={"n": 1})
    with NodeProcess(tmp_path, url, "--executors", "my_tasks", "--until-idle") as node:
        assert node.wait(20) == 0, node.log[-3000:]
    fleet.close()
