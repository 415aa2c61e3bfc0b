"""A master and its workers as real processes: even work, and nothing lost or doubled when parts of it die."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services.fleet import Fleet, connect
from tests.nodes import NodeProcess
from tests.servers import Server
from tests.waiting import wait_until

TASKS = 600
WORKERS = ("w1", "w2", "w3")
PATIENCE_SECONDS = 90


def settings(folder: Path) -> tuple[str, str]:
    path = folder / "fleet.toml"
    path.write_text("heartbeat_interval = 0.5\noffline_timeout = 4\ndispatch_interval = 1\nschedule_interval = 5\n")
    return "--config", str(path)


def node(stack: ExitStack, folder: Path, url: str, device_id: str, mode: str) -> NodeProcess:
    options = ("--executors", "tests.faults.bodies", *settings(folder))
    return stack.enter_context(NodeProcess(folder / device_id, url, *options, device_id=device_id, mode=mode))


def add(fleet: Fleet, count: int) -> list[int]:
    return fleet.add_tasks(TaskSpec("short", task_data={"n": n}) for n in range(count))


def done(fleet: Fleet) -> int:
    return int(fleet.tasks.stats()["completed"])


def runs_by_device(db: Database, status: str = "completed") -> Counter[str]:
    query = "SELECT device_id, COUNT(*) FROM cl_task_assignment WHERE status = :status GROUP BY device_id"
    with db.read() as connection:
        return Counter(dict(connection.execute(sa.text(query), {"status": status}).all()))


def assigned_by(db: Database) -> Counter[int]:
    """How many runs each registration of a device has assigned, to itself or to others."""
    with db.read() as connection:
        ids = connection.execute(sa.text("SELECT id FROM cl_task_assignment")).scalars()
        return Counter(number >> 31 for number in ids)


def test_work_is_spread_evenly_and_survives_the_death_of_a_worker_and_of_the_database(
    private_server: Server, tmp_path: Path
) -> None:
    private_server.create_database("fleet")
    url = private_server.url("fleet")
    fleet = connect(url)
    with ExitStack() as stack:
        master = node(stack, tmp_path, url, "m1", "master")
        master.wait_started()
        workers = {name: node(stack, tmp_path, url, name, "worker") for name in WORKERS}
        for each in workers.values():
            each.wait_started()
        add(fleet, TASKS // 2)
        wait_until(lambda: done(fleet) == TASKS // 2, PATIENCE_SECONDS, "the first half")
        spread = runs_by_device(fleet.db)
        assert set(spread) == set(WORKERS)
        assert max(spread.values()) - min(spread.values()) <= TASKS // 2 * 0.1, spread
        assert len(assigned_by(fleet.db)) == 1, (assigned_by(fleet.db), master.log, workers["w1"].log)
        assert master.count("Dispatching") > 0

        add(fleet, TASKS // 2)
        wait_until(lambda: done(fleet) > TASKS // 2 + 50, PATIENCE_SECONDS, "some of the second half")
        workers["w1"].process.kill()
        private_server.kill()
        private_server.start()
        fleet.close()  # its idle connections died with the server
        wait_until(lambda: done(fleet) == TASKS, PATIENCE_SECONDS, "the second half")
        assert all(each.count("Traceback") == 0 for each in (master, *workers.values()))
    stats = fleet.tasks.stats()
    assert (stats["completed"], stats["total"]) == (TASKS, TASKS)
    query = "SELECT COUNT(*) FROM cl_task_assignment WHERE status = 'completed' GROUP BY task_id"
    with fleet.db.read() as connection:
        assert set(connection.execute(sa.text(query)).scalars()) == {1}
    fleet.close()


def test_workers_claim_for_themselves_while_no_master_is_there(private_server: Server, tmp_path: Path) -> None:
    private_server.create_database("fleet")
    url = private_server.url("fleet")
    fleet = connect(url)
    with ExitStack() as stack:
        master = node(stack, tmp_path, url, "m1", "master")
        master.wait_started()
        for name in WORKERS:
            node(stack, tmp_path, url, name, "worker").wait_started()
        add(fleet, 60)
        wait_until(lambda: done(fleet) == 60, PATIENCE_SECONDS, "what the master assigned")
        master.process.kill()
        add(fleet, 60)
        wait_until(lambda: done(fleet) == 120, PATIENCE_SECONDS, "the work without a master")
    assert len(assigned_by(fleet.db)) > 1
    fleet.close()
