"""`tasks logs`: one task's lines, live or not, and a search in all of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.db import Database
from tests.cli.console import Console
from tests.fleets import Device, ending
from tests.nodes import ROOT, NodeProcess
from tests.services.test_task_logs import clock_of, store_lines


def speak(console: Console) -> int:
    """A task that ran, and what it said."""
    task_id = console.add("--type", "noop")

    def work(db: Database) -> None:
        device = Device(db)
        device.register()
        [claim] = device.claim()
        device.start([claim])
        run = claim.assignment_id
        store_lines(db, clock_of(db), (task_id, run, 0, 20, "page 1"), (task_id, run, 0, 30, "Slow\n  trace \x1b[31m"))
        device.end(ending(claim, "permanent", message="no such app"))

    console.on_database(work)
    return task_id


def test_the_log_of_a_task_is_printed_in_order(any_console: Console) -> None:
    task_id = speak(any_console)
    said = any_console("tasks", "logs", task_id)
    assert said.code == 0
    zone, *lines = [line[20:] if line[0].isdigit() else line for line in said.out.splitlines()]
    assert zone.startswith("times are in UTC"), "first, since nobody sees the end of what is followed"
    assert lines == [
        "INFO     d1  assigned to d1",
        "INFO     d1  began",
        "INFO     d1  page 1",
        "WARNING  d1  Slow",
        "      trace  [31m",
        "ERROR    d1  failed: permanent: no such app",
    ]
    found = any_console("tasks", "logs", task_id, "--json").json
    assert [(each["level"], each["message"]) for each in found][2:4] == [
        ("info", "page 1"),
        ("warning", "Slow\n  trace \x1b[31m"),
    ]
    assert set(found[2]) == {"task_id", "assignment_id", "device_id", "at", "level", "message"}
    assert found[2]["at"].endswith("Z")
    assert len(any_console("tasks", "logs", task_id, "--level", "warning", "--json").json) == 2
    assert len(any_console("tasks", "logs", task_id, "--text", "SLOW", "--json").json) == 1
    [last] = any_console("tasks", "logs", task_id, "--limit", 1, "--json").json
    assert last["message"] == "failed: permanent: no such app"


def test_lines_of_all_tasks_are_searched(any_console: Console) -> None:
    task_id = speak(any_console)
    said = any_console("tasks", "logs", "--text", "slow")
    assert f"WARNING  task {task_id}  Slow" in said.out
    found = any_console("tasks", "logs", "--level", "error", "--json").json
    assert [(each["task_id"], each["message"]) for each in found] == [(task_id, "failed: permanent: no such app")]
    nothing = any_console("tasks", "logs", "--text", "nowhere")
    assert (nothing.out, nothing.err) == ("", "no such line\n")
    assert any_console("tasks", "logs", task_id, "--text", "nowhere").err == "no such line\n"
    newest = any_console("tasks", "logs", "--limit", 2)
    assert len([line for line in newest.out.splitlines() if line[0].isdigit()]) == 2
    assert "these are the newest 2" in newest.err


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (1, ["99"], "there is no task 99"),
        (2, ["--follow"], "--follow goes with the id of a task"),
        (2, ["0"], "must be a whole number from 1"),
        (2, ["--level", "eror"], "did you mean error?"),
    ],
)
def test_wrong_use_is_told(ready: Console, code: int, arguments: list[str], message: str) -> None:
    assert message in ready.refuses(code, "tasks", "logs", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_running_task_is_followed_until_it_is_over(ready: Console, tmp_path: Path, engine: str) -> None:
    """A node in a process of its own, its worker processes included, and a reader in another."""
    gate = tmp_path / "gate"
    data = json.dumps({"gate": str(gate)})
    task_id = ready.add("--type", "chatting", "--data", data)
    command = [sys.executable, str(ROOT / "main.py"), "tasks", "logs", str(task_id), "--follow", "--json", "--database"]
    options = ("--executors", "tests.services.bodies", "--engine", engine)
    with NodeProcess(tmp_path, ready.url, *options) as node:
        reader = subprocess.Popen([*command, ready.url], stdout=subprocess.PIPE, text=True)
        assert reader.stdout is not None
        heard: list[dict[str, Any]] = []
        try:
            while not heard or heard[-1]["message"] != "waits for the gate":
                heard.append(json.loads(reader.stdout.readline()))
            assert not gate.exists()
            gate.touch()
            heard += [json.loads(line) for line in reader.stdout]
            assert reader.wait(30) == 0
        finally:
            reader.kill()
            reader.wait()
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
    messages = ["assigned to node-1", "began", "waits for the gate", "the gate is open", "completed"]
    assert [each["message"] for each in heard] == messages


@pytest.mark.slow
def test_a_node_that_stops_keeps_what_was_said_last(ready: Console, tmp_path: Path) -> None:
    task_id = ready.add("--type", "chatting", "--data", json.dumps({"gate": str(tmp_path)}))
    with NodeProcess(tmp_path, ready.url, "--executors", "tests.services.bodies", "--until-idle") as node:
        assert node.wait() == 0
    found = ready("tasks", "logs", task_id, "--json").json
    assert [each["message"] for each in found][2:] == ["waits for the gate", "the gate is open", "completed"]
