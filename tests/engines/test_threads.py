"""What only threads can show."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

from tests.engines.stage import Stage
from tests.waiting import wait_until

MakeStage = Callable[..., Stage]


def test_threads_are_made_when_needed_and_leave_after_stop(make_stage: MakeStage) -> None:
    others = set(threading.enumerate())  # of earlier tests, some of whose bodies never end

    def bodies() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("body-")} - others

    stage = make_stage("threads", slots=4)
    assert not bodies()
    stage.play("noop")
    stage.wait_all_slots_free()
    assert len(bodies()) == 1
    stage.engine.stop()
    wait_until(lambda: not bodies(), what="threads to leave")


def test_a_body_that_never_ends_does_not_keep_the_program_alive() -> None:
    program = """
import threading
from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.engines.threads import ThreadsEngine
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.model.task_spec import Task

began = threading.Event()
engine = ThreadsEngine(Slots(1), Reports(lambda run: began.set(), lambda run, outcome: None), 1)
task = Task(1, "endless")
engine.submit([Run(1, task, Executor("endless", lambda task, context: threading.Event().wait()), TaskContext(task))])
assert began.wait(10)
engine.stop()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
