"""Pausing the queue, draining a device, stopping a scheduler."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from crawlfleet.model import fleet_state
from crawlfleet.model.device import DeviceDAO
from tests.conftest import Backend
from tests.fleets import runs, task
from tests.services.conftest import MakePump
from tests.waiting import wait_until


def test_a_paused_queue_ends_what_runs_and_claims_nothing(backend: Backend, make_pump: MakePump, gate: Path) -> None:
    pump = make_pump(backend.url)
    [running] = pump.add("held", task_data={"gate": str(gate)})
    pump.until_status("running", running)
    assert fleet_state.set_paused(pump.db, True, "tired")
    assert not fleet_state.set_paused(pump.db, True)
    [waits] = pump.add("quick")
    gate.touch()
    pump.until_status("completed", running)
    for _ in range(3):
        pump.turn()
    assert pump.status(waits) == "pending"
    assert fleet_state.set_paused(pump.db, False)
    assert not fleet_state.set_paused(pump.db, False)
    pump.until_status("completed", waits)


def test_a_pause_holds_for_every_device(url: str, make_pump: MakePump) -> None:
    first, second = make_pump(url), make_pump(url, device_id="d2")
    fleet_state.set_paused(first.db, True)
    [task_id] = first.add("quick")
    for _ in range(3):
        second.turn()
    assert first.status(task_id) == "pending"
    fleet_state.set_paused(first.db, False)
    second.until_status("completed", task_id)


def test_a_draining_device_leaves_the_queue_to_the_others(url: str, make_pump: MakePump) -> None:
    drained, other = make_pump(url), make_pump(url, device_id="d2")
    DeviceDAO(drained.db).set_draining("d1", True)
    [task_id] = drained.add("quick")
    for _ in range(3):
        drained.turn()
    assert drained.status(task_id) == "pending"
    other.until_status("completed", task_id)
    DeviceDAO(drained.db).set_draining("d1", False)
    drained.until_status("completed", *drained.add("quick"))


def test_a_stopping_node_waits_for_its_bodies_and_claims_no_more(url: str, make_pump: MakePump, gate: Path) -> None:
    pump = make_pump(url, slots=1)
    [running] = pump.add("held", task_data={"gate": str(gate)})
    pump.scheduler.start()
    wait_until(lambda: pump.began, what="the body to begin")
    [waits] = pump.add("quick")
    drain = threading.Thread(target=pump.scheduler.drain, args=(30,))
    drain.start()
    wait_until(lambda: pump.status(running) == "running", what="a pass of the draining scheduler")
    assert drain.is_alive()
    gate.touch()
    drain.join(20)
    assert not drain.is_alive()
    assert (pump.status(running), pump.status(waits)) == ("completed", "pending")
    assert not pump.scheduler.running


@pytest.mark.parametrize("engine", ["threads", "asyncio", "processes"])
def test_after_the_grace_what_still_runs_goes_back_unspent(
    url: str, make_pump: MakePump, gate: Path, engine: str
) -> None:
    pump = make_pump(url, engine=engine, slots=1)
    [task_id] = pump.add("async_held" if engine == "asyncio" else "held", task_data={"gate": str(gate)})
    pump.scheduler.start()
    wait_until(lambda: pump.began, what="the body to begin")
    pump.scheduler.drain(0)
    found = task(pump.db, task_id)
    assert (found["status"], found["retry"], found["crash_count"]) == ("pending", 0, 0)
    [run] = runs(pump.db, task_id)
    assert (run["status"], run["error_message"]) == ("released", "the node stopped before the body ended")
    wait_until(lambda: pump.ended, what="the body to end")
