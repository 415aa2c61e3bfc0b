from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.model.schema import HEAD
from crawlfleet.planning.tariff import tariff_of
from crawlfleet.settings.layers import load_settings
from crawlfleet.sources.contract import Uncancelled
from tests.cli.console import Console
from tests.conftest import Backend
from tests.ports import free_port

MAIN = Path(__file__).parents[2] / "main.py"


def stamp_migration(console: Console, name: str) -> None:
    """Pretend that another program has migrated the database."""

    def work(db: Database) -> None:
        db.write(
            lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num = :n"), {"n": name})
        )

    console.on_database(work)


def test_upgrade_makes_the_tables_once(
    own_settings: None, empty_backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(empty_backend.url, capsys)
    said = console("db", "upgrade")
    assert (said.code, said.out.endswith(f"is at migration {HEAD}\n")) == (0, True)
    assert console("db", "upgrade").out.endswith(f"is at migration {HEAD} already\n")


def test_check_tells_the_server_and_how_tasks_are_claimed(any_console: Console, backend: Backend) -> None:
    found = any_console("db", "check", "--json").json
    assert list(found) == ["database", "server", "version", "migration", "expected", "claims"]
    assert found["server"].lower() == backend.name
    assert (found["migration"], found["expected"]) == (HEAD, HEAD)
    assert found["claims"] == ("compare and set" if backend.name == "sqlite" else "skip locked")
    text = any_console("db", "check").out
    assert found["version"] in text


def test_check_says_no_to_a_database_of_another_migration(any_console: Console) -> None:
    stamp_migration(any_console, "9999")
    said = any_console("db", "check")
    assert said.code == 1
    assert f"at migration 9999, this program at {HEAD}" in said.err
    assert "newer crawlfleet" in any_console.refuses(3, "tasks", "list")
    assert "newer crawlfleet" in any_console.refuses(3, "tasks", "add", "--type", "noop")
    assert "newer crawlfleet" in any_console.refuses(3, "db", "upgrade")


def test_check_says_no_to_a_database_without_tables(
    own_settings: None, empty_backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if empty_backend.name == "sqlite":
        (tmp_path / "crawlfleet.db").touch()
    said = Console(empty_backend.url, capsys)("db", "check", "--json")
    assert (said.code, json.loads(said.out)["migration"]) == (1, None)


@pytest.mark.parametrize(
    "argv", [["db", "check"], ["db", "upgrade"], ["tasks", "list"], ["tasks", "add", "--type", "a"]]
)
@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_a_database_that_cannot_be_reached_hides_its_password(
    own_settings: None, capsys: pytest.CaptureFixture[str], scheme: str, argv: list[str]
) -> None:
    console = Console(f"{scheme}://u:hunter2hunter2@127.0.0.1:{free_port()}/d", capsys)
    error = console.refuses(3, *argv)
    assert "cannot use the database" in error
    assert "hunter2hunter2" not in error


@pytest.mark.parametrize("url", ["", "nonsense", "oracle://h/d", "sqlite://", "sqlite:///:memory:", "mysql://h"])
def test_a_wrong_database_url_is_wrong_usage(own_settings: None, capsys: pytest.CaptureFixture[str], url: str) -> None:
    Console(url, capsys).refuses(2, "tasks", "list")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--port", "65536"], ["--port", "'65536'"]),
        (["--minute-seconds", "0"], ["--minute-seconds", "'0'"]),
        (["--minute-seconds", "nan"], ["--minute-seconds", "'nan'"]),
        (["--failure-rate", "1.5"], ["--failure-rate", "0 to 1", "'1.5'"]),
        (["--failure-rate", "often"], ["--failure-rate", "'often'"]),
        (["--seed", "-1"], ["--seed", "'-1'"]),
        (["--apps", "x"], ["--apps", "'x'"]),
    ],
)
def test_a_wrong_option_of_the_sandbox_is_named(ready: Console, options: list[str], parts: list[str]) -> None:
    error = ready.refuses(2, "sandbox", *options)
    assert [part for part in parts if part not in error] == [], error


def test_the_sandbox_serves_at_any_address_and_prints_the_settings_that_go_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a vendor's minute of half a second nodes went on waiting for 60 s, and IPv6 was refused."""
    command = [sys.executable, str(MAIN), "sandbox", "--port", "0", "--apps", "2", "--minute-seconds", "0.5"]
    process = subprocess.Popen([*command, "--host", "::1"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[3].rstrip(";")
        assert address.startswith("http://[::1]:")
        said = "".join(itertools.takewhile(lambda line: "Calls so far" not in line, process.stdout))
        file = tmp_path / "sandbox.toml"
        file.write_text(textwrap.dedent(said.partition("with\n")[2]), encoding="utf-8")
        settings = load_settings(file, {}, {})
        assert {table["base_url"] for table in settings.sources.values()} == {address}
        tariff = tariff_of(settings)
        tariff.check()
        assert tariff.limit_of("appsflyer", "aggregate_short_range") == (1, 0.5)
        assert tariff.limit_of("appsflyer", "app_list_minute") == (20, 0.5)
        assert tariff.limit_of("appsflyer", "aggregate_long_range_app") == (24, 86_400)
        assert tariff.limit_of("apple", "store_calls") == (19, 0.5)
        account = Account("appsflyer", "u", token_env="U_TOKEN")
        monkeypatch.setenv("U_TOKEN", "sandbox-u")
        assert len(list(tariff.source("appsflyer").list_apps(account, Uncancelled()))) == 2
        request = urllib.request.Request(f"{address}/api/mng/apps", headers={"Authorization": "Bearer sandbox-u"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert len(json.load(answer)["data"]) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_taken_port_of_the_sandbox_is_named() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, str(MAIN), "sandbox", "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert port in ended.stderr
