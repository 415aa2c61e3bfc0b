"""Registration and heartbeats: what a device tells of itself, and when."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.system_metrics import MachineUse, capabilities, local_ip, network_status
from crawlfleet.model.device_heartbeat import DeviceHeartbeatDAO
from crawlfleet.settings.definitions import Settings
from tests.conftest import Backend
from tests.services.conftest import Clock, MakePump
from tests.services.pump import Pump
from tests.waiting import wait_until

METRICS = {"process_memory_bytes", "process_cpu_percent", "process_threads", "process_open_files"}


def latest(pump: Pump) -> dict[str, object]:
    beat = DeviceHeartbeatDAO(pump.db).latest("d1")
    assert beat is not None
    return beat


def beats(db: Database) -> int:
    with db.read() as connection:
        return int(connection.execute(sa.text("SELECT COUNT(*) FROM cl_device_heartbeat")).scalar_one())


def test_registration_writes_the_first_beat_with_every_column(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url)
    assert beats(pump.db) == 1
    beat = latest(pump)
    assert [name for name, value in beat.items() if value is None] == []
    assert (beat["device_epoch"], beat["running_tasks"], beat["error_count"]) == (pump.lease.epoch, 0, 0)
    assert all(0 <= float(str(beat[name])) <= 100 for name in ("cpu_usage", "memory_usage", "disk_usage"))
    assert float(str(beat["memory_usage"])) > 0
    assert float(str(beat["system_load"])) >= 0
    assert beat["network_status"] in {"good", "slow", "poor"}
    assert beat["delay_seconds"] == 0
    assert beat["status_info"] == {"round_trip_seconds": 0.0}
    assert pump.lease.online


def test_a_beat_tells_of_running_tasks_errors_and_counts(url: str, make_pump: MakePump, gate: Path) -> None:
    pump = make_pump(url, settings=Settings(heartbeat_interval=0.02))
    pump.until_status("failed", *pump.add("raising", 3, task_data={"kind": "permanent"}))
    pump.until_status("running", *pump.add("held", 2, task_data={"gate": str(gate)}))
    pump.signs.work = pump.scheduler.report
    pump.manager.start()
    wait_until(lambda: pump.beats, what="a beat")
    beat = latest(pump)
    assert (beat["running_tasks"], beat["error_count"]) == (2, 3)
    status = beat["status_info"]
    assert isinstance(status, dict)
    assert (status["fail"], status["errors"]) == (3, 3)
    assert not METRICS & set(status)
    pump.manager.stop()
    assert not pump.lease.online
    gate.touch()


def test_a_monitoring_node_also_tells_what_it_uses(url: str, make_pump: MakePump) -> None:
    pump = make_pump(url, with_performance=True)
    status = latest(pump)["status_info"]
    assert isinstance(status, dict)
    assert set(status) == {"round_trip_seconds", *METRICS}
    assert status["process_memory_bytes"] > 1_000_000
    assert status["process_threads"] >= 1


def test_a_monitoring_node_also_tells_how_the_work_goes(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url, with_performance=True)
    pump.signs.work = pump.scheduler.report
    pump.beat()
    status = latest(pump)["status_info"]
    assert isinstance(status, dict)
    assert (status["success_rate"], status["body_seconds"], status["errors_by_kind"]) == (None, None, {})
    pump.until_status("completed", *pump.add("quick", 3, task_data={}))
    pump.until_status("failed", *pump.add("raising", task_data={"kind": "permanent"}))
    pump.beat()
    status = latest(pump)["status_info"]
    assert isinstance(status, dict)
    assert status["success_rate"] == 0.75
    assert status["errors_by_kind"] == {"permanent": 1}
    assert status["turn_seconds"] > 0
    assert status["body_seconds"] >= 0


def test_a_beat_comes_at_its_time_and_tells_how_late_it_is(url: str, make_pump: MakePump, clock: Clock) -> None:
    pump = make_pump(url)
    heartbeat = pump.manager.heartbeat
    heartbeat.start()  # its own thread sleeps for 30 s
    clock.advance(29)
    assert not heartbeat.run_once()
    assert 0 < heartbeat.next_wait() <= 1
    clock.advance(8)
    assert heartbeat.run_once()
    assert 7 <= float(str(latest(pump)["delay_seconds"])) < 20
    assert not heartbeat.run_once()
    assert heartbeat.next_wait() <= 30 - 7
    clock.advance(500)  # a machine that slept does not send the sixteen beats that it missed
    assert sum(heartbeat.run_once() for _ in range(5)) <= 2
    heartbeat.stop()
    heartbeat.join(5)


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)  # SQLite's one writer holds all
def test_beats_arrive_while_all_slots_are_busy_and_other_connections_wait(
    backend: Backend, make_pump: MakePump, gate: Path
) -> None:
    """A turn, a large result and two other looks of a node may all wait for locks at once."""
    pump = make_pump(backend.url, slots=8)
    pump.until_status("running", *pump.add("stubborn", 8, task_data={"gate": str(gate)}))
    connections = [pump.db.engine.connect() for _ in range(5)]
    for connection in connections:
        connection.execute(sa.text("SELECT * FROM cl_fleet_state")).all()
    pump.beat()
    assert beats(pump.db) == 2
    for connection in connections:
        connection.close()
    gate.touch()


def test_the_round_trip_tells_how_the_network_is() -> None:
    seconds = [0.0, 0.099, 0.1, 0.99, 1.0, 60.0]
    assert [network_status(each) for each in seconds] == ["good", "good", "slow", "slow", "poor", "poor"]


def test_a_device_tells_what_it_can_do() -> None:
    found = capabilities({"b", "a"}, ("y", "x", "y"), None, 12.5)
    assert found["supported_tasks"] == ["a", "b"]
    assert found["heartbeat_interval"] == 12.5
    assert found["cpu_cores"] == os.cpu_count()
    assert found["memory_total"] > 0
    assert found["memory_gb"] == round(found["memory_total"] / 2**30, 1)
    assert (found["local_ip"], local_ip("127.0.0.1"), local_ip("no such host.invalid")) == ("127.0.0.1",) * 3
    assert found["platform"]
    assert found["python_version"].startswith("3.")


def test_what_a_machine_does_not_tell_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg")
    use = MachineUse(str(tmp_path / "missing")).read()
    assert (use["disk_usage"], use["system_load"]) == (None, None)
    assert use["memory_usage"] is not None
