"""Every legal move works, every illegal one is refused; both come from `MOVES`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from crawlfleet.core.db import Database
from crawlfleet.model import rescue
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.gate import FenceVerdict
from crawlfleet.model.lifecycle import LIVE, MOVES, TaskStatus, diagram
from tests.fleets import Device, add, ending, runs, task

FAR_AHEAD = timedelta(days=400)


def bring(device: Device, state: TaskStatus) -> tuple[int, object]:
    """A task in this state, and its claim while it is live."""
    [task_id] = add(device.db)
    if state is TaskStatus.PENDING:
        return task_id, None
    [claim] = device.claim()
    if state is TaskStatus.RUNNING:
        device.start([claim])
    elif state is TaskStatus.COMPLETED:
        device.end(ending(claim))
    elif state is TaskStatus.FAILED:
        device.end(ending(claim, "permanent"))
    elif state is TaskStatus.CANCELLED:
        rescue.cancel(device.db, [task_id])
    return task_id, claim


def expire(device: Device, crashes: int = 0) -> None:
    device.register()


ACTIONS: dict[str, Callable[[Device, int, object], object]] = {
    "claim": lambda d, t, c: d.claim(),
    "start": lambda d, t, c: d.start([c]),
    "finish": lambda d, t, c: d.end(ending(c)),
    "fail": lambda d, t, c: d.end(ending(c, "permanent")),
    "retry": lambda d, t, c: d.end(ending(c, "transient")),
    "release": lambda d, t, c: d.end(ending(c, "released")),
    "expire": lambda d, t, c: d.register(),
    "bury": lambda d, t, c: d.register(),
    "cancel": lambda d, t, c: rescue.cancel(d.db, [t]),
    "reject": lambda d, t, c: rescue.reject_unknown_types(d.db, {"other"}),
    "revive": lambda d, t, c: rescue.revive(d.db, [t]),
}
NEED_CLAIM = {"start", "finish", "fail", "retry", "release"}
CASES = [(name, state) for name in MOVES for state in TaskStatus]


def crash_often(device: Device, task_id: int) -> None:
    with device.db.plain.begin() as connection:
        connection.exec_driver_sql(f"UPDATE cl_crawl_task SET crash_count = 20 WHERE id = {task_id}")


@pytest.mark.parametrize(("name", "state"), CASES, ids=[f"{name}-from-{state}" for name, state in CASES])
def test_a_move_happens_exactly_from_its_states(device: Device, name: str, state: TaskStatus) -> None:
    move = MOVES[name]
    task_id, claim = bring(device, state)
    if name == "bury":
        crash_often(device, task_id)
        if state is TaskStatus.ASSIGNED:
            pytest.skip("a run that never began cannot have killed its runner: it expires")
    if claim is None and name in NEED_CLAIM:
        # The illegal attempt of a run that was never made: a token from nowhere.
        other = Device(device.db, "d2", strategy=device.strategy)
        other.register()
        add(device.db, task_type="elsewhere")
        other.types = ("elsewhere",)
        [foreign] = other.claim()
        claim = type(foreign)(foreign.assignment_id, foreign.task.__class__(id=task_id, task_type="noop"), None)
    before = task(device.db, task_id)
    ACTIONS[name](device, task_id, claim)
    after = task(device.db, task_id)
    if state in move.task_from:
        assert after["status"] == move.task_to
        found = runs(device.db, task_id)
        if move.run_to is not None and found:
            assert found[-1]["status"] == move.run_to
        assert (after["assignment_id"] is not None) == (after["status"] in LIVE)
    else:
        assert after["status"] == before["status"]
        assert after["assignment_id"] == before["assignment_id"]


def test_a_finished_run_is_success_for_the_same_ending_and_stale_for_another_run(device: Device, db: Database) -> None:
    add(db)
    [first] = device.claim()
    assert device.end(ending(first))[0].verdict is FenceVerdict.WRITTEN
    assert device.end(ending(first))[0].verdict is FenceVerdict.ALREADY
    [task_id] = add(db)
    [second] = device.claim()
    device.register()  # expires it
    assert device.end(ending(second))[0].verdict is FenceVerdict.STALE
    assert task(db, task_id)["status"] == TaskStatus.PENDING


def test_the_diagram_shows_every_move() -> None:
    text = diagram()
    for name, move in MOVES.items():
        for state in move.task_from:
            assert f"{state} --> {move.task_to}: {name}" in text


def test_the_architecture_page_holds_this_diagram() -> None:
    with open("ARCHITECTURE.md", encoding="utf-8") as page:
        assert diagram() in page.read()


def test_an_offline_device_cannot_claim(device: Device, db: Database) -> None:
    from crawlfleet.core.errors import LeaseLost

    add(db)
    with db.read() as connection:
        late = connection.now + FAR_AHEAD
    assert DeviceDAO(db).mark_silent_offline(300, late) == [("d1", 0)]
    with pytest.raises(LeaseLost):
        device.claim()
