"""One line for each event, and none while nothing happens."""

from __future__ import annotations

import re

from tests.conftest import Backend
from tests.fleets import runs
from tests.services.conftest import Clock, Log, MakePump


def test_an_idle_node_says_nothing(backend: Backend, make_pump: MakePump, clock: Clock, log: Log) -> None:
    pump = make_pump(backend.url)
    pump.until_status("completed", *pump.add("quick", 3))
    log.clear()
    for _ in range(5):
        pump.turn()
        clock.let_pass(30)
        assert pump.manager.heartbeat.run_once()
        pump.inbox.request_reconcile()
        pump.manager.monitoring.run_once()
    assert log.lines == []


def test_a_task_that_is_done_has_two_lines(url: str, make_pump: MakePump, log: Log) -> None:
    pump = make_pump(url)
    log.clear()
    [task_id] = pump.add("quick")
    pump.until_status("completed", task_id)
    begin, end = log.lines
    assert begin == f"INFO Executing task {task_id} of type quick"
    assert re.fullmatch(rf"INFO Task {task_id} completed successfully in \d+\.\d\ds", end)


def test_a_task_that_fails_tells_why_and_when_it_comes_back(url: str, make_pump: MakePump, log: Log) -> None:
    pump = make_pump(url)
    log.clear()
    [permanent] = pump.add("raising", task_data={"kind": "permanent"})
    [transient] = pump.add("raising", task_data={"kind": "transient"}, max_retry_count=1)
    pump.until(lambda: pump.scheduler.stats.counters["errors"] == 2, "both ends")
    [first], [second] = runs(pump.db, permanent), runs(pump.db, transient)
    pattern = rf"ERROR Task {permanent} failed: kind=permanent assignment={first['id']} seconds=\d+\.\d\d reason=never"
    assert len([line for line in log.lines if re.fullmatch(pattern, line)]) == 1
    [waits] = [line for line in log.lines if f"Task {transient} waits" in line]
    told = rf"WARNING Task {transient} waits: kind=transient assignment={second['id']}"
    assert re.fullmatch(rf"{told} again_at=\S+[+-]\d\d:\d\d seconds=\S+ reason=later", waits)
    assert len(log.lines) == 4


def test_many_tasks_in_one_turn_are_told_in_one_line(url: str, make_pump: MakePump, log: Log) -> None:
    pump = make_pump(url, slots=30)
    log.clear()
    pump.add("quick", 28)
    pump.add("raising", 2, task_data={"kind": "permanent"})
    pump.turn()
    pump.wait_ended()
    pump.turn()
    assert log.count("INFO Ended 30 runs: fail=2 finish=28") == 1
    assert log.count("ERROR Task") == 2
    assert len(log.lines) == 3
