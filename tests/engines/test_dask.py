"""What only a Dask cluster can show: workers and schedulers that go away, and a node that outlives them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.clock import SYSTEM_CLOCK
from crawlfleet.core.errors import CallRefused, ClusterUnreachable, UsageError
from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.engines.dask import messages
from crawlfleet.engines.dask import worker as dask_worker
from crawlfleet.engines.dask.engine import DaskEngine
from crawlfleet.executors.contract import TaskContext
from crawlfleet.executors.outcome import failed
from crawlfleet.executors.permit import RunPermit
from crawlfleet.model.task_spec import Task
from tests.dask_cluster import DaskCluster, shared_dask
from tests.engines.stage import ENGINES, MODULES, Stage
from tests.ports import free_port
from tests.waiting import wait_until

MakeStage = Callable[..., Stage]
TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture
def cluster() -> Iterator[DaskCluster]:
    """A cluster to break."""
    cluster = DaskCluster(workers=2, threads=2)
    yield cluster
    cluster.stop()


@pytest.fixture
def on_cluster(cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch, make_stage: MakeStage) -> MakeStage:
    """Makes stages on that cluster."""
    make = lambda slots, reports: DaskEngine(slots, reports, cluster.address, MODULES)  # noqa: E731
    monkeypatch.setitem(ENGINES, "dask", make)
    return lambda **more: make_stage("dask", **more)


def summary(stage: Stage, body: str, **task_data: Any) -> dict[str, Any]:
    outcome = stage.play(body, **task_data)
    assert outcome.kind == "ok", outcome.message
    found: dict[str, Any] = json.loads(outcome.summary or "{}")
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_runs_of_a_lost_worker_end_as_crashed_and_the_others_go_on(
    cluster: DaskCluster, on_cluster: MakeStage, tmp_path: Path
) -> None:
    stage = on_cluster(slots=4)
    files = {stage.run("with_child", pids=str(tmp_path / f"pids-{number}")): number for number in range(4)}
    stage.engine.submit(list(files))
    workers = {}
    for run, number in files.items():
        wait_until((tmp_path / f"pids-{number}").exists, 30, "the program that the body starts")
        workers[run] = cluster.worker_of(int((tmp_path / f"pids-{number}").read_text().split()[1]))
    assert len(set(workers.values())) == 2
    first = cluster.workers[0]
    first.kill()
    lost = [run for run in files if workers[run] is first]
    for run in lost:
        assert stage.outcome(run).kind == "crashed"
        assert "was lost while the body ran" in (stage.outcome(run).message or "")
    assert len(stage.ended) == len(lost) == 2
    for run in files:
        stage.engine.interrupt(run)
    stage.wait_ended(4)
    assert sorted(stage.began) == sorted(stage.ended), "none began twice"
    assert summary(stage, "report_self")["pid"], "the other worker serves"


def test_an_endless_body_is_killed_with_the_programs_it_started(on_cluster: MakeStage, tmp_path: Path) -> None:
    stage = on_cluster(slots=1)
    run = stage.run("with_child", pids=str(tmp_path / "pids"))
    stage.engine.submit([run])
    wait_until((tmp_path / "pids").exists, 30, "the program that the body starts")
    assert stage.engine.interrupt(run)
    assert stage.outcome(run).kind == "cancelled"
    for pid in (tmp_path / "pids").read_text().split():
        wait_until(lambda pid=int(pid): gone(pid), what=f"process {pid} to end")
    assert stage.play("noop").kind == "ok"


def test_a_body_that_dies_is_a_crash_and_takes_no_worker_along(on_cluster: MakeStage, cluster: DaskCluster) -> None:
    stage = on_cluster()
    killed, left = stage.play("kill_self"), stage.play("leave")
    assert (killed.kind, killed.message) == (
        "crashed",
        "the process on the Dask worker was ended by signal 9 (Killed)",
    )
    assert (left.kind, left.message) == ("crashed", "the process on the Dask worker ended with exit code 3")
    assert all(worker.process.poll() is None for worker in cluster.workers)


def test_a_body_loads_no_database_driver(shared_stage: Callable[[str], Stage]) -> None:
    assert summary(shared_stage("dask"), "report_self")["heavy"] == []


def test_async_bodies_run_on_a_worker(shared_stage: Callable[[str], Stage]) -> None:
    assert shared_stage("dask").play("async_noop").kind == "ok"


def test_log_lines_of_a_body_reach_the_node(make_stage: MakeStage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="crawlfleet"):
        make_stage("dask").play("talk")
    assert "spoke: task=1" in caplog.messages


def test_a_result_that_cannot_be_sent_is_permanent(shared_stage: Callable[[str], Stage]) -> None:
    outcome = shared_stage("dask").play("unpicklable")
    assert outcome.kind == "permanent"
    assert "the result cannot be sent to the node" in (outcome.message or "")


def test_rows_arrive_in_small_pieces(shared_stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawlfleet.engines.dask.engine.PIECE_BYTES", 4096)
    outcome = shared_stage("dask").play("rows", rows=3000)
    assert [row.clicks for row in outcome.rows] == list(range(3000))
    outcome.rows.close()


def test_each_call_is_asked_of_the_node(shared_stage: Callable[[str], Stage]) -> None:
    stage = shared_stage("dask")
    answers: list[tuple[float, ...]] = []
    here = SYSTEM_CLOCK.monotonic()
    for calls, expected in ((3, "ok"), (4, "budget")):
        run = stage.run("call", calls=calls)
        run.context.permit = RunPermit([(here, here + 60, 3.0)] * 3, lambda: here + 60, answers.append)
        stage.engine.submit([run])
        outcome = stage.outcome(run)
        assert outcome.kind == expected or outcome.calls_wanted == 6, outcome.message
    assert [len(seen) for seen in answers] == [1, 2, 3] * 2


def test_a_call_waits_for_its_moment_and_is_not_sent_when_the_run_is_cancelled(make_stage: MakeStage) -> None:
    stage = make_stage("dask")
    here = SYSTEM_CLOCK.monotonic()
    run = stage.run("call", calls=1)
    run.context.permit = RunPermit([(here + 3600, here + 7200, 3.0)], lambda: here + 7200, lambda seen: None)
    stage.engine.submit([run])
    stage.wait_began(1)
    stage.engine.interrupt(run)
    assert stage.outcome(run).kind == "cancelled"
    assert run.context.permit.revoke() == ()


def body_with_leave(*seconds: float) -> tuple[dask_worker.RemoteBody, list[str]]:
    """A body that gets leave for so long, one after the other, and what it tells its node."""
    body = dask_worker.RemoteBody.__new__(dask_worker.RemoteBody)
    said: list[str] = []
    leaves = iter(seconds)

    def ask(message: messages.FromWorker) -> messages.Leave | bool:
        said.append(type(message).__name__)
        return messages.Leave(True, message.asked_at + next(leaves)) if isinstance(message, messages.AskLeave) else True

    body.ask = ask  # type: ignore[method-assign]
    return body, said


def test_leave_that_was_long_on_its_way_is_given_back_and_asked_for_again() -> None:
    """It was counted as a call that was sent, and the run ended, at once to be claimed again."""
    body, said = body_with_leave(-1, 60)
    assert body.take(threading.Event())
    assert said == ["AskLeave", "LeaveUnused", "AskLeave"]


def test_a_node_too_far_away_for_leave_costs_no_call_and_its_task_pauses() -> None:
    body, said = body_with_leave(*[-1] * dask_worker.LEAVE_TRIES)
    with pytest.raises(CallRefused, match="took too long") as refused:
        body.take(threading.Event())
    assert said == ["AskLeave", "LeaveUnused"] * dask_worker.LEAVE_TRIES
    assert failed(refused.value, TaskContext(Task(1, "t"))).retry_after == dask_worker.LEAVE_PAUSE_SECONDS


def test_leave_that_never_arrives_in_time_leaves_the_budget_as_it_was(
    shared_stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of a day counted as used, and none had been sent."""
    monkeypatch.setattr("crawlfleet.engines.dask.engine.LONGEST_LEAVE_SECONDS", -1.0)
    stage = shared_stage("dask")
    here = SYSTEM_CLOCK.monotonic()
    run = stage.run("call", calls=1)
    run.context.permit = permit = RunPermit([(here, here + 60, 0.0)], lambda: here + 60, lambda seen: None)
    stage.engine.submit([run])
    outcome = stage.outcome(run)
    assert (outcome.kind, outcome.retry_after) == ("unpaid", dask_worker.LEAVE_PAUSE_SECONDS)
    assert permit.revoke() == ()


