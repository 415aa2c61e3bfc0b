"""Standard streams that are closed, full or broken: the exit code says what was done."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO, cast

import pytest

from crawlfleet.cli.main import CHANGES, main
from crawlfleet.cli.streams import LastingStream
from crawlfleet.model.api_token import ApiTokenDAO, Role
from crawlfleet.services.fleet import connect
from tests.nodes import ROOT

FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")


@FULL
def test_a_task_is_added_once_whatever_becomes_of_the_streams(tmp_path: Path) -> None:
    """It was queued, and then the command failed: a script did it again."""
    url = f"sqlite:///{tmp_path}/c.db"
    add = f"{sys.executable} {ROOT}/main.py tasks add --type user_apps --source apple --username u --database {url}"
    said = ""
    for redirection in ("<&- >&- 2>&-", ">/dev/full"):
        done = subprocess.run(["sh", "-c", f"{add} {redirection}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (redirection, done.stderr)
        said += done.stderr
    assert said == "the output could not be written: No space left on device\n"
    nothing = f"{sys.executable} {ROOT}/main.py tasks add --from - --database {url} <&- 2>/dev/full"
    assert subprocess.run(["sh", "-c", nothing], capture_output=True, check=False).returncode == 0
    fleet = connect(url)
    assert fleet.tasks.stats()["pending"] == 2
    fleet.close()


@FULL
def test_a_stream_that_breaks_goes_on_into_nothing() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        lasting = LastingStream(cast("TextIO", full))
        for _ in range(3):
            assert lasting.write("x" * 10_000) == 10_000
            lasting.writelines(["a", "b"])
            lasting.flush()
        assert lasting.problem == "No space left on device"
        assert (lasting.encoding, lasting.isatty()) == ("utf-8", False)


def test_a_stream_that_works_is_as_before() -> None:
    stream = io.StringIO()
    lasting = LastingStream(stream)
    lasting.writelines(["a", "b"])
    lasting.flush()
    assert (stream.getvalue(), lasting.problem) == ("ab", None)


@pytest.mark.parametrize("command", CHANGES)
def test_the_commands_that_change_something_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for subcommand in sorted(CHANGES[command]):
        assert main([command, subcommand, "--help"]) == 0, subcommand
    assert capsys.readouterr().err == ""


def _run(command: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} {ROOT}/main.py {command}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@FULL
def test_a_token_that_nobody_saw_is_not_kept(tmp_path: Path) -> None:
    """It was stored, its text lost for ever, and from then on the API demanded a token."""
    url = f"sqlite:///{tmp_path}/c.db"
    add = f"tokens add ann --role admin --database {url}"
    connect(url).close()
    for redirection, code, said in (
        (">/dev/full", 1, "not be shown, so it is not kept\nerror: the output could not be written: No space left"),
        ("--json >/dev/full", 1, "error: the output could not be written: No space left on device\n"),
        (">&-", 2, "error: stdout is closed, so nobody would see the token: nothing was stored\n"),
    ):
        done = _run(f"{add} {redirection}")
        assert done.returncode == code, (redirection, done.stderr)
        assert said in done.stderr
        assert "keep it now" not in done.stderr
    fleet = connect(url)
    assert (ApiTokenDAO(fleet.db).find(), ApiTokenDAO(fleet.db).known().demanded) == ([], False)
    fleet.close()


def test_a_token_whose_reader_went_away_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/c.db"
    fleet = connect(url)
    tokens = ApiTokenDAO(fleet.db)
    tokens.add("bob", Role.READ)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["tokens", "add", "ann", "--database", url]) == 141
        monkeypatch.undo()
    assert [token.name for token in tokens.find()] == ["bob"]
    assert tokens.known().demanded
    fleet.close()


@FULL
@pytest.mark.parametrize("command", ["tokens list", "tasks list --json", "data export --format csv", "--help"])
def test_a_command_that_only_shows_something_says_that_it_could_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """It was told as an unexpected OSError, or not at all."""
    url = f"sqlite:///{tmp_path}/c.db"
    connect(url).close()
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([*command.split(), *([] if command == "--help" else ["--database", url])]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == "error: the output could not be written: No space left on device\n"
