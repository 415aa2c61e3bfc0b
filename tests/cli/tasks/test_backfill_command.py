from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from crawlfleet.cli.tasks.backfill import SHOWN_TASKS
from tests.cli.console import Console
from tests.stored_figures import add_account, add_days

LONG = ["aggregate_long_range_app", "aggregate_long_range_account"]
DAYS = ("--start-date", "2026-01-01", "--end-date", "2026-03-31")


def account(console: Console, apps: int = 15) -> None:
    named = [word for n in range(apps) for word in ("--app-id", f"com.app{n:02}")]
    options = ("--source", "appsflyer", "--username", "u", "--token-env", "NOT_SET_HERE", *named)
    assert console("accounts", "add", *options).code == 0


def backfill(console: Console, *options: object) -> tuple[object, ...]:
    return ("tasks", "backfill", "--username", "u", *DAYS, *options)


def test_the_plan_as_json_has_the_promised_keys(any_console: Console) -> None:
    account(any_console)
    before = datetime.now(UTC)
    found = any_console(*backfill(any_console, "--dry-run", "--json")).json
    assert (found["calls"], len(found["tasks"]), found["ids"], found["notes"]) == (15, 15, [], [])
    assert found["tasks"][0] == {
        "app_id": "com.app00",
        "start_date": "2026-01-01",
        "end_date": "2026-03-31",
        "run_at": None,
        "limits": LONG,
    }
    finish = datetime.fromisoformat(found["finish_at"])
    assert abs(finish - before) < timedelta(minutes=5)
    [whole] = [budget for budget in found["budgets"] if budget["limit"] == LONG[1]]
    reset = datetime.fromisoformat(whole.pop("resets_at"))
    assert (reset.date() - finish.date(), reset.strftime("%H:%M:%S")) == (timedelta(1), "00:07:12")
    assert whole == {
        "limit": LONG[1],
        "scope": {"username": "u"},
        "calls_planned": 15,
        "calls_left": 120,
        "allowed": 120,
    }
    own = [budget for budget in found["budgets"] if budget["scope"] == {"username": "u", "app_id": "com.app07"}]
    assert [(budget["limit"], budget["calls_planned"], budget["calls_left"]) for budget in own] == [(LONG[0], 1, 24)]
    reasons = ("final", "fetched_today", "asked_for", "too_old", "denied", "not_over")
    assert found["skipped"] == dict.fromkeys(reasons, 0)
    assert any_console("tasks", "stats", "--json").json["total"] == 0


def test_a_backfill_is_queued_once(ready: Console) -> None:
    account(ready)
    found = ready(*backfill(ready, "--json")).json
    assert found["ids"] == list(range(1, 16))
    task = ready("tasks", "show", 1, "--json").json
    assert (task["task_type"], task["app_id"], task["priority"]) == ("app_data", "com.app00", -10)
    again = ready(*backfill(ready, "--json")).json
    assert (again["calls"], again["tasks"], again["budgets"], again["finish_at"]) == (0, [], [], None)
    assert again["skipped"]["asked_for"] == 15 * 90
    assert ready("tasks", "stats", "--json").json["pending"] == 15


def test_the_plan_as_a_table_is_summed_up_first(ready: Console) -> None:
    account(ready)
    said = ready(*backfill(ready, "--dry-run"))
    lines = said.out.splitlines()
    assert (said.code, said.err) == (0, "")
    assert lines[0].startswith("report partners_by_date_report of u, 2026-01-01 to 2026-03-31: 15 calls; the last can")
    assert lines[1].split() == ["app", "first", "day", "last", "day", "limits"]
    assert lines[2].split() == ["com.app00", "2026-01-01", "2026-03-31", f"{LONG[0]},", LONG[1]]
    assert [LONG[1], "1", "15", "120", "120"] in [line.split() for line in lines]
    assert "dry run: nothing was queued" in lines
    assert lines[-1].startswith("times are in UTC")
    assert "tasks queued: 15, ids 1 to 15" in ready(*backfill(ready)).out.splitlines()
    assert ready(*backfill(ready)).out.splitlines() == [
        "report partners_by_date_report of u, 2026-01-01 to 2026-03-31: nothing to fetch",
        "days left out, of 15 apps together: 1350 asked for",
    ]


def test_a_long_table_is_cut_and_says_so(ready: Console) -> None:
    account(ready, SHOWN_TASKS + 1)
    said = ready(*backfill(ready, "--dry-run"))
    assert said.out.count("com.app") == SHOWN_TASKS
    assert f"the first {SHOWN_TASKS} tasks; --json shows all" in said.err


def test_remarks_go_to_stderr(ready: Console) -> None:
    account(ready)
    assert ready("accounts", "park", "u", "--reason", "new token").code == 0
    tomorrow = datetime.now(UTC).date() + timedelta(1)
    options = ("--start-date", tomorrow - timedelta(9), "--end-date", tomorrow, "--app-id", "x", "--dry-run")
    said = ready("tasks", "backfill", "--username", "u", *options)
    assert "account u is parked: its tasks wait until `accounts resume u`" in said.err
    assert "are not over yet" in said.err
    assert "2 not over" in said.out


