"""What every engine promises, tried on each of them."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crawlfleet.executors.outcome import SPOOL_ROWS
from crawlfleet.executors.spool import Spool
from tests.engines.bodies import ERRORS
from tests.engines.stage import ENGINES, Stage
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize("engine", list(ENGINES))
MakeStage = Callable[..., Stage]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file whose appearance lets `gate` bodies end."""
    return tmp_path / "gate"


def test_bodies_begin_in_the_order_of_submission(make_stage: MakeStage, engine: str) -> None:
    stage = make_stage(engine, slots=1)
    runs = [stage.run("noop") for _ in range(60)]
    stage.engine.submit(runs[:25])
    stage.engine.submit(runs[25:])
    stage.wait_ended(60)
    assert stage.began == stage.ended == [run.assignment_id for run in runs]


def test_each_run_is_reported_begun_once_and_ended_once(make_stage: MakeStage, engine: str) -> None:
    stage = make_stage(engine, slots=3)
    runs = [stage.run("noop") for _ in range(100)]
    for run in runs:
        stage.engine.submit([run])
    stage.wait_ended(100)
    stage.wait_all_slots_free()
    expected = [run.assignment_id for run in runs]
    assert sorted(stage.began) == sorted(stage.ended) == expected
    assert all(run.began_at and run.ended_at and run.began_at <= run.ended_at for run in runs)
    assert {outcome.kind for outcome in stage.outcomes.values()} == {"ok"}


def test_bodies_fill_the_slots_and_never_more(make_stage: MakeStage, engine: str, gate: Path) -> None:
    stage = make_stage(engine, slots=3)
    stage.engine.submit([stage.run("gate", gate=str(gate)) for _ in range(8)])
    stage.wait_began(3)
    gate.touch()
    stage.wait_ended(8)
    assert stage.most_at_once == 3
    stage.wait_all_slots_free()


def test_a_withdrawn_run_is_never_begun_and_takes_no_slot(make_stage: MakeStage, engine: str, gate: Path) -> None:
    stage = make_stage(engine, slots=1)
    first, second, third = stage.run("gate", gate=str(gate)), stage.run("noop"), stage.run("noop")
    stage.engine.submit([first, second, third])
    stage.wait_began(1)
    assert second.withdraw()
    assert not first.withdraw()
    gate.touch()
    stage.wait_ended(2)
    assert stage.ended == [first.assignment_id, third.assignment_id]
    stage.wait_all_slots_free()


def test_an_interrupted_body_ends_once_as_cancelled_and_frees_its_slot(
    make_stage: MakeStage, engine: str, gate: Path
) -> None:
    stage = make_stage(engine, slots=1)
    run, next_run = stage.run("gate", gate=str(gate)), stage.run("noop")
    stage.engine.submit([run, next_run])
    stage.wait_began(1)
    assert stage.engine.interrupt(run) is (engine != "threads")
    stage.engine.interrupt(run)
    stage.wait_ended(2)
    assert stage.outcomes[run.assignment_id].kind == "cancelled"
    assert stage.outcomes[next_run.assignment_id].kind == "ok"
    stage.wait_all_slots_free()
    assert len(stage.ended) == 2


def test_a_run_interrupted_right_after_it_was_submitted_ends_or_never_begins(
    make_stage: MakeStage, engine: str
) -> None:
    stage = make_stage(engine, slots=2)
    runs = [stage.run("gate", gate="/nonexistent") for _ in range(12)]
    withdrawn = 0
    for run in runs:
        stage.engine.submit([run])
        if run.withdraw():
            withdrawn += 1
        else:
            stage.engine.interrupt(run)
    stage.wait_ended(len(runs) - withdrawn)
    stage.wait_all_slots_free()
    assert sorted(stage.began) == sorted(stage.ended)
    assert {outcome.kind for outcome in stage.outcomes.values()} <= {"cancelled"}


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("permanent", "permanent", "never"),
        ("transient", "transient", "later"),
        ("quota", "quota", "used up"),
        ("auth", "auth", "refused"),
        ("usage", "permanent", "UsageError: wrong"),
        ("bug", "permanent", "ZeroDivisionError: division by zero"),
        ("exit", "transient", "SystemExit: 3"),
        ("keyboard", "transient", "KeyboardInterrupt"),
        ("memory", "transient", "MemoryError"),
        ("cancelled", "cancelled", "the run was cancelled"),
    ],
)
def test_an_exception_ends_the_run_with_its_kind(
    shared_stage: Callable[[str], Stage], engine: str, error: str, kind: str, message: str
) -> None:
    outcome = shared_stage(engine).play("raise", error=error)
    assert (outcome.kind, outcome.message) == (kind, message)
    assert outcome.retry_after == getattr(ERRORS[error], "retry_after", None)
    assert outcome.quota_scope == ("daily" if error == "quota" else None)
    assert shared_stage(engine).play("noop").kind == "ok", "the engine lives on"


