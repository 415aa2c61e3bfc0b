"""The watch over the fleet: silent devices, tasks that nobody can run, rows that have expired."""

from __future__ import annotations

from datetime import timedelta

import pytest

from crawlfleet.core.db import Database
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.services.caretaker import Caretaker
from crawlfleet.settings.definitions import Settings
from tests.conftest import Backend
from tests.fleets import Device, add, runs, task
from tests.services.conftest import Clock, Log, MakePump

BEAT = Beat(1.0, 2.0, 3.0, "good", 0, 0.5, 0, 0.001)


def silent_device(db: Database) -> None:
    """The device `gone`, which was last heard of an hour ago, and its task 1."""
    device = Device(db, "gone", types=("quick",))
    epoch = device.register()
    add(db, task_type="quick")
    assert len(device.claim()) == 1
    with db.read() as connection:
        earlier = connection.now - timedelta(hours=1)
    DeviceHeartbeatDAO(db).beat("gone", epoch, BEAT, earlier)


def states(db: Database) -> dict[str, object]:
    return {device["device_id"]: device["status"] for device in DeviceDAO(db).find()}


def test_nobody_is_judged_before_a_full_timeout_of_own_beats(
    backend: Backend, make_pump: MakePump, clock: Clock, log: Log
) -> None:
    pump = make_pump(backend.url)
    silent_device(pump.db)
    monitoring = pump.manager.monitoring
    clock.advance(299)
    assert monitoring.run_once() == 0
    assert states(pump.db) == {"d1": "online", "gone": "online"}
    pump.lease.beating_since = None  # a beat failed: an outage, after which everybody's beats are old
    clock.advance(1)
    assert monitoring.run_once() == 0
    pump.beat()
    clock.advance(299)
    assert monitoring.run_once() == 0
    clock.advance(1)
    assert monitoring.run_once() == 1
    assert states(pump.db) == {"d1": "online", "gone": "offline"}
    assert task(pump.db, 1)["status"] == "pending"
    assert [run["status"] for run in runs(pump.db, 1)] == ["expired"]
    assert log.count("WARNING Device gone is offline, releasing its tasks") == 1
    assert log.count("INFO Released 1 tasks from offline device gone") == 1
    assert monitoring.run_once() == 0


def test_any_number_of_nodes_may_watch(url: str, make_pump: MakePump, clock: Clock) -> None:
    first, second = make_pump(url), make_pump(url, device_id="d2")
    silent_device(first.db)
    clock.advance(300)
    for pump in (first, second):
        pump.beat()
    found = [pump.manager.monitoring.run_once() for pump in (first, second)]
    assert found == [1, 0]


def test_it_looks_often_enough(url: str, make_pump: MakePump) -> None:
    pump = make_pump(url)
    for beat, timeout, interval in ((30, 300, 30), (30, 100, 25), (200, 600, 150)):
        settings = Settings(heartbeat_interval=beat, offline_timeout=timeout)
        assert Caretaker(pump.db, settings, pump.lease).next_wait() == interval


def test_expired_rows_are_deleted_once_an_hour(backend: Backend, make_pump: MakePump, clock: Clock, log: Log) -> None:
    pump = make_pump(backend.url, settings=Settings(heartbeat_retention_days=7, assignment_retention_days=30))
    monitoring, beats = pump.manager.monitoring, DeviceHeartbeatDAO(pump.db)
    epoch = pump.lease.epoch
    with pump.db.read() as connection:
        now = connection.now
    for age in (8, 6, 9):
        beats.beat("d1", epoch, BEAT, now - timedelta(days=age))
    monitoring.run_once()
    assert log.count("INFO Deleted expired rows: heartbeats=2 assignments=0") == 1
    beats.beat("d1", epoch, BEAT, now - timedelta(days=8))
    clock.advance(3599)
    monitoring.run_once()
    assert log.count("Deleted expired rows") == 1
    clock.advance(1)
    monitoring.run_once()
    assert log.count("INFO Deleted expired rows: heartbeats=1 assignments=0") == 1
    clock.advance(3600)
    monitoring.run_once()
    assert log.count("Deleted expired rows") == 2
    latest = beats.latest("d1")
    assert latest is not None
    assert now - latest["heartbeat_time"] < timedelta(minutes=1)


@pytest.mark.parametrize("seen", [True, False], ids=["another device knows it", "nobody knows it"])
def test_tasks_of_a_type_that_nobody_knows_wait_and_are_told_once(
    url: str, make_pump: MakePump, log: Log, seen: bool
) -> None:
    """Absence was taken for a fact: when the only node of a type was killed or frozen, the next node that looked failed
    all its tasks for good."""
    pump = make_pump(url)
    if seen:
        Device(pump.db, "d2", types=("strange",)).register()
    due = pump.add("strange", 2)
    for _ in range(2):
        pump.manager.monitoring.run_once()
    pump.turn()
    assert {pump.status(each) for each in due} == {"pending"}
    told = "WARNING missing executor: type=strange tasks=2 wait for a node that knows it"
    assert log.count(told) == (0 if seen else 1)


def test_tasks_of_a_node_that_froze_wait_for_it(backend: Backend, make_pump: MakePump) -> None:
    """The only node that knows a type is silent for longer than offline_timeout; a master and another kind of node
    look; its tasks are still there when it wakes."""
    pump = make_pump(backend.url)
    frozen = Device(pump.db, "frozen", types=("strange",))
    frozen.register()
    [task_id] = pump.add("strange")
    with pump.db.read() as reader:
        long_ago = reader.now - timedelta(hours=1)
    DeviceHeartbeatDAO(pump.db).beat("frozen", frozen.epoch, BEAT, long_ago)
    Device(pump.db, "m1", types=("strange",), mode="master").register()
    DeviceDAO(pump.db).mark_silent_offline(300)
    pump.manager.monitoring.run_once()
    assert pump.status(task_id) == "pending"
    frozen.register()
    assert [claim.task.id for claim in frozen.claim()] == [task_id]


def test_after_an_outage_the_types_of_others_are_still_known(
    backend: Backend, make_pump: MakePump, clock: Clock, log: Log
) -> None:
    """Their beats are old, but nobody had the time to see that they are dead."""
    pump = make_pump(backend.url)
    away = Device(pump.db, "away", types=("strange",))
    with pump.db.read() as connection:
        earlier = connection.now - timedelta(hours=1)
    away.register(now=earlier)
    pump.add("strange")
    pump.manager.monitoring.run_once()
    assert log.count("missing executor") == 0
    clock.advance(300)
    pump.manager.monitoring.run_once()
    assert states(pump.db)["away"] == "offline"
    assert log.count("WARNING missing executor: type=strange tasks=1") == 1
