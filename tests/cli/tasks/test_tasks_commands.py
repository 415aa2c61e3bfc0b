from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.account import Account
from crawlfleet.model import schema
from crawlfleet.model.account import AccountDAO
from tests.cli.console import Console
from tests.fleets import Device, ending

STATES = ["pending", "assigned", "running", "completed", "failed", "cancelled", "total"]


def fail(console: Console, *task_ids: int) -> None:
    """Let a device run these tasks, the only due ones, into a permanent error."""

    def work(db: Any) -> None:
        device = Device(db)
        device.register()
        claimed = device.claim(slots=len(task_ids))
        assert sorted(claim.task.id for claim in claimed) == sorted(task_ids)
        device.start(claimed)
        device.end(*(ending(claim, "permanent", message="the app does not exist") for claim in claimed))

    console.on_database(work)


def status(console: Console, task_id: int) -> str:
    return str(console("tasks", "show", task_id, "--json").json["status"])


def account(console: Console, username: str = "u", source: str = "appsflyer") -> None:
    said = console("accounts", "add", "--source", source, "--username", username, "--token-env", "NOT_SET_HERE")
    assert said.code == 0, said.err


# --- add -------------------------------------------------------------------------------------------------------


def test_adding_makes_the_tables_and_prints_the_id(console: Console) -> None:
    said = console("tasks", "add", "--type", "noop")
    assert (said.code, said.out) == (0, "1\n")
    assert said.err.startswith("no device has known the task type noop yet")
    assert console("tasks", "add", "--type", "noop", "--json").json == {"ids": [2]}


def test_every_option_reaches_the_task(any_console: Console) -> None:
    account(any_console, "公司")
    task_id = any_console.add(
        *(
            "--type",
            "app_data",
            "--username",
            "公司",
            "--source",
            "appsflyer",
            "--app-id",
            "com.例",
            "--report",
            "daily_report",
        ),
        *("--start-date", "2026-01-01", "--end-date", "2026-01-31", "--priority", "-3", "--unique-key", "k"),
        *("--run-at", "2030-01-01T08:00:00+08:00", "--data", '{"a": ["ü", 1]}', "--execution-timeout", "7"),
        *("--max-retry-count", "0", "--label", "eu-west.1"),
    )
    found = any_console("tasks", "show", task_id, "--json").json
    expected = {
        "task_type": "app_data",
        "username": "公司",
        "source": "appsflyer",
        "app_id": "com.例",
        "report": "daily_report",
        "start_date": "2026-01-01",
        "end_date": "2026-01-31",
        "priority": -3,
        "unique_key": "k",
        "next_run_at": "2030-01-01T00:00:00Z",
        "task_data": {"a": ["ü", 1]},
        "execution_timeout": 7,
        "max_retry_count": 0,
        "label": "eu-west.1",
        "status": "pending",
        "assignments": [],
        "events": [],
    }
    assert {name: found[name] for name in expected} == expected


