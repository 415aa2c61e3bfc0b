"""What people see of completeness: the calendar, gaps and restatements."""

from __future__ import annotations

import json
import re
import shlex
import sys
from datetime import UTC, date, datetime, timedelta

import pytest

from crawlfleet.core.db import Database
from crawlfleet.model import feed
from crawlfleet.model.feed import FeedKey
from crawlfleet.model.task_spec import DEFAULT_REPORT
from tests.cli.console import Console
from tests.stored_figures import add_account, add_days

FIRST, LAST = date(2026, 1, 30), date(2026, 2, 28)
DAYS = ["--start-date", FIRST.isoformat(), "--end-date", LAST.isoformat()]
APP = "应用.with-a-long-name"


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, **environment: str) -> None:
    """Let stdout be a terminal of so many columns, with colours unless the environment says otherwise."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(columns), **environment}.items():
        monkeypatch.setenv(name, value)


def plain(text: str) -> str:
    """Without what makes it bold or dim."""
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def fill(db: Database) -> None:
    add_account(db, "a", APP)
    add_days(db, "a", FIRST, [20] * 10)
    add_days(db, "a", FIRST + timedelta(10), [20] * 4 + [0] + [20] * 5)
    add_days(db, "a", FIRST + timedelta(25), [20], datetime(2026, 2, 25, tzinfo=UTC))


def deny(db: Database) -> None:
    """The vendor says no, and an hour ago it said no as well."""
    key = FeedKey("appsflyer", "u", "a", DEFAULT_REPORT)
    for moment in (datetime.now(UTC) - timedelta(hours=2), None):
        db.write(lambda connection: feed.deny(connection, key, "no plan [x]"), moment)


def test_coverage_has_a_letter_for_each_day_and_says_what_it_means(any_console: Console) -> None:
    any_console.on_database(fill)
    head, _, _, first, second, blank, *legend = any_console("data", "coverage", *DAYS).out.splitlines()
    assert head == f"u at appsflyer, {DEFAULT_REPORT}"
    assert first.split() == ["a", "." * 14 + "T" + "." * 5 + "MMMMMsMMMM"]
    assert second.split() == [APP, "M" * 30]
    assert blank == ""
    counts = {"M": 39, "?": 0, "T": 1, "s": 1, ".": 19, "D": 0, "-": 0}
    assert {line.split()[0]: int(line.split()[2]) for line in legend} == counts


def test_coverage_as_json_has_exactly_the_promised_keys(any_console: Console) -> None:
    any_console.on_database(fill)
    found = any_console("data", "coverage", "--app-id", "a", *DAYS, "--json").json
    assert len(found) == 30
    feed = {"source": "appsflyer", "username": "u", "app_id": "a", "report": DEFAULT_REPORT}
    assert [each for each in found if each["day"] in ("2026-02-13", "2026-02-24", "2026-02-28")] == [
        feed
        | {
            "day": "2026-02-13",
            "state": "thin",
            "rows": 0,
            "fetched_at": "2026-06-01T00:00:00Z",
            "settles_at": "2026-02-16T00:00:00Z",
        },
        feed
        | {
            "day": "2026-02-24",
            "state": "settling",
            "rows": 20,
            "fetched_at": "2026-02-25T00:00:00Z",
            "settles_at": "2026-02-27T00:00:00Z",
        },
        feed
        | {
            "day": "2026-02-28",
            "state": "missing",
            "rows": None,
            "fetched_at": None,
            "settles_at": "2026-03-03T00:00:00Z",
        },
    ]


def test_without_feeds_coverage_is_empty_and_says_why(ready: Console) -> None:
    said = ready("data", "coverage")
    assert said.code == 0
    assert said.out == ""
    assert "there are no feeds" in said.err
    assert ready("data", "coverage", "--json").json == []


def test_the_default_are_30_days_up_to_yesterday(ready: Console) -> None:
    ready.on_database(lambda db: add_account(db, "a"))

    def yesterday(db: Database) -> date:
        with db.read() as connection:
            return connection.now.date() - timedelta(1)

    before = ready.on_database(yesterday)
    days = [each["day"] for each in ready("data", "coverage", "--json").json]
    assert len(days) == 30
    assert before.isoformat() <= days[-1] <= ready.on_database(yesterday).isoformat()


def test_the_calendar_has_months_above_and_folds_at_the_width_of_the_terminal(
    ready: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, 40, NO_COLOR="1")
    ready.on_database(fill)
    out = ready("data", "coverage", *DAYS).out
    assert "\x1b[3" not in out, "no colour was wanted"
    assert [line.rstrip() for line in plain(out).splitlines()] == [
        f"u at appsflyer, {DEFAULT_REPORT}",
        "    2026-02",
        "    1        10        20",
        "a ..............T.....MMMMMsMMMM",
        APP,
        "  MMMMMMMMMMMMMMMMMMMMMMMMMMMMMM",
        "",
        " M  missing 39",
        " ?  suspect 0",
        " T  thin 1",
        " s  settling 1",
        " .  final 19",
        " D  denied 0",
        " -  impossible 0",
    ]


def test_the_calendar_has_a_colour_for_each_state(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 50)
    ready.on_database(fill)
    out = ready("data", "coverage", "--app-id", "a", *DAYS).out
    [line] = [line for line in out.splitlines() if line.startswith("a ")]
    colours = {"M": "1;37;41", "T": "30;43", "s": "30;46", ".": "30;42"}
    stretches = [".", "T", ".", "M", "s", "M"]
    counts = [14, 1, 5, 5, 1, 4]
    expected = "".join(
        f"\x1b[{colours[letter]}m{letter * count}\x1b[0m" for letter, count in zip(stretches, counts, strict=True)
    )
    assert line == f"a {expected}"
    assert all(f"\x1b[{colour}m {letter} \x1b[0m" in out for letter, colour in colours.items())


def test_the_calendar_says_what_the_vendor_refuses(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 80, NO_COLOR="1")
    ready.on_database(fill)
    ready.on_database(deny)
    lines = plain(ready("data", "coverage", "--app-id", "a", *DAYS).out).splitlines()
    letters = "." * 20 + "D" * 10
    assert lines[3].split() == ["a", letters]
    assert lines[4] == "a: the vendor refuses it: no plan [x]"


@pytest.mark.parametrize("columns", [1, 10, 200])
def test_the_calendar_shows_every_day_on_any_width(
    ready: Console, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    on_terminal(monkeypatch, columns, NO_COLOR="1")
    ready.on_database(fill)
    out = ready("data", "coverage", "--app-id", "a", *DAYS).out
    letters = "".join(line.split()[1] for line in plain(out).splitlines() if line.startswith("a "))
    assert letters == "." * 14 + "T" + "." * 5 + "MMMMMsMMMM"


def test_gaps_say_why_and_what_closes_them(any_console: Console) -> None:
    any_console.on_database(fill)
    said = any_console("data", "gaps", *DAYS, "--json")
    assert said.code == 1
    feed = {"source": "appsflyer", "username": "u", "report": DEFAULT_REPORT}
    found = json.loads(said.out)
    assert [(each["app_id"], each["start_date"], each["end_date"], each["days"], each["state"]) for each in found] == [
        ("a", "2026-02-13", "2026-02-13", 1, "thin"),
        ("a", "2026-02-19", "2026-02-23", 5, "missing"),
        ("a", "2026-02-24", "2026-02-24", 1, "settling"),
        ("a", "2026-02-25", "2026-02-28", 4, "missing"),
        (APP, "2026-01-30", "2026-02-28", 30, "missing"),
    ]
    assert all(feed.items() <= each.items() and each["why"] for each in found)
    words = shlex.split(found[-1]["command"])
    assert words[words.index("tasks") :] == [
        *("tasks", "backfill", "--username", "u", "--source", "appsflyer", "--app-id", APP),
        *("--report", DEFAULT_REPORT, "--start-date", "2026-01-30", "--end-date", "2026-02-28"),
    ]


def test_what_the_vendor_denies_is_a_gap_without_a_command(ready: Console) -> None:
    ready.on_database(lambda db: add_account(db, "a"))
    ready.on_database(deny)
    said = ready("data", "gaps", *DAYS)
    assert said.code == 1
    assert "denied: the vendor refuses it: no plan [x]" in said.out
    assert "closes them" not in said.out
    [gap] = json.loads(ready("data", "gaps", *DAYS, "--json").out)
    assert (gap["state"], gap["command"]) == ("denied", None)


def test_gaps_as_text_and_none(ready: Console) -> None:
    ready.on_database(fill)
    said = ready("data", "gaps", "--app-id", "a", *DAYS)
    assert said.code == 1
    for part in ("2026-02-13", "thin: far fewer rows", "missing: never fetched", "settling: fetched before"):
        assert part in said.out
    assert said.out.count(" tasks backfill ") == 1
    assert said.out.splitlines()[-1].endswith(
        "tasks backfill --all-gaps --app-id a --start-date 2026-01-30 --end-date 2026-02-28"
    )
    said = ready("data", "gaps", "--app-id", "a", "--start-date", "2026-02-01", "--end-date", "2026-02-12")
    assert (said.code, said.out) == (0, "")
    assert "no gaps from 2026-02-01 to 2026-02-12" in said.err


def test_what_is_unknown_is_not_complete(ready: Console) -> None:
    """An account that was never synced had "no gaps", and so had one whose name was mistyped."""
    said = ready("data", "gaps", "--json")
    assert (said.code, said.out) == (1, "[]\n")
    assert "nothing is known" in said.err
    ready("accounts", "add", "--source", "appsflyer", "--username", "never asked", "--token-env", "NOT_SET_HERE")
    said = ready("data", "gaps", "--username", "never asked")
    assert (said.code, said.out) == (1, "")
    assert "account never asked at appsflyer was never synced" in said.err
    assert "`tasks add --type user_apps --username 'never asked' --source appsflyer`" in said.err
    ready.on_database(lambda db: add_account(db, "a"))
    ready.on_database(lambda db: add_days(db, "a", FIRST, [1] * 30))
    assert ready("data", "gaps", "--username", "u", *DAYS).code == 0
    said = ready("data", "gaps", *DAYS)
    assert (said.code, said.out) == (1, "")
    assert "never asked at appsflyer was never synced" in said.err


@pytest.mark.parametrize("command", ["apps", "rows", "coverage", "gaps", "restatements", "export"])
def test_an_unknown_name_is_no_empty_answer(any_console: Console, command: str) -> None:
    any_console.on_database(lambda db: add_account(db, "com.demo.app", username="demo_agency"))
    options: list[object] = ["data", command]
    if command == "export":
        options += ["--format", "csv"]
    error = any_console.refuses(2, *options, "--username", "demo_agancy")
    assert error == "no account 'demo_agancy' is known: did you mean 'demo_agency'?"
    assert "did you mean 'appsflyer'?" in any_console.refuses(2, *options, "--source", "apsflyer")
    error = any_console.refuses(2, *options, "--source", "apple", "--username", "demo_agency")
    assert error == "no account 'demo_agency' at apple is known: `accounts list` shows what is known"
    if command != "apps":
        error = any_console.refuses(2, *options, "--username", "demo_agency", "--app-id", "com.demo.ap")
        assert error == "no app 'com.demo.ap' of demo_agency is known: did you mean 'com.demo.app'?"
        assert any_console(*options, "--app-id", "com.demo.app").code in (0, 1)


def test_a_command_quotes_what_a_shell_would_read_otherwise(ready: Console) -> None:
    ready.on_database(lambda db: add_account(db, "-a; $(x)", username="it's"))
    [gap] = json.loads(ready("data", "gaps", *DAYS, "--json").out)
    for command in (gap["command"], ready("data", "gaps", *DAYS, "--app-id=-a; $(x)").out.splitlines()[-1]):
        words = shlex.split(command)
        assert "--app-id=-a; $(x)" in words
    assert "it's" in shlex.split(gap["command"])


def test_restatements_have_exactly_the_promised_keys(any_console: Console) -> None:
    def refetch(db: Database) -> None:
        add_days(db, "李", FIRST, [1], datetime(2026, 2, 1, tzinfo=UTC), cost="0.1")
        add_days(db, "李", FIRST, [1], datetime(2026, 2, 2, tzinfo=UTC), cost="0.3")

    any_console.on_database(refetch)
    [found] = any_console("data", "restatements", *DAYS, "--json").json
    assert found == {
        "source": "appsflyer",
        "username": "u",
        "app_id": "李",
        "report": DEFAULT_REPORT,
        "day": "2026-01-30",
        "figure": "cost",
        "before": 0.1,
        "after": 0.3,
        "difference": 0.2,
        "currency": "unknown",
        "fetched_before": "2026-02-01T00:00:00Z",
        "fetched_at": "2026-02-02T00:00:00Z",
    }
    out = any_console("data", "restatements", *DAYS).out
    assert "李" in out
    assert "0.2" in out
    said = any_console("data", "restatements", "--report", "other", *DAYS)
    assert (said.code, said.out) == (0, "")
    assert "no day from 2026-01-30 to 2026-02-28 was changed" in said.err


@pytest.mark.parametrize("command", ["coverage", "gaps", "restatements"])
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--start-date", "2026-02-30"], ["--start-date", "'2026-02-30'"]),
        (["--start-date", "2026-02-02", "--end-date", "2026-02-01"], ["2026-02-02", "2026-02-01"]),
        (["--end-date", "9999-12-31"], ["9999-12-31", "today"]),
        (["--app", "x"], ["--app", "did you mean --app-id?"]),
    ],
)
def test_wrong_usage_is_explained(ready: Console, command: str, options: list[str], parts: list[str]) -> None:
    error = ready.refuses(2, "data", command, *options)
    assert [part for part in parts if part not in error] == [], error
