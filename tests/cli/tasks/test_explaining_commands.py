"""The commands that say why: `tasks explain`, `tasks forecast`, `accounts show`, and budgets and health elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.lifecycle import AccountStatus
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.planning.tariff import task_defaults
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.settings.definitions import Settings
from tests.cli.accounts.test_accounts_commands import add
from tests.cli.console import Console
from tests.fleets import Device, ending

APP = ("--type", "app_data", "--username", "u", "--app-id", "com.a")
ONE_DAY = ("--start-date", "2026-01-01", "--end-date", "2026-01-01")


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A vendor that `accounts test` asks, and the token of the account `u` in U_TOKEN."""
    with Sandbox(apps=4) as sandbox:
        monkeypatch.setenv("CRAWLFLEET_APPSFLYER_BASE_URL", sandbox.base_url)
        monkeypatch.setenv("U_TOKEN", "sandbox-u")
        yield sandbox


def defaults() -> TaskDefaults:
    return task_defaults(Settings())


def run_one(console: Console, kind: str = "ok", **more: object) -> None:
    """Let a device run the first task, whose call the vendor sees now."""

    def work(db: Database) -> None:
        device = Device(db, types=("app_data", "user_apps"), defaults=defaults())
        device.register()
        [claim] = device.claim(slots=1)
        with db.read() as connection:
            now = connection.now
        device.end(ending(claim, kind, calls=[now], **more), now=now)

    console.on_database(work)


def test_explain_says_one_sentence_or_all_it_knows(any_console: Console) -> None:
    add(any_console)
    done, waits = (any_console.add(*APP, *ONE_DAY) for _ in range(2))
    run_one(any_console)
    sentence = r"completed at [-0-9]{10} [:0-9]{8}, after 1 run\ntimes are in UTC.*\n"
    assert re.fullmatch(sentence, any_console("tasks", "explain", done).out)
    said = any_console("tasks", "explain", waits)
    assert said.code == 0
    assert said.out.startswith(
        "the budget aggregate_short_range of appsflyer (u, com.a, partners_by_date_report) is used"
    )
    found = any_console("tasks", "explain", waits, "--json").json
    assert (found["task_id"], found["reason"]) == (waits, "budget_used_up")
    assert found["until"] == found["blocked_by"]["budget"]["opens_at"]
    assert found["until"].endswith("Z")
    told, *zone = said.out.splitlines()
    moment = r"[-0-9]{10} [:0-9]{8}"
    assert re.sub(f"{moment} UTC", "", found["sentence"]) == re.sub(moment, "", told)
    assert zone[0].startswith("times are in UTC")
    assert (found["blocked_by"]["budget"]["used"], found["blocked_by"]["ahead"]) == (1, 0)


