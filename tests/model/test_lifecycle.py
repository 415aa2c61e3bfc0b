"""Every legal move works, every illegal one is refused; every kind of ending does what its rule says.

The cases come from `MOVES` and `ENDINGS`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import pytest

import crawlfleet
from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.endings import EndingKind
from crawlfleet.model import rescue
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.claims import Claim
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.gate import FenceVerdict
from crawlfleet.model.lifecycle import (
    ENDED,
    ENDINGS,
    LIVE,
    MOVES,
    AccountStatus,
    AssignmentStatus,
    Cost,
    DeviceStatus,
    TaskStatus,
    WaitsFor,
    diagram,
    endings_table,
)
from crawlfleet.model.next_move import CRASH_CAP
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
    "revive": lambda d, t, c: rescue.revive(d.db, [t]),
}
NEED_CLAIM = {"start", "finish", "fail", "retry", "release"}
CASES = [(name, state) for name in MOVES for state in TaskStatus]


def crash_often(device: Device, task_id: int, crashes: int = CRASH_CAP, attempts: int = 0) -> None:
    """So many of the task's runs crashed, and so many of its attempts failed."""
    with device.db.plain.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE cl_crawl_task SET crash_count = {crashes}, retry = {attempts} WHERE id = {task_id}"
        )


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


def begun(device: Device) -> tuple[int, Claim]:
    """A task of an account, whose body began."""
    AccountDAO(device.db).add(Account("appsflyer", "alice", token_env="T"))
    device.types = ("app_data",)
    [task_id] = add(device.db, task_type="app_data", source="appsflyer", username="alice", max_retry_count=1)
    [claim] = device.claim()
    device.start([claim])
    return task_id, claim


@pytest.mark.parametrize("kind", EndingKind)
def test_each_kind_of_ending_makes_the_move_of_its_rule(device: Device, kind: EndingKind) -> None:
    rule = ENDINGS[kind]
    task_id, claim = begun(device)
    now = datetime.now(UTC)
    told = ending(claim, kind, started_at=now, message="so it ended")
    [ended] = device.end(told, now=now)
    found, [run] = task(device.db, task_id), runs(device.db, task_id)
    assert ended.move == rule.move
    assert (found["status"], run["status"]) == (MOVES[rule.move].task_to, MOVES[rule.move].run_to)
    assert found["error_kind"] == run["error_kind"] == (None if kind is EndingKind.OK else kind)
    assert (found["retry"], found["crash_count"]) == (rule.cost is Cost.ATTEMPT, rule.cost is Cost.CRASH)
    [again] = device.end(told, now=now)
    assert again.verdict is (FenceVerdict.ALREADY if run["status"] in rule.own_ends else FenceVerdict.STALE)


@pytest.mark.parametrize("kind", EndingKind)
def test_each_kind_of_ending_makes_the_other_move_of_its_rule_when_all_is_spent(
    device: Device, kind: EndingKind
) -> None:
    rule = ENDINGS[kind]
    task_id, claim = begun(device)
    crash_often(device, task_id, attempts=1)
    [ended] = device.end(ending(claim, kind, started_at=datetime.now(UTC)))
    assert ended.move == (rule.when_spent or rule.move)
    assert task(device.db, task_id)["status"] == MOVES[rule.when_spent or rule.move].task_to


@pytest.mark.parametrize("kind", [kind for kind in EndingKind if MOVES[ENDINGS[kind].move].task_to not in ENDED])
def test_a_task_that_goes_back_to_the_queue_waits_for_what_the_rule_says(device: Device, kind: EndingKind) -> None:
    waits_for = ENDINGS[kind].waits_for
    task_id, claim = begun(device)
    crash_often(device, task_id, 1)
    now = datetime.now(UTC)
    [ended] = device.end(ending(claim, kind, started_at=now), now=now)
    [account] = AccountDAO(device.db).find("alice")
    assert (account["status"] == AccountStatus.TOKEN_EXPIRED) == (waits_for is WaitsFor.PERSON)
    assert ended.next_run_at is not None
    if waits_for is WaitsFor.RETRY or ENDINGS[kind].pause_seconds:
        assert ended.next_run_at > now
    else:  # nothing else was said, so that it may run as soon as what it waits for is there
        assert ended.next_run_at <= now


@pytest.mark.parametrize("kind", [kind for kind in EndingKind if ENDINGS[kind].waits_for is WaitsFor.PAUSE])
def test_a_pause_is_as_long_as_the_ending_says(device: Device, kind: EndingKind) -> None:
    _, claim = begun(device)
    now = datetime.now(UTC)
    [ended] = device.end(ending(claim, kind, retry_after=90.0), now=now)
    assert ended.next_run_at == now + timedelta(seconds=90)


def test_the_rules_of_the_endings_agree_with_the_moves() -> None:
    assert list(ENDINGS) == list(EndingKind)
    for rule in ENDINGS.values():
        moves = {MOVES[name] for name in (rule.move, rule.when_spent) if name is not None}
        assert all(move.run_to is not None and move.task_from == LIVE for move in moves)
        assert (rule.when_spent is None) <= (rule.cost is None or MOVES[rule.move].task_to in ENDED)
        assert set(rule.own_ends) <= {move.run_to for move in MOVES.values()}
        if rule.own_ends:
            assert {move.run_to for move in moves} <= set(rule.own_ends)


def test_the_page_of_the_tables_shows_each_kind_of_ending() -> None:
    with open("docs/tables.md", encoding="utf-8") as page:
        assert endings_table() in page.read()


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


SPELLED_IN = {"core/endings.py", "model/lifecycle.py", "model/schema.py"}
OTHER_MEANINGS = {  # (file, word): what is spelled like a state or a kind, and is none
    ("api/app.py", "ok"),  # the health check of the HTTP API
    ("api/guard.py", "expired"),  # a token's end
    ("api/strangers.py", "expired"),
    ("cli/devices_cli.py", "running"),  # a column
    ("engines/dask/connection.py", "running"),  # a state of Dask's client
    ("insights/forecast.py", "quota"),  # what a forecast depends on
    ("insights/overview.py", "offline"),  # a field of the answer
    ("insights/overview.py", "online"),
    ("model/device_heartbeat.py", "running"),  # a column
    ("sandbox/apple/invented_data.py", "released"),  # when an app was
    ("sandbox/moods.py", "expired"),  # a mood of the simulated vendor
    ("sandbox/server.py", "expired"),
    ("services/dispatcher.py", "assigned"),  # a counter
}


def test_states_and_kinds_are_spelled_in_one_place() -> None:
    enums: tuple[type[StrEnum], ...] = (TaskStatus, AssignmentStatus, DeviceStatus, AccountStatus, EndingKind)
    words = {str(member) for enum in enums for member in enum} - {"proxy", "token"}  # names of columns and settings
    package = Path(crawlfleet.__file__).parent
    spelled = set()
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name not in SPELLED_IN and "migrations/" not in name:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
            spelled |= {(name, word) for word in words if word in texts or any(f"'{word}'" in text for text in texts)}
    assert spelled == OTHER_MEANINGS
