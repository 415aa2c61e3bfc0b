"""A device whose lease is gone: everything is dropped, and it registers again or ends."""

from __future__ import annotations

import os
from pathlib import Path

from crawlfleet.core.process import start_ticks
from crawlfleet.model.device import DeviceDAO
from crawlfleet.settings.definitions import Settings
from tests.conftest import Backend
from tests.fleets import Device
from tests.services.conftest import Log, MakePump
from tests.services.pump import Pump
from tests.waiting import wait_until


def take_lease(pump: Pump, **process: object) -> Device:
    """Another registration of its id, by this process unless told otherwise."""
    other = Device(pump.db, types=("quick", "held", "stubborn"), process=process)
    other.register(takeover=True)
    return other


def parent() -> dict[str, object]:
    """The identity of another living process of this host."""
    return {"pid": os.getppid(), "ticks": start_ticks(os.getppid())}


def test_a_lost_lease_drops_everything_and_the_device_registers_again(
    backend: Backend, make_pump: MakePump, gate: Path, log: Log
) -> None:
    pump = make_pump(backend.url, slots=3)
    [looking] = pump.add("held", task_data={"gate": str(gate)})
    [stubborn] = pump.add("stubborn", task_data={"gate": str(gate)})
    pump.until_status("running", looking, stubborn)
    lost = pump.lease.epoch
    newer = take_lease(pump).epoch
    [new] = pump.add("quick")
    assert pump.turn() is None
    assert pump.lease.epoch > newer > lost
    assert [pump.run_states(each) for each in (looking, stubborn)] == [["expired"]] * 2
    wait_until(lambda: len(pump.ended) == 1, what="the body that looks to end")
    gate.touch()
    pump.until_status("completed", looking, stubborn, new)
    assert [pump.run_states(each) for each in (looking, stubborn)] == [["expired", "completed"]] * 2
    assert pump.scheduler.stats.counters["stale results rejected"] == 1
    assert log.count("lease lost: device=d1") == 1
    assert pump.fatal == []


def test_a_result_that_waits_for_its_turn_is_lost_with_the_lease(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url)
    [task_id] = pump.add("quick", task_data={"by": "the first run"})
    pump.turn()
    pump.wait_ended()
    other = take_lease(pump)
    [elsewhere] = other.claim()
    assert elsewhere.task.id == task_id
    pump.turn()  # its lease was lost: the run of `other` expires with the next registration
    pump.until_status("completed", task_id)
    assert pump.run_states(task_id) == ["expired", "expired", "completed"]
    assert pump.scheduler.stats.counters["finish"] == 1


def test_a_device_id_that_another_process_took_ends_the_node(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url)
    take_lease(pump, **parent())
    [task_id] = pump.add("quick")
    pump.turn()
    [reason] = pump.fatal
    assert "device id 'd1' is alive: last seen" in reason
    assert "--takeover" in reason
    assert not pump.scheduler.hungry
    pump.turn()
    assert len(pump.fatal) == 1
    assert pump.status(task_id) == "pending"


def test_a_device_that_was_declared_offline_registers_again(url: str, make_pump: MakePump) -> None:
    pump = make_pump(url)
    with pump.db.read() as connection:
        now = connection.now
    assert DeviceDAO(pump.db).mark_silent_offline(0, now) == [("d1", 0)]
    [task_id] = pump.add("quick")
    pump.until_status("completed", task_id)
    [device] = DeviceDAO(pump.db).find()
    assert device["status"] == "online"


def test_a_beat_that_finds_the_lease_lost_registers_again_and_hastens_the_scheduler(
    url: str, make_pump: MakePump, gate: Path
) -> None:
    pump = make_pump(url, settings=Settings(heartbeat_interval=0.02), schedule_interval=600, dispatch_interval=600)
    [task_id] = pump.add("held", task_data={"gate": str(gate)})
    pump.until_status("running", task_id)
    pump.scheduler.start()
    newer = take_lease(pump).epoch
    pump.manager.start()
    wait_until(lambda: pump.lease.epoch > newer, what="the registration")
    gate.touch()
    wait_until(lambda: pump.status(task_id) == "completed", what="the task that was claimed again")
    assert pump.run_states(task_id) == ["expired", "completed"]
    pump.scheduler.drain(0)  # as a node does: a turn that finds its device offline registers it again
    pump.manager.stop()
    assert DeviceDAO(pump.db).find()[0]["status"] == "offline"


def test_a_beat_whose_id_another_process_took_ends_the_node_once(url: str, make_pump: MakePump) -> None:
    pump = make_pump(url, settings=Settings(heartbeat_interval=0.02))
    take_lease(pump, **parent())
    pump.manager.start()
    wait_until(lambda: not pump.manager.heartbeat.running, what="the end of the heartbeat")
    [reason] = pump.fatal
    assert "is alive" in reason
    assert not pump.lease.online
    pump.manager.stop()
    assert DeviceDAO(pump.db).find()[0]["status"] == "online"  # it is the other's by now
