"""What people see, of every command that prints tables or times, with the values that are hard to show."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len

from crawlfleet.cli.output import cell
from tests.cli.awkward import ACCOUNTS, APPS, DEVICES, LONG_ERROR, filled
from tests.cli.console import Console

JANUARY = ("--start-date", "2026-01-01", "--end-date", "2026-01-31")
SEPTEMBER = ("--start-date", "2026-09-01", "--end-date", "2026-09-04")
SCREENS: list[tuple[str, ...]] = [
    ("distribute", "status"),
    ("distribute", "config", "--show"),
    ("devices", "list"),
    ("tasks", "list"),
    ("tasks", "show", "1"),
    ("tasks", "show", "2"),
    ("tasks", "stats"),
    ("tasks", "explain", "1"),
    ("tasks", "explain", "5"),
    ("tasks", "forecast"),
    ("tasks", "backfill", "--username", ACCOUNTS[1], *SEPTEMBER, "--dry-run"),
    ("accounts", "list"),
    ("accounts", "show", ACCOUNTS[1]),
    ("tokens", "list"),
    ("data", "apps"),
    ("data", "rows"),
    ("data", "coverage", *JANUARY),
    ("data", "gaps", *JANUARY),
    ("data", "restatements", *JANUARY),
    ("db", "check"),
    ("doctor",),
]
ZONE = "times are in UTC+08:00 (CST)"
COMMAND = re.compile(r"(python\S* main\.py|crawlfleet) ")  # to be copied: it stays on one line


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("awkward") / "crawlfleet.db"
    filled(path)
    return path


@pytest.fixture
def full(console: Console, file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """The program on a database full of awkward values, for a user in Shanghai."""
    shutil.copy(file, console.url.removeprefix("sqlite:///"))
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield console
    monkeypatch.undo()
    time.tzset()


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Let stdout be a terminal of so many columns."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("screen", SCREENS, ids=" ".join)
def test_no_line_is_wider_than_the_terminal(
    full: Console, monkeypatch: pytest.MonkeyPatch, screen: tuple[str, ...], columns: int
) -> None:
    """Tables were drawn wider than they had room for: `dev/ice`, `2026-/01-01`."""
    terminal(monkeypatch, columns)
    said = full(*screen)
    lines = plain(said.out)
    assert lines, said.err
    assert [line for line in lines if cell_len(line) > columns and not COMMAND.match(line)] == []
    broken = [line for line in lines if re.search(r"(^|\D)\d{4}-(\d\d-?|\d)?$|^ *-?\d\d-\d\d\b(?!\S)", line)]
    assert [line for line in broken if line.strip() != "2026-01"] == [], "dates stay whole"  # the calendar's heading


@pytest.mark.parametrize("columns", [80, 120])
def test_a_process_asks_its_terminal_how_wide_it_is(full: Console, columns: int) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-c", "from crawlfleet.cli.main import main; main()", "tasks", "list", "--limit", "9"]
    with subprocess.Popen(
        [*command, "--database", full.url],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env={**environment, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        os.close(follower)
        out = b"".join(iter(lambda: _read(leader), b"")).decode()
    os.close(leader)
    assert process.returncode == 0
    lines = plain(out)
    assert lines[0].split()[:3] == ["id", "type", "status"]
    assert columns - 30 < max(map(cell_len, lines)) <= columns
    assert "\x1b[1m" in out


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:  # the other side is closed
        return b""


@pytest.mark.parametrize("columns", ["80", "120"])
def test_every_name_and_every_range_of_days_stands_whole_on_a_line(
    full: Console, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Without a terminal, too, COLUMNS is honoured."""
    monkeypatch.setenv("COLUMNS", columns)
    tasks = full("tasks", "list", "--json").json
    names = ("task_type", "status", "username", "app_id", "assigned_device_id")
    out = full("tasks", "list").out
    lines = [line for line in out.splitlines() if cell_len(line) <= int(columns)]
    for task in tasks:
        shown = [str(task[name]) for name in names if task[name] is not None]
        if task["start_date"]:
            shown.append(f"{task['start_date']}..{task['end_date']}")
        assert [text for text in shown if not any(text in line for line in lines)] == []
    assert {line.split()[0] for line in lines} >= {str(task["id"]) for task in tasks}
    for screen, whole in (
        (("devices", "list"), DEVICES),
        (("accounts", "list"), ACCOUNTS),
        (("data", "apps"), (*APPS, *ACCOUNTS)),
        (("data", "coverage", *JANUARY), (*APPS, *ACCOUNTS)),
        (("data", "gaps", *JANUARY), ("2026-01-01", "2026-01-31", *APPS)),
        (("data", "restatements", *JANUARY), (*APPS[1:], "2026-01-01", "2026-01-09 08:00:00")),
        (("data", "rows"), (*APPS[1:], "2026-01-02", "c" * 60, "春节活动-2026-01-01")),
    ):
        lines = full(*screen).out.splitlines()
        assert [name for name in whole if not any(cell(name) in line for line in lines)] == [], screen