def test_source_and_report_are_filled_in_and_limits_come_from_the_settings(
    ready: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    account(ready)
    monkeypatch.setenv("CRAWLFLEET_EXECUTION_TIMEOUT", "120")
    monkeypatch.setenv("CRAWLFLEET_MAX_RETRY", "9")
    found = ready("tasks", "show", ready.add("--type", "data_sync", "--username", "u"), "--json").json
    assert (found["task_type"], found["source"], found["report"]) == (
        "app_data",
        "appsflyer",
        "partners_by_date_report",
    )
    assert (found["execution_timeout"], found["max_retry_count"]) == (120, 9)


def test_a_unique_key_that_is_open_gives_the_same_task_and_says_whose_it_is(ready: Console) -> None:
    """A nightly job for two accounts with one key fetched only the first one, and nothing was said."""
    first = ready.add("--type", "noop", "--username", "acme", "--unique-key", "k")
    said = ready("tasks", "add", "--type", "noop", "--username", "other", "--unique-key", "k")
    assert (said.code, said.out) == (0, f"{first}\n")
    assert f"unique key k is already open as task {first} of acme" in said.err
    assert ready("tasks", "stats", "--json").json["total"] == 1


def test_a_type_that_no_device_has_known_waits_and_the_command_says_so(ready: Console) -> None:
    """It was queued without a word, and failed later."""
    said = ready("tasks", "add", "--type", "unheard_of")
    assert said.code == 0
    assert "no device has known the task type unheard_of yet: its tasks wait until a node does" in said.err
    ready.on_database(lambda db: Device(db, types=("unheard_of",)).register())
    assert "no device" not in ready("tasks", "add", "--type", "unheard_of").err


def test_a_near_miss_of_a_type_is_refused_unless_it_is_meant(ready: Console) -> None:
    error = ready.refuses(2, "tasks", "add", "--type", "appdata", "--username", "u")
    assert "no device knows the task type 'appdata': did you mean app_data? (--force queues it)" in error
    assert ready("tasks", "stats", "--json").json["total"] == 0
    assert ready("tasks", "add", "--type", "appdata", "--force").code == 0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([], ["--type is required"]),
        (["--username", "u"], ["--type is required"]),
        (["--type", "no good"], ["task_type", "'no good'"]),
        (["--type", ""], ["task_type", "''"]),
        (["--type", "user_apps"], ["user_apps needs a username"]),
        (["--type", "user_apps", "--username", "nobody"], ["'nobody'", "accounts add"]),
        (["--type", "noop", "--username", ""], ["username", "''"]),
        (["--type", "noop", "--username", "u" * 191], ["username", "190"]),
        (["--type", "noop", "--username", "a\nb"], ["username", "printable"]),
        (["--type", "noop", "--source", "a b"], ["source", "'a b'"]),
        (["--type", "noop", "--app-id", ""], ["app_id", "''"]),
        (["--type", "noop", "--start-date", "2026-02-30"], ["start_date", "'2026-02-30'", "2026-01-31"]),
        (["--type", "noop", "--end-date", "yesterday"], ["end_date", "'yesterday'"]),
        (["--type", "user_apps", "--end-date", "2026-02-01"], ["start_date and end_date go together", "2026-02-01"]),
        (["--type", "app_data", "--start-date", "2026-02-01"], ["start_date and end_date go together", "2026-02-01"]),
        (["--type", "noop", "--start-date", "2026-02-02", "--end-date", "2026-02-01"], ["start_date", "2026-02-02"]),
        (["--type", "noop", "--priority", "1001"], ["--priority", "-1000 to 1000", "'1001'"]),
        (["--type", "noop", "--priority", "high"], ["--priority", "'high'"]),
        (["--type", "noop", "--priority", "1" * 5000], ["--priority", "'1111"]),
        (["--type", "noop", "--run-at", "soon"], ["run_at", "'soon'"]),
        (["--type", "noop", "--run-at", "1999-01-01"], ["run_at", "2000 and 2200"]),
        (["--type", "noop", "--run-at", "0001-01-01T00:00:00+14:00"], ["run_at", "2000 and 2200", "+14:00"]),
        (["--type", "noop", "--run-at", "9999-12-31T23:00:00-02:00"], ["run_at", "2000 and 2200", "-02:00"]),
        (["--type", "noop", "--data", "{"], ["--data", "not JSON", "'{'"]),
        (["--type", "noop", "--data", "[1]"], ["task_data", "object", "list"]),
        (["--type", "noop", "--data", '{"n": NaN}'], ["--data", "NaN"]),
        (["--type", "noop", "--data", '{"n": 1, "n": 2}'], ["'n' is given twice"]),
        (["--type", "noop", "--data", '{"n": "\\u0000"}'], ["task_data", "NUL"]),
        (["--type", "noop", "--data", '{"n": "\\ud800"}'], ["task_data", "surrogate"]),
        (["--type", "noop", "--data", "[" * 100_000], ["--data", "nested too deeply"]),
        (["--type", "noop", "--data", json.dumps({"n": "苹" * 100_000})], ["task_data", "262144", "300009"]),
        (["--type", "noop", "--unique-key", "k" * 191], ["unique_key", "190"]),
        (["--type", "noop", "--execution-timeout", "0"], ["--execution-timeout", "from 1", "'0'"]),
        (["--type", "noop", "--max-retry-count", "101"], ["--max-retry-count", "0 to 100", "'101'"]),
        (["--type", "noop", "--usrname", "u"], ["--usrname", "did you mean --username"]),
        (["--type", "noop", "stray"], ["'stray'"]),
        (["--from", "x.jsonl", "--username", "u"], ["--username", "--from"]),
        (["--from", "x.jsonl", "--data", "{}"], ["--data", "--from"]),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_added(ready: Console, options: list[str], parts: list[str]) -> None:
    error = ready.refuses(2, "tasks", "add", *options)
    assert [part for part in parts if part not in error] == [], error
    assert ready("tasks", "stats", "--json").json["total"] == 0


def test_the_report_that_is_left_out_is_the_vendors_first(ready: Console) -> None:
    ready.on_database(lambda db: AccountDAO(db).add(Account("apple", "9990001")))
    task_id = ready.add("--type", "app_data", "--username", "9990001")
    [found] = ready("tasks", "list", "--json").json
    assert (found["id"], found["source"], found["report"]) == (task_id, "apple", "app_details")


def test_a_username_at_two_sources_must_name_one(ready: Console) -> None:
    account(ready)
    ready.on_database(lambda db: AccountDAO(db).add(Account("othersource", "u", token_env="X")))
    assert "appsflyer, othersource" in ready.refuses(2, "tasks", "add", "--type", "user_apps", "--username", "u")


# --- add --from ------------------------------------------------------------------------------------------------


def test_a_file_of_tasks_is_added_in_its_order(any_console: Console, tmp_path: Path) -> None:
    account(any_console, "公司")
    file = tmp_path / "tasks.jsonl"
    lines = [
        '\ufeff{"task_type": "noop", "task_data": {"n": "一"}}',
        "",
        '{"task_type": "user_apps", "username": "公司", "priority": 2}\r',
        '{"task_type": "noop"}',
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    said = any_console("tasks", "add", "--from", file)
    ids = [int(line) for line in said.out.split()]
    assert len(ids) == 3
    assert said.err.startswith("tasks queued: 3\n")
    found = [any_console("tasks", "show", task_id, "--json").json for task_id in ids]
    assert [task["task_type"] for task in found] == ["noop", "user_apps", "noop"]
    assert (found[0]["task_data"], found[1]["source"]) == ({"n": "一"}, "appsflyer")


def test_standard_input_is_read_like_a_file(ready: Console) -> None:
    lines = b"".join(b'{"task_type": "noop", "task_data": {"n": %d}}\n' % n for n in range(2500))
    assert ready("tasks", "add", "--from", "-", "--json", stdin=lines).json == {"ids": list(range(1, 2501))}
    error = ready.refuses(2, "tasks", "add", "--from", "-", stdin=b"{}\n")
    assert error.startswith("standard input line 1: ")


def test_an_empty_file_adds_nothing(ready: Console) -> None:
    said = ready("tasks", "add", "--from", "-", stdin=b"\n\n")
    assert (said.code, said.out, said.err) == (0, "", "tasks queued: 0\n")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (b"{", ["not JSON", "'{'"]),
        (b"task_type,username", ["not JSON", "'task_type,username'"]),
        (b"[]", ["JSON object", "list"]),
        (b'[{"task_type": "noop"}]', ["JSON object", "list"]),
        (b"null", ["JSON object", "NoneType"]),
        (b"{}", ["task_type"]),
        (b'{"task_type": null}', ["task_type", "None"]),
        (b'{"task_type": 7}', ["task_type", "7"]),
        (b'{"task_type": "noop", "usrname": "u"}', ["'usrname'", "username"]),
        (b'{"task_type": "noop", "username": 7}', ["username", "7"]),
        (b'{"task_type": "noop", "start_date": "2026-13-01"}', ["start_date", "'2026-13-01'"]),
        (b'{"task_type": "noop", "start_date": 20260101}', ["start_date", "20260101"]),
        (b'{"task_type": "noop", "priority": "1"}', ["priority", "'1'"]),
        (b'{"task_type": "noop", "priority": true}', ["priority", "True"]),
        (b'{"task_type": "noop", "priority": 1e3}', ["priority", "1000.0"]),
        (b'{"task_type": "noop", "run_at": 5}', ["run_at", "5"]),
        (b'{"task_type": "noop", "task_data": "x"}', ["task_data", "str"]),
        (b'{"task_type": "noop", "task_data": {"n": Infinity}}', ["Infinity"]),
        (b'{"task_type": "noop", "task_type": "geo"}', ["'task_type' is given twice"]),
        (b'{"task_type": "noop", "username": "\\ud800"}', ["username"]),
        (b'{"task_type": "noop", "username": "\xff"}', ["UTF-8"]),
        (b'{"task_type": "user_apps"}', ["user_apps needs a username"]),
        (b'{"task_type": "user_apps", "username": "nobody"}', ["'nobody'", "accounts add"]),
    ],
)
def test_a_bad_line_is_named_and_nothing_of_the_file_is_added(
    ready: Console, tmp_path: Path, line: bytes, parts: list[str]
) -> None:
    account(ready)
    good = b'{"task_type": "user_apps", "username": "u"}\n'
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(good + b"\n" + good + line + b"\n" + good)
    error = ready.refuses(2, "tasks", "add", "--from", file)
    assert error.startswith(f"{file} line 4"), error
    assert [part for part in parts if part not in error] == [], error
    assert ready("tasks", "stats", "--json").json["total"] == 0


