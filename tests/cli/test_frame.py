from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from crawlfleet import __version__
from crawlfleet.cli import output
from crawlfleet.cli.arguments import Parser, add_json_option, first_word, settings_from
from crawlfleet.cli.main import GROUPS, INTERRUPTED, READER_GONE, main
from crawlfleet.core.errors import CrawlfleetError, DatabaseUnreachable

Run = Callable[[Any], int | None]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Puts a command `tasks list` in place whose work is the given function."""

    def install(run: Run) -> None:
        def add_parser(subparsers: Any) -> None:
            inner = subparsers.add_parser("tasks").add_subparsers(required=True)
            listing = inner.add_parser("list")
            listing.add_argument("--limit", type=int)
            listing.add_argument("--priority", type=int)
            add_json_option(listing)
            listing.set_defaults(run=run)

        module = types.ModuleType("fake_tasks")
        module.add_parser = add_parser  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_tasks", module)
        monkeypatch.setitem(GROUPS, "tasks", ("fake_tasks", "tasks"))

    return install


def failing(error: BaseException) -> Run:
    def run(_args: Any) -> int:
        raise error

    return run


@pytest.mark.parametrize("name", GROUPS)
def test_each_command_group_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = GROUPS[name][0]
    if find_spec(module) is None:
        pytest.skip(f"{module} does not exist yet")
    assert main([name, "--help"]) == 0
    assert f"usage: crawlfleet {name}" in capsys.readouterr().out


def test_help_lists_every_command_and_version_says_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {name} " in shown for name in GROUPS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"crawlfleet {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["--database", "sqlite:///x.db", "--config", "c.toml", "--debug", "tasks", "list"],
        ["tasks", "--database", "sqlite:///x.db", "--config", "c.toml", "--debug", "list"],
        ["tasks", "list", "--database", "sqlite:///x.db", "--config", "c.toml", "--debug"],
        ["--database=sqlite:///x.db", "tasks", "-c", "c.toml", "list", "--debug"],
    ],
)
def test_the_options_of_every_command_may_stand_anywhere(argv: list[str], group: Callable[[Run], None]) -> None:
    seen: list[Any] = []
    group(seen.append)
    assert main(argv) == 0
    assert (seen[0].database, seen[0].config, seen[0].debug) == ("sqlite:///x.db", "c.toml", True)


def test_what_was_not_given_is_none(group: Callable[[Run], None]) -> None:
    seen: list[Any] = []
    group(seen.append)
    assert main(["tasks", "list", "--priority", "-5"]) == 0
    assert (seen[0].database, seen[0].config, seen[0].debug, seen[0].json) == (None, None, False, False)
    assert seen[0].priority == -5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["distrbute"], "'distrbute' is not one of distribute, tasks, "),
        (["distrbute"], "(did you mean distribute?)"),
        (["distribute", "standalon"], "(did you mean standalone?)"),
        (["distribute", "standalone", "--devcie-id", "a"], "unknown option --devcie-id: did you mean --device-id?"),
        (["distribute", "standalone", "--device", "a"], "unknown option --device"),
        (["distribute", "standalone", "--port=1", "--prot=2"], "unknown option --prot: did you mean --port?"),
        (["tasks", "list", "--limit", "many"], "--limit: invalid int value: 'many'"),
        (["tasks", "list", "extra"], "unexpected argument 'extra'"),
        (["tasks", "list", "--database"], "--database: expected one argument"),
        (["tasks", "list", "--config=--"], "--config/-c: expected one argument"),
        (["tasks", "list", "--database=sqlite:///\udcff.db"], "'--database=sqlite:///\\udcff.db' is not UTF-8"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_is_allowed(
    argv: list[str], message: str, group: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    group(lambda _args: 0)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert "--help" in err


def test_a_failure_is_one_line_on_stderr_with_its_exit_code(
    group: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    group(failing(DatabaseUnreachable("cannot use the database mysql://u:hunter2@h/d:\n  no route")))
    assert main(["tasks", "list"]) == 3
    assert capsys.readouterr().err == "error: cannot use the database mysql://u:***@h/d: no route\n"
    group(failing(CrawlfleetError("no")))
    assert main(["tasks", "list"]) == 1


def test_a_message_with_a_huge_value_keeps_its_begin_and_its_end(
    group: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    group(lambda _args: 0)
    assert main(["tasks", "list", "--json=" + "x" * 100_000]) == 2
    err = capsys.readouterr().err
    assert len(err) < 1100
    assert err.startswith("error: --json: ignored explicit argument 'xxx")
    assert err.endswith("xxx'; see crawlfleet tasks list --help\n")


def test_an_unexpected_failure_shows_its_traceback_only_with_debug(
    group: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    group(failing(ValueError("odd")))
    assert main(["tasks", "list"]) == 1
    assert capsys.readouterr().err == "error: unexpected ValueError: odd (--debug shows where)\n"
    assert main(["tasks", "list", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), INTERRUPTED), (SystemExit(4), 4), (SystemExit(), 0)])
def test_ends_that_are_no_failure_say_nothing(
    error: BaseException, code: int, group: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    group(failing(error))
    assert main(["tasks", "list"]) == code
    assert capsys.readouterr() == ("", "")


def test_the_work_decides_the_exit_code(group: Callable[[Run], None]) -> None:
    for result, code in ((None, 0), (0, 0), (1, 1)):
        group(lambda _args, result=result: result)  # type: ignore[misc]
        assert main(["tasks", "list"]) == code


PROGRAM = """
import sys, types
from crawlfleet.cli import main as frame
def run(args):
    sys.stdin.read()
    for number in range(100_000):
        print(number)