def test_times_of_a_sentence_are_those_of_the_user(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = ready.add("--type", "noop", "--run-at", "2099-01-31T08:00:00+08:00")
    ready.on_database(lambda db: Device(db).register())
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert ready("tasks", "explain", task_id).out.splitlines() == [
            "not due before 2099-01-31 08:00:00",
            "times are in UTC+08:00 (CST)",
        ]
        found = ready("tasks", "explain", task_id, "--json").json
        assert (found["until"], found["sentence"]) == (
            "2099-01-31T00:00:00Z",
            "not due before 2099-01-31 00:00:00 UTC",
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_task_that_does_not_exist_cannot_be_explained(ready: Console) -> None:
    assert ready.refuses(1, "tasks", "explain", 7) == "there is no task 7"
    assert "'x'" in ready.refuses(2, "tasks", "explain", "x")


def test_forecast_shows_its_arithmetic(any_console: Console) -> None:
    add(any_console)
    for _ in range(3):
        any_console.add(*APP, *ONE_DAY)
    run_one(any_console)
    found = any_console("tasks", "forecast", "--json").json
    [account] = found["accounts"]
    assert (account["username"], account["open_tasks"], account["limit"]) == ("u", 2, "quota")
    [budget] = found["budgets"]
    assert (budget["limit"], budget["tasks"], budget["owed"], budget["used"]) == ("aggregate_short_range", 2, 2, 1)
    assert found["done_at"] == account["done_at"] == budget["done_at"]
    text = any_console("tasks", "forecast").out
    assert "2 calls are owed to aggregate_short_range, which allows 1439.28 a day" in text
    assert "devices: 5 slots for 2 app_data of" in text
    assert "2 open tasks are done at about " in text


def test_forecast_of_one_account_and_of_what_is_never_done(ready: Console) -> None:
    assert ready("tasks", "forecast").out.endswith("nothing is open\n")
    for name in ("u", "w"):
        add(ready, username=name)
        ready.add("--type", "user_apps", "--username", name)
    ready.on_database(lambda db: Device(db, types=("user_apps",)).register())
    ready("accounts", "park", "w", "--reason", "contract ended")
    text = ready("tasks", "forecast").out
    assert "1 of 2 open tasks are never done as things stand; the others at about" in text
    assert re.search(r"w +appsflyer +1 +0 +never +parked +parked: contract ended", text)
    assert ready("tasks", "forecast", "--json").json["done_at"] is None
    found = ready("tasks", "forecast", "--username", "u", "--json").json
    assert [each["username"] for each in found["accounts"]] == ["u"]
    assert found["done_at"] is not None


def test_status_shows_budgets_that_allow_no_call(any_console: Console) -> None:
    add(any_console)
    any_console.add(*APP, *ONE_DAY)
    assert any_console("distribute", "status", "--json").json["budgets"] == []
    assert "budgets" not in any_console("distribute", "status").out
    any_console.add(*APP, *ONE_DAY)
    run_one(any_console, "quota", message="limit reached for partners", retry_after=600.0)
    [found] = any_console("distribute", "status", "--json").json["budgets"]
    assert (found["limit"], found["waiting"], found["used"], found["allowed"]) == ("aggregate_short_range", 2, 1, 1)
    assert (found["reason"], found["closed_until"]) == ("limit reached for partners", found["opens_at"])
    text = any_console("distribute", "status").out
    assert "budgets that allow no call now:" in text
    assert re.search(r"aggregate_short_range +1 of 1 +in .* 2 +u +com\.a .* +limit reached for partners", text)


def test_status_leaves_out_short_limits_that_nothing_waits_for(ready: Console) -> None:
    """After each night every app had a line that it allows no call for 40 s, although nobody wanted one."""
    add(ready)
    ready.add(*APP, *ONE_DAY)
    run_one(ready)
    assert [each["waiting"] for each in ready("distribute", "status", "--json").json["budgets"]] == [0]
    assert "budgets" not in ready("distribute", "status").out


def test_the_table_of_budgets_ends_after_twenty_with_the_most_waiting_first(ready: Console) -> None:
    add(ready)
    for number in [*range(22), *range(22), 21]:
        ready.add("--type", "app_data", "--username", "u", "--app-id", f"app{number}", *ONE_DAY)

    def work(db: Database) -> None:
        device = Device(db, types=("app_data",), defaults=defaults())
        device.register()
        for _ in range(2):  # a claim looks at 16 lanes
            device.claim(slots=22)

    ready.on_database(work)
    said = ready("distribute", "status")
    assert len(re.findall("aggregate_short_range", said.out)) == 20
    assert "2 more budgets; --json shows all" in said.err
    found = ready("distribute", "status", "--json").json["budgets"]
    assert len(found) == 22
    assert (found[0]["app_id"], found[0]["waiting"], found[0]["opens_at"]) == ("app21", 2, None)


def test_accounts_show_tells_health_budgets_and_denials(any_console: Console) -> None:
    add(any_console)
    any_console.add(*APP, *ONE_DAY)
    run_one(any_console, "permanent", message="not in your package", denied=("com.a", "partners_by_date_report"))
    found = any_console("accounts", "show", "u", "--json").json
    assert (found["username"], found["health"]["state"]) == ("u", "throttled")
    assert [budget["limit"] for budget in found["budgets"]] == ["aggregate_short_range"]
    [denied] = found["denied"]
    assert (denied["app_id"], denied["report"], denied["denials"]) == ("com.a", "partners_by_date_report", 1)
    text = any_console("accounts", "show", "u").out
    assert "health: throttled" in text
    assert "budgets in use:" in text
    assert re.search(r"com\.a +partners_by_date_report +1 +[-0-9]{10} [:0-9]{8} +not in your package", text)
    [listed] = any_console("accounts", "list", "--json").json
    assert listed["health"]["state"] == "throttled"
    assert "throttled" in any_console("accounts", "list").out


def test_a_test_is_booked_like_every_call(any_console: Console, vendor: Sandbox) -> None:
    add(any_console, variable="U_TOKEN")
    assert any_console("accounts", "test", "u").code == 0
    budgets = any_console("accounts", "show", "u", "--json").json["budgets"]
    assert {budget["limit"]: budget["used"] for budget in budgets} == {"app_list_minute": 1, "app_list_day": 1}


def test_a_test_without_room_asks_nobody_and_says_until_when(any_console: Console, vendor: Sandbox) -> None:
    add(any_console, variable="U_TOKEN")
    for _ in range(10):
        assert any_console("accounts", "test", "u").code == 0
    any_console.on_database(_use_up)
    error = any_console.refuses(1, "accounts", "test", "u")
    assert re.search(r"the budget app_list_minute of appsflyer \(u\) has no room for a test until [-0-9]{10} ", error)
    assert "20 of 20 calls in 60 s are used" in error
    assert vendor.stats()["calls"] == 10


def _use_up(db: Database) -> None:
    """The other calls of the minute, made by somebody else."""

    def work(connection: sa.Connection) -> None:
        connection.execute(
            sa.text(
                "INSERT INTO cl_budget_call (budget_id, assignment_id, number, called_at, free_at)"
                " SELECT budget_id, -assignment_id, 7, called_at, free_at FROM cl_budget_call"
            )
        )

    db.write(work)


def test_a_test_whose_process_dies_gives_its_calls_back_by_itself(
    ready: Console, vendor: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ready, variable="U_TOKEN")
    monkeypatch.setattr("crawlfleet.services.account_check._Check._book", lambda *_: None)
    assert ready("accounts", "test", "u").code == 0
    found = ready.on_database(_calls)
    assert len(found) == 4  # a list may take two calls, of two budgets each
    assert all(called_at and free_at for called_at, free_at in found)


def _calls(db: Database) -> list[tuple[object, object]]:
    with db.read() as connection:
        rows = connection.execute(sa.text("SELECT called_at, free_at FROM cl_budget_call"))
        return [(row[0], row[1]) for row in rows]


def test_a_refused_test_teaches_the_budget(ready: Console, vendor: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    add(ready, variable="U_TOKEN")
    for _ in range(20):
        vendor.answer("/api/mng/apps", "Bearer sandbox-u")
    error = ready.refuses(1, "accounts", "test", "u")
    assert "429" in error
    assert "until" in ready.refuses(1, "accounts", "test", "u")
    [blocked] = ready("distribute", "status", "--json").json["budgets"]
    assert blocked["limit"] == "app_list_minute"
    assert "429" in blocked["reason"]


def test_a_token_that_works_again_says_how_its_tasks_go_on(ready: Console, vendor: Sandbox) -> None:
    add(ready, variable="U_TOKEN")
    ready.on_database(_expire)
    said = ready("accounts", "test", "u")
    assert said.code == 0
    assert "its tasks still wait (token_expired): `accounts resume u` lets them go on" in said.err


def _expire(db: Database) -> None:
    AccountDAO(db).park("appsflyer", "u", "401")

    def work(connection: sa.Connection) -> None:
        connection.execute(
            sa.text("UPDATE cl_account SET status = :status"), {"status": AccountStatus.TOKEN_EXPIRED.value}
        )

    db.write(work)
