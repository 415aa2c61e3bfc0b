from __future__ import annotations

import re
from typing import Any

import pytest

from crawlfleet.core.db import Database
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from tests.cli.console import Console
from tests.fleets import Device

BEAT = Beat(12.5, 40.0, 50.0, "good", 1, 0.75, 2, 0.0, {})


def register(console: Console, device_id: str = "d1", claims: int = 0, **more: Any) -> None:
    """A device that is online and beats, and has claimed this many tasks."""

    def work(db: Database) -> None:
        device = Device(db, device_id, **more)
        DeviceHeartbeatDAO(db).beat(device_id, device.register(), BEAT)
        device.claim(slots=claims)

    console.on_database(work)


def stop(console: Console, device_id: str = "d1") -> None:
    def work(db: Database) -> None:
        [device] = [row for row in DeviceDAO(db).find() if row["device_id"] == device_id]
        DeviceDAO(db).set_offline(device_id, device["epoch"])

    console.on_database(work)


def test_devices_are_listed_with_their_latest_beat(any_console: Console) -> None:
    assert any_console("devices", "list", "--json").json == []
    any_console.add("--type", "noop")
    register(any_console, claims=1)
    [found] = any_console("devices", "list", "--json").json
    assert (found["device_id"], found["status"], found["current_tasks"], found["draining"]) == (
        "d1",
        "online",
        1,
        False,
    )
    assert (found["heartbeat"]["cpu_usage"], found["heartbeat"]["system_load"]) == (12.5, 0.75)
    assert found["last_heartbeat"].endswith("Z")
    header, line = any_console("devices", "list").out.splitlines()
    assert header.split()[:6] == ["device", "status", "running", "slots", "last", "beat"]
    assert re.match(r"d1 +online +1 +5 +(now|\d+ s ago) +standalone ", line)
    assert "12.5" in line


def test_a_device_is_drained_and_resumed(any_console: Console) -> None:
    register(any_console)
    any_console.add("--type", "noop")
    assert "claims nothing more" in any_console("devices", "drain", "d1").out
    assert "online, draining " in any_console("devices", "list").out
    assert any_console("devices", "resume", "d1").out == "device d1 claims again\n"
    assert any_console("devices", "list", "--json").json[0]["draining"] is False
    any_console("devices", "drain", "d1")
    assert any_console("devices", "drain", "d1", "--undo").out == "device d1 claims again\n"
    assert any_console("devices", "list", "--json").json[0]["draining"] is False


def test_labels_of_devices_are_shown(ready: Console) -> None:
    register(ready, "d1", labels=("eu", "proxy:2"))
    register(ready, "d2")
    header, first, second = ready("devices", "list").out.splitlines()
    assert "labels" in header
    assert "eu, proxy:2" in first
    assert second.startswith("d2")
    assert "eu" not in second
    assert "eu, proxy:2" in ready("distribute", "status").out


def test_only_an_offline_device_is_removed_unless_it_is_forced(any_console: Console) -> None:
    register(any_console)
    assert "d1 is online" in any_console.refuses(1, "devices", "remove", "d1")
    stop(any_console)
    assert any_console("devices", "remove", "d1").out == "device d1 removed\n"
    assert any_console("devices", "list", "--json").json == []
    any_console.add("--type", "noop")
    register(any_console, claims=1)
    said = any_console("devices", "remove", "--force", "d1")
    assert said.out == "device d1 removed, 1 task went back to the queue\n"
    assert any_console("devices", "list", "--json").json == []
    assert any_console("tasks", "stats", "--json").json["pending"] == 1


def test_devices_of_an_older_version_are_marked(any_console: Console) -> None:
    register(any_console, "new", version="0.10.0")
    register(any_console, "older", version="0.9.2")
    lines = any_console("devices", "list").out.splitlines()
    assert "0.10.0" in lines[1]
    assert "(old)" not in lines[1]
    assert "0.9.2 (old)" in lines[2]
    verdict = "versions differ: devices run 0.9.2, 0.10.0; bring all to 0.10.0"
    assert any_console("distribute", "status", "--json").json["verdict"] == verdict
    stop(any_console, "older")
    found = any_console("devices", "list", "--json").json
    assert [each["is_outdated"] for each in found] == [False, False]