def test_one_app_and_another_report(ready: Console) -> None:
    account(ready)
    found = ready(*backfill(ready, "--app-id", "x", "--report", "geo_by_date_report", "--dry-run", "--json")).json
    assert [task["app_id"] for task in found["tasks"]] == ["x"]
    assert found["report"] == "geo_by_date_report"


def test_the_tasks_get_the_label(ready: Console) -> None:
    account(ready)
    assert ready(*backfill(ready, "--label", "eu")).code == 0
    assert {task["label"] for task in ready("tasks", "list", "--json").json} == {"eu"}


def test_limits_of_the_settings_are_planned_with(ready: Console, tmp_path: Path) -> None:
    account(ready)
    config = tmp_path / "fleet.toml"
    config.write_text("[sources.appsflyer.limits]\naggregate_long_range_account = { calls = 8 }\n")
    found = ready(*backfill(ready, "--dry-run", "--json", "--config", config)).json
    assert [budget["allowed"] for budget in found["budgets"] if budget["limit"] == LONG[1]] == [8]
    assert sum(task["limits"] == LONG for task in found["tasks"]) == 6


def test_wrong_usage_ends_with_two_and_what_is_missing_with_one(ready: Console) -> None:
    assert "--username" in ready.refuses(2, "tasks", "backfill", *DAYS)
    assert "'u' has no account" in ready.refuses(2, *backfill(ready))
    account(ready, 0)
    assert "run `tasks add --type user_apps --username u" in ready.refuses(1, *backfill(ready))
    future = (datetime.now(UTC).date() + timedelta(9)).isoformat()
    words = ("tasks", "backfill", "--username", "u", "--start-date", future, "--end-date", future)
    assert "yesterday in UTC" in ready.refuses(2, *words)
    assert "'all' is not for report" in ready.refuses(2, *backfill(ready, "--app-id", "all"))
    assert "there is no database" in Console("sqlite:////nowhere/x.db", ready._capsys).refuses(3, *backfill(ready))


def test_a_person_says_that_days_without_rows_are_empty(ready: Console) -> None:
    account(ready, apps=1)
    [plain] = ready(*backfill(ready, "--json")).json["ids"]
    ready("tasks", "cancel", plain)
    [believing] = ready(*backfill(ready, "--believe-empty", "--json")).json["ids"]
    [single] = ready("tasks", "add", "--type", "app_data", "--username", "u", "--believe-empty", "--json").json["ids"]
    for task_id, told in ((plain, {}), (believing, {"believe_empty": True}), (single, {"believe_empty": True})):
        assert (ready("tasks", "show", task_id, "--json").json["task_data"] or {}) == told
    said = ready("tasks", "add", "--type", "quick", "--believe-empty")
    assert said.code == 2
    assert "app_data or user_apps" in said.err


def test_one_command_closes_all_gaps_that_a_call_can_close(any_console: Console) -> None:
    """`data gaps` printed a command for each of fifteen apps, and none closed them all."""
    first = date(2026, 1, 1)
    days = ("--start-date", "2026-01-01", "--end-date", "2026-01-10")
    for username, apps in (("u", ("a", "b")), ("v", ("c",))):
        any_console.on_database(lambda db, n=username, a=apps: add_account(db, *a, username=n))  # type: ignore[misc]
    any_console.on_database(lambda db: add_days(db, "a", first, [1] * 10))
    any_console.on_database(lambda db: add_days(db, "b", first, [1] * 8))
    ready = any_console("tasks", "backfill", "--all-gaps", "--dry-run", *days, "--json").json
    assert [(plan["username"], plan["start_date"], plan["end_date"], plan["calls"]) for plan in ready] == [
        ("u", "2026-01-09", "2026-01-10", 1),
        ("v", "2026-01-01", "2026-01-10", 1),
    ]
    assert [task["app_id"] for plan in ready for task in plan["tasks"]] == ["b", "c"]
    said = any_console("tasks", "backfill", "--all-gaps", "--username", "u", *days)
    assert said.code == 0
    assert "tasks queued: 1" in said.out
    [whole] = any_console("tasks", "backfill", "--all-gaps", "--app-id", "c", *days, "--json").json
    assert len(whole["ids"]) == 1
    said = any_console("tasks", "backfill", "--all-gaps", *days, "--json")
    assert [plan["ids"] for plan in said.json] == [[], []]  # asked for already


def test_backfill_wants_an_account_and_days_or_all_gaps(ready: Console) -> None:
    assert "--username is required, or --all-gaps" in ready.refuses(2, "tasks", "backfill")
    assert "did you mean" in _typo(ready)
    ready("accounts", "add", "--source", "appsflyer", "--username", "new", "--token-env", "NOT_SET_HERE")
    said = ready("tasks", "backfill", "--all-gaps", "--username", "new")
    assert said.code == 1
    assert "never synced" in said.err


def _typo(ready: Console) -> str:
    ready.on_database(lambda db: add_account(db, "a", username="demo_agency"))
    return ready.refuses(2, "tasks", "backfill", "--all-gaps", "--username", "demo_agenci")