def add_parser(subparsers):
    subparsers.add_parser("tasks").set_defaults(run=run)
sys.modules["fake"] = types.ModuleType("fake")
sys.modules["fake"].add_parser = add_parser
frame.GROUPS["tasks"] = ("fake", "")
sys.exit(frame.main(["tasks"]))
"""


def child(code: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **options
    )


def test_a_reader_that_has_gone_ends_the_command_quietly() -> None:
    process = child(PROGRAM, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(b"", timeout=60)
    assert (process.returncode, err) == (READER_GONE, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_a_failure_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        process = child(PROGRAM, stdout=full)
        _, err = process.communicate(b"", timeout=60)
    assert process.returncode == 1
    assert err.count(b"\n") == 1
    assert b"No space left on device" in err


def test_starting_imports_nothing_heavy() -> None:
    heavy = ["rich", "sqlalchemy", "tomllib", "difflib", "socket", "asyncio", "httpx2", "pydantic", "logging.handlers"]
    code = f"""
import sys
from crawlfleet.cli.main import build_parser
from crawlfleet.settings.layers import load_settings
build_parser("distribute")
load_settings(None, {{"device_id": "a"}})
print([name for name in {heavy!r} if name in sys.modules])
"""
    out, err = child(code, stdout=subprocess.PIPE).communicate(timeout=60)
    assert (out, err) == (b"[]\n", b"")


def test_the_command_is_found_behind_options_with_values() -> None:
    assert first_word(["--database", "tasks", "-c", "data", "--debug", "db", "check"]) == "db"
    assert first_word(["--database=x", "db"]) == "db"
    assert first_word(["--version"]) is None
    assert first_word(["--config"]) is None


def test_settings_of_a_command_come_from_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CRAWLFLEET_DATABASE_URL", raising=False)
    file = tmp_path / "c.toml"
    file.write_text("database_url = 'sqlite:///a.db'\nmax_retry_count = 7\n")
    parser = Parser(prog="p")
    parser.set_defaults(database=None, config=None)
    settings = settings_from(parser.parse_args(["--config", str(file)]), port=1)
    assert (settings.database_url, settings.max_retry, settings.port) == ("sqlite:///a.db", 7, 1)
    assert "is now called max_retry" in caplog.text
    assert (
        settings_from(parser.parse_args(["-c", str(file), "--database", "sqlite:///b.db"])).database_url
        == "sqlite:///b.db"
    )


class Colour(Enum):
    RED = "red"


def printed_json(value: Any, capsys: pytest.CaptureFixture[str]) -> str:
    output.print_json(value)
    return capsys.readouterr().out


def test_json_holds_moments_in_utc_dates_and_exact_decimals(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed_json(
        {
            "naive": datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001  (as databases give it)
            "zone": datetime(2026, 1, 2, 3, 4, 5, 600, timezone(timedelta(hours=8))),
            "day": date(2026, 1, 2),
            "cost": Decimal("12345678901234567890.10"),
            "tiny": Decimal("1E-7"),
            "state": Colour.RED,
            "name": '苹果 "x"',
            "none": None,
            "yes": True,
            5: (1, 2.5),
            "empty": [],
            "nothing": {},
        },
        capsys,
    )
    assert '"cost": 12345678901234567890.10,' in text
    assert '"tiny": 0.0000001,' in text
    assert "苹果" in text
    found = json.loads(text)
    assert found["naive"] == "2026-01-02T03:04:05Z"
    assert found["zone"] == "2026-01-01T19:04:05.000600Z"
    assert (found["day"], found["state"], found["5"]) == ("2026-01-02", "red", [1, 2.5])
    assert (found["none"], found["yes"], found["empty"], found["nothing"]) == (None, True, [], {})


def test_json_of_rows_is_read_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed_json(({"n": n} for n in range(3)), capsys)) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_json_stays_json_where_the_terminal_knows_no_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii", errors="backslashreplace"))
    output.print_json({"app": "苹果 😀"})
    sys.stdout.flush()
    assert json.loads(buffer.getvalue()) == {"app": "苹果 😀"}


def test_a_table_without_a_terminal_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(
        ("id", "name", "ok", "tags"), [(5, "苹果", True, ["a", "b"]), (123, "x\x1b[31m", None, {"k": 1})]
    )
    assert capsys.readouterr().out.splitlines() == [
        " id  name    ok   tags",
        "  5  苹果    yes  a, b",
        "123  x [31m       k=1",
    ]


def test_marks_that_take_no_room_do_not_shift_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("name", "id"), [("\u0928\u0940", 1), ("e\u0301", 22)])  # two letters, each with a mark
    assert capsys.readouterr().out.splitlines() == [
        "name  id",
        "\u0928\u0940" + " " * 5 + " 1",
        "e\u0301" + " " * 5 + "22",
    ]


def test_a_table_without_rows_shows_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("id", "name"), [])
    assert capsys.readouterr().out == "id  name\n"


def test_a_table_on_a_terminal_shows_markup_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.print_table(("id", "name"), [(1, "[red]app[/]")])
    assert "[red]app[/]" in capsys.readouterr().out


def test_progress_without_a_terminal_says_a_line_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 5.0, 5.0, 6.0, 11.0, 11.0])
    monkeypatch.setattr("crawlfleet.cli.output.time.monotonic", lambda: next(clock))
    with output.progress(40, "copying") as advance:
        for _ in range(4):
            advance(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "copying: 20 of 40\ncopying: 40 of 40\n"