def test_many_rows_arrive_as_a_spool_and_few_as_a_list(shared_stage: Callable[[str], Stage], engine: str) -> None:
    few = shared_stage(engine).play("rows", rows=SPOOL_ROWS)
    assert isinstance(few.rows, list)
    assert len(few.rows) == SPOOL_ROWS
    many = shared_stage(engine).play("rows", rows=3 * SPOOL_ROWS)
    assert isinstance(many.rows, Spool)
    assert [row.clicks for row in many.rows] == list(range(3 * SPOOL_ROWS))
    assert json.loads(many.summary or "") == {"synced_records": 3 * SPOOL_ROWS}
    many.rows.close()


def test_a_stopped_engine_begins_nothing_more_and_may_be_stopped_again(
    make_stage: MakeStage, engine: str, gate: Path
) -> None:
    stage = make_stage(engine, slots=1)
    stage.engine.submit([stage.run("gate", gate=str(gate)), stage.run("noop")])
    stage.wait_began(1)
    stage.engine.stop()
    stage.engine.stop()
    stage.engine.submit([stage.run("noop")])
    stage.wait_ended(1)
    stage.wait_all_slots_free()
    assert [outcome.kind for outcome in stage.outcomes.values()] == ["cancelled"]
    assert len(stage.began) == 1


def test_an_engine_that_was_never_started_can_be_stopped(engine: str) -> None:
    from crawlfleet.engines.contract import Reports, Slots

    ENGINES[engine](Slots(1), Reports(lambda run: None, lambda run, outcome: None)).stop()


def test_thousands_of_runs_complete_in_flat_memory(make_stage: MakeStage, engine: str) -> None:
    stage = make_stage(engine, slots=4)

    def play(count: int) -> int:
        stage.engine.submit([stage.run("noop") for _ in range(count)])
        stage.wait_ended(count)
        stage.wait_all_slots_free()
        stage.forget()
        gc.collect()
        return sys.getallocatedblocks()

    before = play(500)
    assert play({"processes": 2000, "dask": 1000}.get(engine, 10_000)) - before < 1500


def test_engines_share_their_slots_in_turn(make_stage: MakeStage, engine: str, gate: Path) -> None:
    other = "asyncio" if engine != "asyncio" else "threads"
    stage = make_stage(engine, other, slots=3)
    names = [engine, other] * 30
    runs = {name: [stage.run("noop", engine=name) for each in names if each == name] for name in set(names)}
    holders = [stage.run("gate", engine=name, gate=str(gate)) for name in (engine, other, engine)]
    for name, holder in zip((engine, other, engine), holders, strict=True):
        stage.engines[name].submit([holder])
    stage.wait_began(3)
    for name, some in runs.items():
        stage.engines[name].submit(some)
    gate.touch()
    stage.wait_ended(63)
    assert stage.most_at_once <= 3
    wait_until(lambda: stage.slots.free == 3, what="all slots to be free")


def test_a_long_queue_of_one_engine_does_not_keep_another_waiting(
    make_stage: MakeStage, engine: str, gate: Path
) -> None:
    other = "asyncio" if engine != "asyncio" else "threads"
    stage = make_stage(engine, other, slots=1)
    one = stage.run("noop", engine=other)
    stage.engines[engine].submit([stage.run("gate", engine=engine, gate=str(gate))])
    stage.wait_began(1)
    stage.engines[engine].submit([stage.run("noop", engine=engine) for _ in range(100)])
    stage.engines[other].submit([one])
    wait_until(lambda: stage.slots.waiting == 2, what="both engines to stand in line")
    gate.touch()
    stage.wait_ended(102)
    assert stage.ended.index(one.assignment_id) <= 2