def test_an_empty_column_is_left_out_and_a_long_reason_stands_below(full: Console) -> None:
    lines = full("tasks", "list").out.splitlines()
    assert lines[0].split() == ["id", "type", "status", "when", "username", "device"]
    [number] = [n for n, line in enumerate(lines) if re.match(r" ?1 +app_data +completed", line)]
    assert lines[number].split()[:7] == ["1", "app_data", "completed", "ended", "2026-01-09", ACCOUNTS[0], DEVICES[0]]
    below = lines[number + 1]
    assert below == f"    app: {APPS[0]}  days: 2026-01-01..2026-01-31  source: appsflyer"
    assert any(line.startswith(f"    error: {LONG_ERROR[:30]}") for line in lines)
    assert not any("labels" in line for line in lines), "no task has such a value"


STATES = [
    (("tasks", "list"), "failed"),
    (("tasks", "show", "3"), "failed"),
    (("devices", "list"), "offline"),
    (("distribute", "status"), "offline"),
    (("accounts", "show", "u"), "parked"),
    (("doctor",), "FAIL"),
]


@pytest.mark.parametrize(("screen", "state"), STATES, ids=lambda value: value if isinstance(value, str) else None)
def test_what_is_wrong_has_a_colour_on_a_terminal(
    full: Console, monkeypatch: pytest.MonkeyPatch, screen: tuple[str, ...], state: str
) -> None:
    coloured = f"\x1b[1;31m{state}\x1b[0m"
    assert coloured not in full(*screen).out
    terminal(monkeypatch, 80)
    assert coloured in full(*screen).out
    monkeypatch.setenv("NO_COLOR", "1")
    out = full(*screen).out
    assert state in out
    assert "\x1b" not in out


def test_the_calendar_has_its_legend_without_a_terminal(full: Console) -> None:
    """Nobody could know what the letters of a piped calendar meant."""
    lines = full("data", "coverage", *JANUARY).out.splitlines()
    assert lines[-7:] == [
        " M  missing 487",
        " ?  suspect 0",
        " T  thin 0",
        " s  settling 0",
        " .  final 9",
        " D  denied 0",
        " -  impossible 0",
    ]


WITH_TIMES = [
    ("distribute", "status"),
    ("tasks", "list"),
    ("tasks", "show", "2"),
    ("tasks", "explain", "1"),
    ("tasks", "forecast"),
    ("accounts", "show", "u"),
    ("data", "restatements", *JANUARY),
    ("tokens", "list"),
    ("tasks", "backfill", "--username", ACCOUNTS[1], *SEPTEMBER, "--dry-run"),
]


@pytest.mark.parametrize("screen", WITH_TIMES, ids=" ".join)
def test_all_times_of_a_screen_are_of_one_zone_that_is_named_once(full: Console, screen: tuple[str, ...]) -> None:
    """Times were local without a word, and nobody knew whether they were UTC."""
    out = full(*screen).out
    assert out.count("times are in") == 1
    assert out.splitlines()[-1] == ZONE
    assert not re.search(r"\d\d:\d\d:\d\d(\.\d+)?( ?UTC|Z)", out)
    text = full(*screen, "--json").out
    assert "times are in" not in text
    assert "+08:00" not in text
    assert all(moment.endswith("Z") for moment in re.findall(r'"(\d{4}-\d\d-\d\dT[^"]*)"', text))


def test_a_moment_has_the_offset_of_now_also_where_another_will_hold(
    full: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One screen has one offset, though the user's clock is put forward in spring."""
    monkeypatch.setenv("TZ", "XST-01XDT,0/0,1/0")  # summer time is the first day of the year
    time.tzset()
    out = full("tasks", "show", "17").out
    assert "due: 2031-01-09 09:00:00" in out
    assert out.splitlines()[-1] == "times are in UTC+01:00 (XST)"


def test_a_screen_without_times_names_no_zone(full: Console) -> None:
    for screen in (("devices", "list"), ("tasks", "stats"), ("data", "gaps", *JANUARY)):
        assert "times are in" not in full(*screen).out


def test_how_long_ago_goes_by_the_clock_of_the_database(full: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop whose clock is wrong by hours still says when a device was heard of."""
    monkeypatch.setattr(
        "crawlfleet.core.transaction.Reader.now",
        property(lambda _self: datetime.now(UTC) + timedelta(hours=3)),
        raising=True,
    )
    out = full("devices", "list").out
    assert re.search(r"d3 +silent +2 +5 +3 h ago", out), out
