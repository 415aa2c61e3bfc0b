"""A worker that loses the network for longer than its lease, seen as by a real kernel: a cable that is pulled."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import date
from pathlib import Path

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services.fleet import connect
from tests.network_namespace import NetworkNamespace
from tests.nodes import NodeProcess
from tests.servers import Server
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

SLOTS = 3  # of each worker
SETTINGS = "heartbeat_interval = 0.5\noffline_timeout = 3\ndispatch_interval = 1\nschedule_interval = 2\n"
PATIENCE_SECONDS = 60  # connections that were cut send again ever more rarely


def running_on(db: Database, device_id: str) -> set[int]:
    query = "SELECT task_id FROM cl_task_assignment WHERE device_id = :device_id AND status = 'running'"
    with db.read() as connection:
        return set(connection.execute(sa.text(query), {"device_id": device_id}).scalars())


def completed_by(db: Database) -> dict[int, list[str]]:
    """By task, the devices whose runs of it completed."""
    query = "SELECT task_id, device_id FROM cl_task_assignment WHERE status = 'completed'"
    found: dict[int, list[str]] = {}
    with db.read() as connection:
        for task_id, device_id in connection.execute(sa.text(query)).all():
            found.setdefault(task_id, []).append(device_id)
    return found


def status_of(db: Database, device_id: str) -> str:
    [device] = [each for each in DeviceDAO(db).find() if each["device_id"] == device_id]
    return str(device["status"])


def test_a_worker_cut_off_for_longer_than_its_lease_is_fenced_and_the_others_do_its_tasks(
    private_server: Server, tmp_path: Path
) -> None:
    private_server.create_database("fleet")
    url = private_server.url("fleet")
    config, gate = tmp_path / "fleet.toml", tmp_path / "gate"
    config.write_text(SETTINGS)
    gate.touch()
    fleet = connect(url)
    with (
        NetworkNamespace() as elsewhere,
        TcpProxy("127.0.0.1", private_server.port, host=elsewhere.gateway) as door,
        ExitStack() as stack,
    ):

        def node(device_id: str, mode: str, address: str, inside: tuple[str, ...] = ()) -> NodeProcess:
            options = ("--executors", "tests.faults.bodies", "--config", str(config), "--concurrent-tasks", str(SLOTS))
            made = NodeProcess(tmp_path / device_id, address, *options, device_id=device_id, mode=mode, inside=inside)
            stack.enter_context(made)
            made.wait_started()
            return made

        node("m1", "master", url)
        node("near", "worker", url)
        afar = url.replace(f"127.0.0.1:{private_server.port}", f"{door.host}:{door.port}")
        assert afar != url
        far = node("far", "worker", afar, elsewhere.inside)
        ids = fleet.add_tasks(TaskSpec("gated", task_data={"n": n, "gate": str(gate)}) for n in range(2 * SLOTS))
        wait_until(lambda: len(running_on(fleet.db, "far")) == SLOTS, PATIENCE_SECONDS, "full slots far away")
        cut_off = running_on(fleet.db, "far")

        elsewhere.unplug()
        wait_until(lambda: status_of(fleet.db, "far") == "offline", PATIENCE_SECONDS, "the end of its lease")
        gate.unlink()  # every body ends now, those far away, too
        wait_until(lambda: fleet.tasks.stats()["completed"] == len(ids), PATIENCE_SECONDS, "all tasks elsewhere")
        assert {device for devices in completed_by(fleet.db).values() for device in devices} == {"near"}

        elsewhere.plug_in()
        for task_id in cut_off:
            far.wait_for(f"stale result rejected: task={task_id} ", timeout=PATIENCE_SECONDS)
        wait_until(lambda: status_of(fleet.db, "far") == "online", PATIENCE_SECONDS, "its next registration")
        assert DeviceDAO(fleet.db).set_draining("near", True)
        [later] = fleet.add_tasks([TaskSpec("gated", task_data={"n": len(ids), "gate": str(gate)})])
        wait_until(lambda: fleet.tasks.stats()["completed"] == len(ids) + 1, PATIENCE_SECONDS, "work far away again")
        assert far.process.poll() is None
        assert far.count("Traceback") == 0, far.log
    completed = completed_by(fleet.db)
    assert completed == {each: ["near"] for each in ids} | {later: ["far"]}
    figures = [(row["app_id"], row["installs"]) for row in stored_rows.data_rows(fleet.db, FeedFilter())]
    assert sorted(figures) == [(f"app{n}", n) for n in range(len(ids) + 1)]
    assert {row["date"] for row in stored_rows.data_rows(fleet.db, FeedFilter())} == {date(2026, 1, 1)}
    fleet.close()
