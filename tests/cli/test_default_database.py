"""Which commands make the database at the default address, and which say where they looked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawlfleet.cli.main import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(own_settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which nothing is, as cron has it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["tasks list", "data gaps", "accounts list", "tasks add --type quick", "tasks add --from -", "tokens add ci"],
)
def test_a_command_in_the_wrong_directory_makes_no_database_and_says_where_it_looked(
    elsewhere: Path, capsys: Capture, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty database was made wherever a command was given, and then no account was known there."""
    lines = elsewhere / "lines"
    lines.write_text('{"task_type": "quick"}\n')
    with lines.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert main(command.split()) == 3
    error = capsys.readouterr().err
    assert f"there is no database sqlite:///crawlfleet.db in {elsewhere} (the default)" in error
    assert "--database URL" in error
    assert [each.name for each in elsewhere.iterdir()] == ["lines"]


def test_an_address_that_was_given_is_where_a_command_adds(
    elsewhere: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ["tasks", "add", "--type", "quick"]
    assert main([*add, "--database", "sqlite:///option.db"]) == 0
    (elsewhere / "own.toml").write_text('database_url = "sqlite:///file.db"\n')
    assert main([*add, "--config", "own.toml"]) == 0
    monkeypatch.setenv("CRAWLFLEET_DATABASE_URL", "sqlite:///variable.db")
    assert main(add) == 0
    assert {each.stem for each in elsewhere.glob("*.db")} == {"option", "file", "variable"}
    assert main(["tasks", "list", "--database", "sqlite:///missing.db"]) == 3
    assert "there is no database sqlite:///missing.db (option --database)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["db upgrade", "accounts add --source appsflyer --username u --token-env NOT_SET_HERE"]
)
def test_commands_that_begin_a_fleet_make_the_default_database(elsewhere: Path, command: str) -> None:
    assert main(command.split()) == 0
    assert (elsewhere / "crawlfleet.db").exists()
    assert main(["tasks", "add", "--type", "quick"]) == 0
