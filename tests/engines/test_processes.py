"""What only worker processes can show: they are killed, they crash, and the node lives on."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.secrets import KEY_VARIABLE, keyring, new_key
from crawlfleet.engines.contract import Run
from crawlfleet.executors.contract import Executor, TaskContext
from tests.engines.stage import Stage
from tests.waiting import wait_until

MakeStage = Callable[..., Stage]


def summary(stage: Stage, body: str) -> dict[str, Any]:
    outcome = stage.play(body)
    assert outcome.kind == "ok", outcome.message
    found: dict[str, Any] = json.loads(outcome.summary or "{}")
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_worker_that_dies_by_itself_is_a_crash_and_the_next_run_gets_a_new_one(make_stage: MakeStage) -> None:
    stage = make_stage("processes")
    killed = stage.play("kill_self")
    assert (killed.kind, killed.message) == ("crashed", "the worker process was ended by signal 9 (Killed)")
    left = stage.play("leave")
    assert (left.kind, left.message) == ("crashed", "the worker process ended with exit code 3")
    assert stage.play("noop").kind == "ok"


def test_an_endless_body_ends_soon_after_it_is_interrupted(make_stage: MakeStage) -> None:
    stage = make_stage("processes", slots=1)
    run = stage.run("endless")
    stage.engine.submit([run])
    stage.wait_began(1)
    asked_at = time.monotonic()
    assert stage.engine.interrupt(run)
    assert stage.outcome(run).kind == "cancelled"
    assert time.monotonic() - asked_at < 5
    assert stage.play("noop").kind == "ok"


def test_a_worker_is_kept_for_the_next_body(shared_stage: Callable[[str], Stage]) -> None:
    stage = shared_stage("processes")
    assert summary(stage, "report_self")["pid"] == summary(stage, "report_self")["pid"] != os.getpid()


def test_a_worker_killed_while_idle_costs_no_run(make_stage: MakeStage) -> None:
    stage = make_stage("processes", slots=1)
    pid = summary(stage, "report_self")["pid"]
    stage.wait_all_slots_free()
    os.kill(pid, signal.SIGKILL)
    assert summary(stage, "report_self")["pid"] != pid
    assert len(stage.began) == len(stage.ended) == 2


def test_a_worker_has_no_secret_of_the_node_in_its_environment_and_its_task_has_its_token(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies, and the programs that they started, inherited database URL, API token and the key of sealed tokens."""
    secret = {KEY_VARIABLE: new_key(), "CRAWLFLEET_API_TOKEN": "x" * 32, "CRAWLFLEET_DATABASE_URL": "sqlite:///c.db"}
    for name, value in {**secret, "PGPASSWORD": "x", "OF_THE_BODY": "x"}.items():
        monkeypatch.setenv(name, value)
    account = Account("appsflyer", "alice", token_sealed=keyring(None).seal("very-secret", ("appsflyer", "alice")))
    stage = make_stage("processes")
    run = stage.run("tell_environment")
    sealed = Run(run.assignment_id, run.task, run.executor, TaskContext(run.task, account))
    stage.engine.submit([sealed])
    found = json.loads(stage.outcome(sealed).summary or "{}")
    assert found["digest"] == sha256(b"very-secret").hexdigest()
    assert "OF_THE_BODY" in found["names"]
    assert not {*secret, "PGPASSWORD"} & set(found["names"])


def test_a_worker_loads_no_database_driver(shared_stage: Callable[[str], Stage]) -> None:
    assert summary(shared_stage("processes"), "report_self")["heavy"] == []


def test_a_worker_outlives_signals_that_are_meant_for_the_service(shared_stage: Callable[[str], Stage]) -> None:
    assert summary(shared_stage("processes"), "shielded") == {"alive": True}


def test_async_bodies_run_in_a_worker(shared_stage: Callable[[str], Stage]) -> None:
    assert shared_stage("processes").play("async_noop").kind == "ok"


def test_log_lines_of_a_worker_reach_the_node(make_stage: MakeStage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="crawlfleet"):
        make_stage("processes").play("talk")
    assert "spoke: task=1" in caplog.messages


def test_a_result_that_cannot_be_sent_is_permanent(shared_stage: Callable[[str], Stage]) -> None:
    outcome = shared_stage("processes").play("unpicklable")
    assert outcome.kind == "permanent"
    assert "the result cannot be sent to the node" in (outcome.message or "")


def test_an_executor_that_only_the_node_knows_is_permanent(shared_stage: Callable[[str], Stage]) -> None:
    stage = shared_stage("processes")
    run = stage.run("noop")
    known_here = Run(run.assignment_id, run.task, Executor("only_here", lambda task, context: None), run.context)
    stage.engine.submit([known_here])
    outcome = stage.outcome(known_here)
    assert outcome.kind == "permanent"
    assert "'only_here' is unknown in a worker process" in (outcome.message or "")


def test_a_context_that_cannot_be_sent_ends_the_run(shared_stage: Callable[[str], Stage]) -> None:
    stage = shared_stage("processes")
    run = stage.run("noop")
    run.context.__dict__["_source"] = lambda: None
    stage.engine.submit([run])
    assert stage.outcome(run).kind == "transient"
    assert stage.play("noop").kind == "ok"


def test_interrupting_a_body_ends_the_programs_it_started(make_stage: MakeStage, tmp_path: Path) -> None:
    stage = make_stage("processes")
    run = stage.run("with_child", pids=str(tmp_path / "pids"))
    stage.engine.submit([run])
    wait_until((tmp_path / "pids").exists, what="the program that the body starts")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    stage.engine.interrupt(run)
    for pid in pids:
        wait_until(lambda pid=pid: gone(pid), what=f"process {pid} to end")


def test_stop_ends_the_workers(make_stage: MakeStage) -> None:
    stage = make_stage("processes")
    pid = summary(stage, "report_self")["pid"]
    stage.wait_all_slots_free()
    stage.engine.stop()
    wait_until(lambda: gone(pid), what="the idle worker to end")


def test_no_worker_outlives_a_killed_node(tmp_path: Path) -> None:
    program = """
from tests.engines.stage import Stage
stage = Stage("processes", slots=2)
stage.play("noop")
stage.engine.submit([stage.run("endless"), stage.run("gate", gate="/nonexistent")])
stage.wait_began(3)
print("ready", flush=True)
stage.wait_ended(4)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "ready\n"
        workers = psutil.Process(node.pid).children()
        assert len(workers) == 2
        node.kill()
    for worker in workers:
        wait_until(lambda worker=worker: gone(worker.pid), what="the worker to end")