def test_a_token_travels_without_being_shown(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The variables are set on the node alone, after the workers have started."""
    shared_dask()
    monkeypatch.setenv("DASK_TEST_TOKEN", TOKEN)
    monkeypatch.setenv("DASK_TEST_PROXY_PASSWORD", "p/w")
    proxy = "http://user:${DASK_TEST_PROXY_PASSWORD}@proxy.example:3128"
    account = Account("appsflyer", "alice", token_env="DASK_TEST_TOKEN", proxy=proxy)
    with caplog.at_level(logging.DEBUG):
        stage = make_stage("dask")
        run = stage.run("bear")
        context = TaskContext(run.task, account)
        stage.engine.submit([with_account := Run(run.assignment_id, run.task, run.executor, context)])
        outcome = stage.outcome(with_account)
    assert json.loads(outcome.summary or "{}") == {
        "digest": sha256(TOKEN.encode()).hexdigest(),
        "proxy": sha256(b"http://user:p%2Fw@proxy.example:3128").hexdigest(),
    }
    assert "the token is ***" in caplog.text
    assert TOKEN not in caplog.text
    request = messages.RunRequest("topic", "bear", context.with_secrets(), MODULES, {}, "1.0")
    for shown in (request, request.context.account, messages.SealedRequest(TOKEN.encode())):
        assert TOKEN not in repr(shown)
        assert "p%2Fw" not in repr(shown)


def test_a_node_without_the_token_lets_its_task_wait(shared_stage: Callable[[str], Stage]) -> None:
    stage = shared_stage("dask")
    run = stage.run("bear")
    context = TaskContext(run.task, Account("appsflyer", "alice", token_env="NO_SUCH_TOKEN"))
    stage.engine.submit([lacking := Run(run.assignment_id, run.task, run.executor, context)])
    outcome = stage.outcome(lacking)
    assert outcome.kind == "token"
    assert "NO_SUCH_TOKEN is not set on this node" in (outcome.message or "")


def test_a_scheduler_that_goes_away_ends_what_runs_and_the_rest_waits_for_it(
    cluster: DaskCluster, on_cluster: MakeStage, tmp_path: Path
) -> None:
    stage = on_cluster(slots=2)
    running = stage.run("with_child", pids=str(tmp_path / "pids"))
    stage.engine.submit([running])
    wait_until((tmp_path / "pids").exists, 30, "the program that the body starts")
    cluster.stop()
    waiting = [stage.run("noop") for _ in range(10)]
    stage.engine.submit(waiting)
    outcome = stage.outcome(running)
    assert (outcome.kind, "was lost" in (outcome.message or "")) == ("crashed", True), outcome.message
    assert waiting[0].withdraw()
    assert len(stage.began) == 1
    cluster.start_scheduler()
    cluster.add_worker()
    stage.wait_ended(10)
    assert [stage.outcomes[run.assignment_id].kind for run in waiting[1:]] == ["ok"] * 9
    stage.wait_all_slots_free()


def test_a_run_that_no_worker_has_room_for_can_be_withdrawn(on_cluster: MakeStage, tmp_path: Path) -> None:
    stage = on_cluster(slots=6)
    gate = tmp_path / "gate"
    runs = [stage.run("gate", gate=str(gate)) for _ in range(6)]  # the cluster has four threads
    stage.engine.submit(runs)
    stage.wait_began(4)
    assert [run.withdraw() for run in runs].count(True) == 2
    wait_until(lambda: stage.slots.free == 2, what="the slots of withdrawn runs to be free")
    gate.touch()
    stage.wait_ended(4)
    stage.wait_all_slots_free()


def test_no_body_outlives_a_killed_node(tmp_path: Path) -> None:
    program = """
import sys
from tests.engines.stage import MODULES, ENGINES, Stage
from crawlfleet.engines.dask.engine import DaskEngine
ENGINES["dask"] = lambda slots, reports: DaskEngine(slots, reports, sys.argv[1], MODULES)
stage = Stage("dask", slots=2)
stage.engine.submit([stage.run("with_child", pids=sys.argv[2])])
stage.wait_ended(1)
"""
    pids = tmp_path / "pids"
    arguments = [sys.executable, "-c", program, shared_dask().address, str(pids)]
    with subprocess.Popen(arguments, start_new_session=True) as node:
        wait_until(pids.exists, 60, "the program that the body starts")
        node.kill()
    for pid in pids.read_text().split():
        wait_until(lambda pid=int(pid): gone(pid), 30, f"process {pid} to end")


def engine_at(address: str, *modules: str) -> DaskEngine:
    return DaskEngine(Slots(1), Reports(lambda run: None, lambda run, outcome: None), address, modules)


def test_a_scheduler_that_does_not_answer_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawlfleet.engines.dask.connection.CONNECT_SECONDS", 0.5)
    with pytest.raises(ClusterUnreachable, match=r"Dask scheduler tcp://127.0.0.1:\d+ cannot be reached"):
        engine_at(f"tcp://127.0.0.1:{free_port()}").start()


def test_an_address_of_a_kind_that_dask_does_not_know_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="dask_scheduler nonsense://h:1 cannot be used"):
        engine_at("nonsense://h:1").start()


def test_a_cluster_with_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_worker, "VERSION", "99.0")
    with pytest.raises(UsageError, match=r"Dask scheduler has crawlfleet \S+, this node has 99.0: install the same"):
        engine_at(shared_dask().address).start()


def test_a_cluster_that_lacks_an_executor_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Dask worker tcp://\S+ cannot run tasks of this node: .* no_such_module"):
        engine_at(shared_dask().address, "no_such_module").start()


def test_the_thread_leaves_after_stop(make_stage: MakeStage) -> None:
    before = set(threading.enumerate())
    stage = make_stage("dask")
    stage.play("noop")
    loops = [each for each in threading.enumerate() if each not in before and each.name == "asyncio-bodies"]
    assert len(loops) == 1
    stage.engine.stop()
    wait_until(lambda: not loops[0].is_alive(), what="the loop's thread to leave")


def test_a_body_outlives_signals_that_are_meant_for_the_service(shared_stage: Callable[[str], Stage]) -> None:
    assert summary(shared_stage("dask"), "shielded") == {"alive": True}
