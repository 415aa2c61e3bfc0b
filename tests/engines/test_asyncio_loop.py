"""What only the event loop can show."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from crawlfleet.engines.contract import Run
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.model.task_spec import Task
from tests.engines.stage import Stage
from tests.waiting import wait_until

MakeStage = Callable[..., Stage]


def test_hundreds_of_coroutines_run_at_once_in_one_thread(make_stage: MakeStage, tmp_path: Path) -> None:
    stage = make_stage("asyncio", slots=300)
    threads_before = threading.active_count()
    stage.engine.submit([stage.run("gate", gate=str(tmp_path / "gate")) for _ in range(300)])
    stage.wait_began(300)
    assert not stage.ended
    assert threading.active_count() == threads_before
    (tmp_path / "gate").touch()
    stage.wait_ended(300)
    assert stage.most_at_once == 300


def test_a_coroutine_that_cleans_up_is_awaited_before_its_run_ends(make_stage: MakeStage) -> None:
    cleaned = threading.Event()

    async def tidy(task: Task, context: TaskContext) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    stage = make_stage("asyncio")
    task = Task(1, "tidy")
    run = Run(1, task, Executor("tidy", tidy), TaskContext(task))
    stage.engine.submit([run])
    stage.wait_began(1)
    stage.engine.interrupt(run)
    assert stage.outcome(run).kind == "cancelled"
    assert cleaned.is_set()


def test_the_thread_leaves_after_stop(make_stage: MakeStage) -> None:
    stage = make_stage("asyncio")
    stage.engine.submit([stage.run("gate", gate="/nonexistent") for _ in range(5)])
    stage.wait_began(2)
    loops = [thread for thread in threading.enumerate() if thread.name == "asyncio-bodies"]
    stage.engine.stop()
    wait_until(lambda: sum(thread.is_alive() for thread in loops) < len(loops), what="the loop's thread to leave")
    assert len(stage.ended) == 2