def test_a_bad_line_makes_no_database(console: Console, tmp_path: Path) -> None:
    console.refuses(2, "tasks", "add", "--from", "-", stdin=b"{}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_is_named(ready: Console, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in ready.refuses(2, "tasks", "add", "--from", tmp_path / "none")
    assert "directory" in ready.refuses(2, "tasks", "add", "--from", tmp_path)


# --- list, show, stats -----------------------------------------------------------------------------------------


def test_list_shows_the_newest_tasks_with_the_columns_of_the_table(any_console: Console) -> None:
    assert any_console("tasks", "list", "--json").json == []
    ids = [any_console.add("--type", name, "--username", user) for name, user in (("a", "x"), ("b", "x"), ("a", "李"))]
    found = any_console("tasks", "list", "--json").json
    assert [task["id"] for task in found] == ids[::-1]
    assert list(found[0]) == [column.name for column in schema.crawl_task.c]
    assert found[0]["created_at"].endswith("Z")
    for options, expected in (
        (["--type", "a"], [ids[2], ids[0]]),
        (["--username", "李"], [ids[2]]),
        (["--type", "a", "--username", "x", "--status", "pending"], [ids[0]]),
        (["--status", "failed"], []),
        (["--limit", "1"], [ids[2]]),
    ):
        assert [task["id"] for task in any_console("tasks", "list", "--json", *options).json] == expected


def test_the_list_finds_tasks_by_app_vendor_device_and_time_and_shows_their_device(any_console: Console) -> None:
    """It showed no device, and knew neither app nor vendor nor time."""
    for source, app in (("appsflyer", "a"), ("apple", "a"), ("appsflyer", "b")):
        any_console.add("--type", "noop", "--source", source, "--username", "u", "--app-id", app)

    def run_and_age(db: Any) -> None:
        device = Device(db, "d7")
        device.register()
        [claim] = device.claim(slots=1)
        device.end(ending(claim))
        days = {1: "2026-01-01 23:59:59.5", 2: "2026-01-02 00:00:00", 3: "2026-01-02 23:59:59.9"}
        with db.plain.begin() as connection:
            for task_id, moment in days.items():
                made = datetime.fromisoformat(moment).replace(tzinfo=UTC)
                table = schema.crawl_task
                connection.execute(table.update().where(table.c.id == task_id).values(created_at=made))

    any_console.on_database(run_and_age)

    def found(*options: str) -> list[int]:
        return [task["id"] for task in any_console("tasks", "list", "--json", *options).json]

    assert found("--app-id", "a") == [2, 1]
    assert found("--app-id", "a", "--source", "appsflyer") == [1]
    assert found("--device", "d7") == [1]
    assert found("--device", "d8") == []
    assert found("--since", "2026-01-02T00:00:00Z") == [3, 2]
    assert found("--until", "2026-01-02T00:00:00+00:00") == [1]
    assert found("--since", "2026-01-02T08:00+08:00", "--until", "2026-01-02T23:00:00Z", "--username", "u") == [2]
    header, *lines = any_console("tasks", "list").out.splitlines()
    assert [line.split()[:2] for line in lines if "d7" in line] == [["1", "noop"]]
    assert "device" in header.split()


def test_days_of_the_list_are_those_of_the_users_zone(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment that is copied from a screen finds what the screen showed."""
    task_id = ready.add("--type", "noop")
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        now = datetime.fromisoformat(ready("tasks", "show", task_id).out.partition("added: ")[2][:19])
        for options, expected in (
            (("--since", now), [task_id]),
            (("--since", now + timedelta(seconds=1)), []),
            (("--until", now), []),
            (("--since", now.date(), "--until", now.date()), [task_id]),
            (("--until", now.date() - timedelta(1)), []),
        ):
            assert [task["id"] for task in ready("tasks", "list", "--json", *options).json] == expected, options
    finally:
        monkeypatch.undo()
        time.tzset()
    for wrong in ("yesterday", "2026-02-30", "1999-01-01", "08:00"):
        assert f"'{wrong}'" in ready.refuses(2, "tasks", "list", "--since", wrong)


def test_the_list_for_people_has_local_dates_and_says_when_it_is_cut(
    ready: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.add("--type", "noop", "--username", "苹果", "--run-at", "2030-01-01T20:00:00Z", "--start-date", "2026-01-01")
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        said = ready("tasks", "list", "--limit", "1")
    finally:
        monkeypatch.undo()
        time.tzset()
    header, line, zone = said.out.splitlines()
    assert header.split()[:3] == ["id", "type", "status"]
    assert "苹果" in line
    assert "2026-01-01" in line
    assert "due 2030-01-02" in line
    assert zone == "times are in UTC+08:00 (CST)"
    assert "--limit" in said.err


def test_the_list_calls_an_attempt_that_failed_a_failure_not_a_retry(ready: Console) -> None:
    fail(ready, ready.add("--type", "noop"))
    header, line = ready("tasks", "list").out.splitlines()
    assert "retries" not in header
    assert line[header.index("failures") :].split()[0] == "1"


def test_show_tells_the_runs_and_what_people_did(any_console: Console) -> None:
    task_id = any_console.add("--type", "noop")
    fail(any_console, task_id)
    any_console("tasks", "retry", task_id)
    found = any_console("tasks", "show", task_id, "--json").json
    [run] = found["assignments"]
    assert (run["status"], run["device_id"], run["error_message"]) == ("failed", "d1", "the app does not exist")
    [event] = found["events"]
    assert event["event"] == "revived"
    assert "@" in event["actor"]
    text = any_console("tasks", "show", task_id).out
    for part in (f"id: {task_id}\n", "status: pending\n", "runs: 1\n", "the app does not exist", "revived"):
        assert part in text


def test_show_leaves_out_what_only_programs_need(ready: Console) -> None:
    """A person was shown lane_id, order_key and ids of ten digits."""
    task_id = ready.add("--type", "noop", "--username", "u", "--start-date", "2026-01-01", "--end-date", "2026-01-02")
    fail(ready, task_id)
    out = ready("tasks", "show", task_id).out
    names = [line.partition(":")[0] for line in out.partition("\n\n")[0].splitlines()]
    assert names == [
        *("id", "type", "status", "account", "days", "device", "added", "ended", "attempts", "longest run", "error"),
    ]
    assert "days: 2026-01-01..2026-01-02\n" in out
    assert "attempts: 1 of 4 failed\n" in out
    assert "error: permanent: the app does not exist\n" in out
    assert not re.search(r"\d{10}", out)
    run = out.splitlines()[-2]
    assert re.fullmatch(r" +1 +d1 +failed +[-0-9]{10} [:0-9]{8} +[.0-9]+ +permanent: the app does not exist", run)


def test_stats_name_every_state(ready: Console) -> None:
    ready.add("--type", "noop")
    assert ready("tasks", "stats").out.splitlines() == [f"{s}: {int(s in ('pending', 'total'))}" for s in STATES]
    assert list(ready("tasks", "stats", "--json").json) == STATES


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["show"], ["ID"]),
        (["show", "x"], ["'x'"]),
        (["show", "0"], ["'0'"]),
        (["show", "-1"], ["-1"]),
        (["show", str(2**63)], [str(2**63)]),
        (["list", "--limit", "0"], ["--limit", "'0'"]),
        (["list", "--status", "done"], ["'done'", "completed"]),
        (["lst"], ["'lst'", "did you mean list?"]),
        ([], ["COMMAND"]),
        (["retry"], ["ids", "--status"]),
        (["retry", "1", "--type", "a"], ["either"]),
        (["retry", "x"], ["'x'"]),
        (["retry", "--status", "pending"], ["'pending'", "failed, cancelled"]),
        (["cancel"], ["ids", "--status"]),
        (["cancel", "--status", "failed"], ["'failed'"]),
    ],
)
def test_wrong_usage_is_explained(ready: Console, argv: list[str], parts: list[str]) -> None:
    error = ready.refuses(2, "tasks", *argv)
    assert [part for part in parts if part not in error] == [], error


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
def test_an_unknown_id_is_an_answer_of_its_own(ready: Console, command: str) -> None:
    assert ready.refuses(1, "tasks", command, 99) == "there is no task 99"


# --- retry, cancel, pause --------------------------------------------------------------------------------------


def test_a_failed_task_is_retried_by_its_id(any_console: Console) -> None:
    task_id = any_console.add("--type", "noop")
    fail(any_console, task_id)
    assert status(any_console, task_id) == "failed"
    assert any_console("tasks", "retry", task_id, task_id).out == "queued again: 1\n"
    assert status(any_console, task_id) == "pending"
    error = any_console.refuses(1, "tasks", "retry", task_id)
    assert error.startswith(f"task {task_id} is pending: it can be retried while it is failed or cancelled")


def test_tasks_are_retried_all_or_none(any_console: Console) -> None:
    failed = any_console.add("--type", "noop")
    fail(any_console, failed)
    pending = any_console.add("--type", "noop")
    any_console.refuses(1, "tasks", "retry", failed, pending)
    any_console.refuses(1, "tasks", "retry", failed, 99)
    assert status(any_console, failed) == "failed"


def test_failed_tasks_are_retried_by_filter(ready: Console) -> None:
    ids = [ready.add("--type", "noop", "--username", user) for user in ("a", "b")]
    fail(ready, *ids)
    other = ready.add("--type", "noop", "--username", "a")
    assert ready("tasks", "retry", "--status", "failed", "--username", "a", "--type", "noop").out == "queued again: 1\n"
    assert [status(ready, task_id) for task_id in (*ids, other)] == ["pending", "failed", "pending"]
    assert ready("tasks", "retry", "--status", "failed").out == "queued again: 1\n"
    assert ready("tasks", "retry", "--status", "failed").out == "queued again: 0\n"


def test_a_task_whose_unique_key_is_taken_is_not_retried(ready: Console) -> None:
    first = ready.add("--type", "noop", "--unique-key", "k")
    ready("tasks", "cancel", first)
    ready.add("--type", "noop", "--unique-key", "k")
    said = ready("tasks", "retry", first)
    assert (said.code, said.out) == (1, "queued again: 0\n")
    assert "unique key" in said.err
    assert ready("tasks", "retry", "--status", "cancelled").code == 0
    assert status(ready, first) == "cancelled"


def test_a_task_that_waits_is_made_due(any_console: Console) -> None:
    later = any_console.add("--type", "noop", "--run-at", "2099-01-01")
    tried = any_console.add("--type", "noop", "--priority", "9")

    def fail_once(db: Any) -> None:
        device = Device(db)
        device.register()
        [claim] = device.claim()
        device.end(ending(claim, "transient", message="no luck"))

    any_console.on_database(fail_once)
    assert any_console("tasks", "explain", later, "--json").json["reason"] == "not_due"
    assert any_console("tasks", "explain", tried, "--json").json["reason"] == "retry"
    for task_id in (later, tried, tried):
        said = any_console("tasks", "run-now", task_id)
        assert (said.code, said.out) == (0, "ready: the next free slot takes it\n")
    assert [e["event"] for e in any_console("tasks", "show", tried, "--json").json["events"]] == ["made_due"]
    claimed = any_console.on_database(lambda db: [claim.task.id for claim in _registered(db).claim()])
    assert claimed == [tried, later]
    assert (
        "running" in any_console("tasks", "run-now", later).out
        or "assigned" in any_console("tasks", "run-now", later).out
    )
    any_console("tasks", "cancel", later)
    assert f"`tasks retry {later}`" in any_console.refuses(1, "tasks", "run-now", later)
    assert "no task 999" in any_console.refuses(1, "tasks", "run-now", 999)


def _registered(db: Any) -> Device:
    device = Device(db)
    device.register()
    return device


def test_of_two_tasks_with_one_unique_key_one_is_retried_and_the_other_named(any_console: Console) -> None:
    """Both were queued at once, which the database refused with its own words and a link."""
    ids = []
    for _ in range(2):
        ids.append(any_console.add("--type", "noop", "--username", "acme", "--unique-key", "k"))
        any_console("tasks", "cancel", ids[-1])
    said = any_console("tasks", "retry", *ids)
    assert (said.code, said.out) == (1, "queued again: 1\n")
    assert f"task {ids[1]} was left as it was: its unique key is already open as task {ids[0]} of acme" in said.err
    assert [status(any_console, each) for each in ids] == ["pending", "cancelled"]


def test_open_tasks_are_cancelled_running_ones_too(any_console: Console) -> None:
    running = any_console.add("--type", "noop")

    def start(db: Any) -> None:
        device = Device(db)
        device.register()
        device.start(device.claim())

    any_console.on_database(start)
    pending = any_console.add("--type", "noop")
    assert any_console("tasks", "cancel", running, pending).out == "cancelled: 2\n"
    assert any_console("tasks", "show", running, "--json").json["assignments"][0]["status"] == "cancelled"
    error = any_console.refuses(1, "tasks", "cancel", running)
    assert error.startswith(
        f"task {running} is cancelled: it can be cancelled while it is pending or assigned or running"
    )


def test_tasks_are_cancelled_by_filter(ready: Console) -> None:
    ids = [ready.add("--type", name) for name in ("a", "a", "b")]
    assert ready("tasks", "cancel", "--type", "a").out == "cancelled: 2\n"
    assert ready("tasks", "cancel", "--status", "running").out == "cancelled: 0\n"
    assert [status(ready, task_id) for task_id in ids] == ["cancelled", "cancelled", "pending"]


def test_more_tasks_than_one_statement_takes_are_cancelled(ready: Console) -> None:
    ready("tasks", "add", "--from", "-", stdin=b'{"task_type": "noop"}\n' * 1203)
    assert ready("tasks", "cancel", "--type", "noop").out == "cancelled: 1203\n"


def test_the_queue_is_paused_and_opened_again(any_console: Console) -> None:
    assert "paused; running tasks go on" in any_console("tasks", "pause", "--reason", "升级").out
    assert "paused already" in any_console("tasks", "pause").out
    any_console.add("--type", "noop")
    assert "升级" in any_console("distribute", "status").out
    assert "open again" in any_console("tasks", "resume").out
    assert "was not paused" in any_console("tasks", "resume").out


# --- without a database ----------------------------------------------------------------------------------------

READING = [
    ["tasks", "list"],
    ["tasks", "show", "1"],
    ["tasks", "stats", "--json"],
    ["tasks", "retry", "1"],
    ["tasks", "cancel", "--type", "a"],
    ["tasks", "pause"],
    ["accounts", "list"],
    ["accounts", "test", "u"],
    ["accounts", "park", "u", "--reason", "r"],
    ["devices", "list"],
    ["devices", "drain", "d"],
    ["devices", "remove", "d"],
    ["data", "apps"],
    ["data", "rows", "--json"],
    ["distribute", "status"],
    ["db", "check"],
]


@pytest.mark.parametrize("argv", READING, ids=" ".join)
def test_reading_never_makes_a_database(console: Console, tmp_path: Path, argv: list[str]) -> None:
    error = console.refuses(3, *argv)
    assert f"there is no database {console.url}" in error
    assert "db upgrade" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", READING[:-1], ids=" ".join)
def test_a_database_without_tables_says_what_to_do(console: Console, tmp_path: Path, argv: list[str]) -> None:
    (tmp_path / "crawlfleet.db").touch()
    error = console.refuses(3, *argv)
    assert "holds no tables of crawlfleet" in error
    assert "db upgrade" in error


def test_a_file_that_is_no_database_is_refused(console: Console, tmp_path: Path) -> None:
    (tmp_path / "crawlfleet.db").write_text("a shopping list " * 100)
    for argv in (["tasks", "list"], ["tasks", "add", "--type", "noop"], ["db", "check"], ["db", "upgrade"]):
        assert "not a database" in console.refuses(3, *argv)


def test_what_a_task_holds_cannot_steer_the_terminal(ready: Console) -> None:
    task_id = ready.add("--type", "noop", "--data", json.dumps({"title": "\x1b[31mred\n[bold]"}))
    assert "\x1b" not in ready("tasks", "show", task_id).out