def test_the_verdict_says_what_is_wrong_first(any_console: Console) -> None:
    any_console.add("--type", "noop")
    register(any_console, "m1", mode="master")
    nothing = "nothing begins: 1 task is open, and the devices online drain or are masters"
    assert any_console("distribute", "status").out.splitlines()[-1] == nothing
    register(any_console, "w1", mode="worker", version="1")
    any_console("tasks", "pause")
    verdict = any_console("distribute", "status").out.splitlines()[-1]
    assert verdict.startswith("waits for a person: 1 task: the queue is paused; versions differ: ")


def test_a_pause_is_told_although_nothing_is_queued(ready: Console) -> None:
    """The verdict kept silent about it until the night's tasks stood still."""
    ready("tasks", "pause", "--reason", "server moves")
    paused = "the queue is paused (server moves): nothing begins before `tasks resume`"
    assert ready("distribute", "status", "--json").json["verdict"] == paused
    ready("tasks", "resume")
    assert ready("distribute", "status", "--json").json["verdict"] == "idle: nothing is open, nothing failed"


def test_a_fleet_without_devices_shows_no_empty_table(ready: Console) -> None:
    """The first thing that a newcomer saw was two lines of column names."""
    assert ready("distribute", "status").out.splitlines()[0] == "no device has registered yet"
    assert ready("devices", "list").out == "no device has registered yet\n"


def test_what_waits_for_a_person_is_said_once(ready: Console) -> None:
    """Long reasons stood on the screen twice: in a line of their own, and in the verdict."""
    register(ready, "d1")
    for number in range(5):
        ready.add("--type", f"unheard_of_{number}", "--force")
    lines = "".join(ready("distribute", "status").out.splitlines())
    assert [lines.count(f"unheard_of_{number}:") for number in range(5)] == [1] * 5
    assert lines.count("blocked: 1 task of type unheard_of_") == 2


@pytest.mark.parametrize("command", ["drain", "resume", "remove"])
def test_an_unknown_device_is_named(ready: Console, command: str) -> None:
    assert "there is no device '设备'" in ready.refuses(1, "devices", command, "设备")
    assert "ID" in ready.refuses(2, "devices", command)


def test_status_shows_devices_tasks_and_a_verdict(any_console: Console) -> None:
    assert any_console("distribute", "status").out.splitlines()[-1] == "idle: nothing is open, nothing failed"
    any_console.add("--type", "noop")
    said = any_console("distribute", "status")
    assert (said.code, said.out.splitlines()[-1]) == (0, "stopped: 1 task is open and no device is online")
    register(any_console)
    lines = any_console("distribute", "--status").out.splitlines()
    assert lines[1].startswith("d1")
    assert lines[3] == "tasks: 1 pending, 0 assigned, 0 running, 0 completed, 0 failed, 0 cancelled, 1 total"
    assert lines[-1] == "working: 1 task is open, 0 in hand, 1 device is online"
    found = any_console("distribute", "status", "--json").json
    assert list(found) == ["devices", "tasks", "success_rate", "blocked", "budgets", "verdict"]
    assert (found["devices"][0]["device_id"], found["tasks"]["pending"], found["blocked"]) == ("d1", 1, [])


def test_status_takes_options_of_older_scripts_with_a_notice(ready: Console) -> None:
    token = "longenough" * 4
    said = ready("distribute", "status", "--master-host", "10.0.0.1", "--master-port", "7989", "--api-key", token)
    assert said.code == 0
    assert "--master-host, --master-port have no effect: devices meet in the database" in said.err
    assert "longenough" not in said.err
