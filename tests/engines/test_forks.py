"""Bodies that fork: only the process that the body was called in may go on with the node's work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.executors.permit import RunPermit
from tests.engines.stage import ENGINES, Stage
from tests.waiting import wait_until

MakeStage = Callable[..., Stage]


def summary(stage: Stage, body: str, **task_data: Any) -> dict[str, Any]:
    outcome = stage.play(body, **task_data)
    assert outcome.kind == "ok", outcome.message
    found: dict[str, Any] = json.loads(outcome.summary or "{}")
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_child_that_returns_ends_and_runs_nothing_a_second_time(
    make_stage: MakeStage, tmp_path: Path, engine: str
) -> None:
    """In threads it went on as a second node; in worker processes its result became that of another task."""
    stage = make_stage(engine, slots=1)
    marks = tmp_path / "marks"
    forking = stage.run("fork")
    marking = [stage.run("mark", marks=str(marks)) for _ in range(5)]
    stage.engine.submit([forking, *marking])
    found = json.loads(stage.outcome(forking).summary or "{}")
    assert (found["child"] > 0, found["status"]) == (True, 0)
    stage.wait_ended(6)
    assert [stage.outcomes[run.assignment_id].summary for run in marking] == [None] * 5
    assert marks.read_text().split() == [str(run.task.id) for run in marking]


@pytest.mark.parametrize(("child", "status"), [("exits", 7), ("raises", 1)])
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_how_a_child_ends_is_told_by_its_exit_code(
    shared_stage: Callable[[str], Stage], engine: str, child: str, status: int
) -> None:
    assert summary(shared_stage(engine), "fork", child=child)["status"] == status


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_child_neither_calls_nor_speaks_for_its_run(
    shared_stage: Callable[[str], Stage], caplog: pytest.LogCaptureFixture, engine: str
) -> None:
    """What it wrote on its parent's connection would mix with its parent's words."""
    stage = shared_stage(engine)
    run = stage.run("fork", child="calls")
    here = time.monotonic()
    run.context.permit = permit = RunPermit([(here, here + 60, 3.0)], lambda: here + 60, lambda seen: None)
    stage.engine.submit([run])
    assert json.loads(stage.outcome(run).summary or "{}")["status"] == 1
    assert permit.revoke() == ()
    assert "said by a child" not in caplog.text


def test_a_child_of_an_async_body_ends_when_it_gives_way(make_stage: MakeStage, tmp_path: Path) -> None:
    """It went on with the loop of its parent, and with all other bodies there."""
    stage = make_stage("asyncio", slots=8)
    marks = tmp_path / "marks"
    marking = [stage.run("mark", marks=str(marks)) for _ in range(5)]
    forking = [stage.run("fork", child="awaits") for _ in range(2)]
    stage.engine.submit([*marking[:2], *forking, *marking[2:]])
    stage.wait_ended(7)
    assert sorted(marks.read_text().split()) == sorted(str(run.task.id) for run in marking)


def test_sigterm_ends_a_child_of_a_body_in_a_worker(shared_stage: Callable[[str], Stage]) -> None:
    """A worker leaves SIGTERM to its node, and its children did, too: a body could not end them."""
    assert summary(shared_stage("processes"), "fork", child="waits")["status"] == -15


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_thread_that_a_body_left_behind_spends_no_call_of_the_next_run(
    make_stage: MakeStage, tmp_path: Path, engine: str
) -> None:
    stage = make_stage(engine, slots=1)
    names = {name: str(tmp_path / name) for name in ("gate", "word", "end")}
    assert stage.play("leave_thread", gate=names["gate"], word=names["word"]).kind == "ok"
    run = stage.run("gate", gate=names["end"])
    here = time.monotonic()
    run.context.permit = permit = RunPermit([(here, here + 60, 3.0)], lambda: here + 60, lambda seen: None)
    stage.engine.submit([run])
    stage.wait_began(2)
    Path(names["gate"]).touch()
    if engine == "processes":
        wait_until(Path(names["word"]).exists, what="the word of the thread")
        assert Path(names["word"]).read_text() == "cancelled"
    Path(names["end"]).touch()
    assert stage.outcome(run).kind == "ok"
    assert permit.revoke() == ()
