"""Bodies that run too long or are wanted no more, on each engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleets import task
from tests.services.conftest import Clock, Log, MakePump
from tests.services.pump import Pump

ENDABLE = [  # engine and body: what an interrupt surely ends
    pytest.param("threads", "held", id="a thread that looks at cancel"),
    pytest.param("asyncio", "async_held", id="a coroutine"),
    pytest.param("processes", "stubborn", id="a process"),
]


def begin(pump: Pump, body: str, gate: Path, count: int = 1, **more: object) -> list[int]:
    """Bodies that run and whose run is recorded."""
    ids = pump.add(body, count, task_data={"gate": str(gate)}, **more)
    pump.until_status("running", *ids)
    return ids


@pytest.mark.parametrize(("engine", "body"), ENDABLE)
def test_a_body_that_runs_too_long_is_ended_and_its_slot_used_again(
    url: str, make_pump: MakePump, clock: Clock, gate: Path, engine: str, body: str
) -> None:
    pump = make_pump(url, engine=engine, slots=1)
    [task_id] = begin(pump, body, gate, execution_timeout=60, max_retry_count=1)
    clock.advance(59)
    pump.turn()
    assert pump.status(task_id) == "running"
    clock.advance(1)
    pump.until(lambda: pump.run_states(task_id) == ["failed"], "the end of the run")
    found = task(pump.db, task_id)
    assert (found["status"], found["retry"]) == ("pending", 1)
    assert "timed out: the body ran longer than its execution_timeout of 60 s" in str(found["error_message"])
    pump.until_status("completed", *pump.add("async_quick" if engine == "asyncio" else "quick"))
    assert pump.scheduler.stats.counters["stale results rejected"] == 0
    assert pump.fatal == []


def test_a_thread_that_looks_at_nothing_keeps_its_slot_until_it_ends(
    url: str, make_pump: MakePump, clock: Clock, gate: Path, log: Log
) -> None:
    pump = make_pump(url, slots=2)
    [stuck] = begin(pump, "stubborn", gate, execution_timeout=60)
    clock.advance(60)
    pump.until(lambda: pump.run_states(stuck) == ["failed"], "the end of the run")
    pump.until_status("completed", *pump.add("quick", 3))
    begin(pump, "held", gate)
    assert not pump.scheduler.hungry
    assert pump.scheduler.runs.table.bodies == 2
    assert log.count("keeps its slot") == 1
    gate.touch()
    pump.until(lambda: pump.scheduler.runs.table.bodies == 0, "the bodies to end")
    assert pump.scheduler.stats.counters["stale results rejected"] == 1
    assert pump.status(stuck) == "pending"
    assert pump.run_states(stuck) == ["failed"]
    assert pump.fatal == []


def test_a_node_whose_slots_are_all_stuck_must_end(url: str, make_pump: MakePump, clock: Clock, gate: Path) -> None:
    pump = make_pump(url, slots=2)
    begin(pump, "stubborn", gate, count=2, execution_timeout=60)
    [waits] = pump.add("quick")
    clock.advance(60)
    pump.turn()
    clock.advance(1)
    pump.turn()
    assert pump.fatal == ["all slots are held by bodies that timed out or are not wanted, and cannot be ended"]
    pump.turn()
    assert len(pump.fatal) == 1
    assert not pump.scheduler.hungry
    assert pump.status(waits) == "pending"
    gate.touch()


@pytest.mark.parametrize(("engine", "body"), ENDABLE)
def test_a_cancelled_run_is_ended_and_its_slot_used_again(
    url: str, make_pump: MakePump, gate: Path, log: Log, engine: str, body: str
) -> None:
    pump = make_pump(url, engine=engine, slots=1)
    [task_id] = begin(pump, body, gate)
    assert pump.fleet.cancel_tasks([task_id]) == [task_id]
    pump.inbox.request_reconcile()  # as every beat does
    pump.until(lambda: pump.scheduler.runs.table.bodies == 0, "the body to end")
    pump.until_status("completed", *pump.add("async_quick" if engine == "asyncio" else "quick"))
    assert (pump.status(task_id), pump.run_states(task_id)) == ("cancelled", ["cancelled"])
    assert log.count("WARNING run cancelled or lost") == 1
    assert pump.scheduler.stats.counters["errors"] == 0


def test_a_cancelled_body_that_returns_all_the_same_stores_nothing(url: str, make_pump: MakePump, gate: Path) -> None:
    pump = make_pump(url, slots=1)
    [task_id] = begin(pump, "stubborn", gate)
    pump.fleet.cancel_tasks([task_id])
    gate.touch()
    pump.until(lambda: pump.scheduler.stats.counters["stale results rejected"], "the late result")
    assert (pump.status(task_id), task(pump.db, task_id)["task_ret"]) == ("cancelled", None)


def test_a_waiting_task_that_is_cancelled_never_begins(url: str, make_pump: MakePump, gate: Path) -> None:
    pump = make_pump(url, slots=1)
    begin(pump, "held", gate)
    waits = pump.add("quick", 2)
    pump.fleet.cancel_tasks(waits)
    gate.touch()
    pump.until_status("completed", *pump.add("quick"))
    assert [pump.status(each) for each in waits] == ["cancelled"] * 2
    assert len(pump.began) == 2


def test_a_body_that_blocks_the_event_loop_is_noticed_and_what_waits_there_goes_back(
    url: str, make_pump: MakePump, clock: Clock, gate: Path, log: Log
) -> None:
    """The node went on claiming tasks that never began, and no other node got them."""
    pump = make_pump(url, engine="asyncio", slots=3)
    [blocking] = begin(pump, "async_blocking", gate)
    waiting = pump.add("async_quick", 2)
    pump.turn()
    assert [pump.status(each) for each in waiting] == ["assigned"] * 2

    def passes() -> bool:
        clock.advance(1)
        return pump.status(waiting[0]) == "pending"

    pump.until(passes, "what waits to go back")
    assert log.count(f"no task begins until it gives way: type=async_blocking task={blocking} ") == 1
    pump.turn()
    assert (pump.scheduler.hungry, [pump.status(each) for each in waiting]) == (False, ["pending"] * 2)
    assert str(pump.scheduler.obstacle).endswith(f" s: task {blocking} of type async_blocking")
    gate.touch()
    pump.until(lambda: clock.advance(1) or log.count("the event loop goes on"), "the loop to go on")
    pump.until_status("completed", blocking, *waiting)
    assert (pump.fatal, pump.scheduler.obstacle) == ([], None)


@pytest.mark.parametrize("body", ["async_blocking", "async_blocking_inside"])
@pytest.mark.parametrize("end", ["timeout", "cancel"])
def test_a_node_whose_event_loop_is_stuck_must_end(
    url: str, make_pump: MakePump, clock: Clock, gate: Path, end: str, body: str
) -> None:
    """It lived on, and all async tasks that it claimed starved with it."""
    pump = make_pump(url, engine="asyncio", slots=3)
    [other] = begin(pump, "async_held", gate, execution_timeout=60)
    [blocking] = begin(pump, body, gate, execution_timeout=10)
    if end == "cancel":
        pump.fleet.cancel_tasks([blocking])
        pump.inbox.request_reconcile()
    pump.until(lambda: clock.advance(0.5) or pump.fatal, "the node to end")
    assert pump.fatal == [f"the event loop is held by a body that is to end and cannot be ended: task={blocking}"]
    assert pump.run_states(blocking) == [{"timeout": "failed", "cancel": "cancelled"}[end]]
    assert not pump.scheduler.hungry
    if body == "async_blocking":  # else nobody can tell which of the two it is
        clock.advance(60)
        pump.until(lambda: pump.run_states(other) == ["released"], "the body that could not go on to go back")
        assert task(pump.db, other)["retry"] == 0, "it is not to blame"
    gate.touch()


@pytest.mark.parametrize(
    ("engine", "body", "end"),
    [("asyncio", "async_deaf", "timeout"), ("asyncio", "async_deaf", "cancel"), ("threads", "stubborn", "cancel")],
)
def test_a_node_whose_bodies_do_not_hear_that_they_are_to_end_must_end(
    url: str, make_pump: MakePump, clock: Clock, gate: Path, log: Log, engine: str, body: str, end: str
) -> None:
    """A coroutine may swallow its cancel: its slot was taken for free again, and never was."""
    pump = make_pump(url, engine=engine, slots=1)
    [deaf] = begin(pump, body, gate, execution_timeout=60)
    if end == "cancel":
        pump.fleet.cancel_tasks([deaf])
        pump.inbox.request_reconcile()
    else:
        clock.advance(60)
    state = {"timeout": "failed", "cancel": "cancelled"}[end]
    pump.until(lambda: pump.run_states(deaf) == [state] and log.count("lost") == (end == "cancel"), "the run to end")
    clock.advance(14)
    pump.turn()
    assert (pump.fatal, log.count("keeps its slot")) == ([], 0)
    pump.until(lambda: clock.advance(0.5) or pump.fatal, "the node to end")
    assert pump.fatal == ["all slots are held by bodies that timed out or are not wanted, and cannot be ended"]
    assert log.count("keeps its slot") == 1
    gate.touch()
