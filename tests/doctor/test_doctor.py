"""`doctor`: one line for each thing that it looked at, on healthy machines and on sick ones; it never hangs."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.doctor import database_checks, findings, machine_checks
from crawlfleet.doctor.findings import Check, Finding, ok
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.claim_strategy import Strategy
from crawlfleet.settings.definitions import Settings
from tests.cli.console import Console
from tests.conftest import Backend
from tests.ports import free_port
from tests.tcp_proxy import TcpProxy

SECRET = "sandbox-secret-of-u-that-nobody-guesses"
LINE = re.compile(r"(OK|WARN|FAIL) +([a-z ]+?)  +\S.*")


@pytest.fixture(autouse=True)
def free_api_port(own_settings: None, monkeypatch: pytest.MonkeyPatch) -> int:
    """So that nothing else on this machine counts."""
    port = free_port()
    monkeypatch.setenv("CRAWLFLEET_PORT", str(port))
    return port


def found(console: Console, *options: str, code: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Findings by check."""
    said = console("doctor", "--json", *options)
    assert said.code == code, said
    by_check: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(said.out):
        assert set(finding) == {"check", "status", "finding", "advice"}
        assert bool(finding["advice"]) == (finding["status"] != "OK"), finding
        by_check.setdefault(finding["check"], []).append(finding)
    return by_check


def statuses(findings: dict[str, list[dict[str, Any]]]) -> dict[str, set[str]]:
    return {check: {each["status"] for each in several} for check, several in findings.items()}


def add_account(console: Console, **more: Any) -> None:
    console.on_database(lambda db: AccountDAO(db).add(Account("appsflyer", "u", **more)))


def test_a_healthy_machine_gets_ok_everywhere(any_console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("U_TOKEN", SECRET)
    add_account(any_console, token_env="U_TOKEN")
    said = any_console("doctor")
    assert said.code == 0, said
    lines = [LINE.fullmatch(line) for line in said.out.splitlines()]
    assert all(lines), said.out
    got = {match[2]: match[1] for match in lines if match is not None}
    got.pop("durability", None)  # the tests' servers trade it for speed
    got.pop("packets", None)  # MariaDB has such a limit
    assert got == dict.fromkeys(
        (
            "settings",
            "database",
            "round trip",
            "clock",
            "isolation",
            "migrations",
            "claims",
            "tokens",
            "proxies",
            "executors",
            "disk",
            "ports",
        ),
        "OK",
    )
    assert SECRET not in said.out + said.err
    assert "1 account, and all that is needed is on this machine" in said.out


def test_the_server_and_its_rules_are_told(backend: Backend, any_console: Console) -> None:
    told = found(any_console)
    product = {"sqlite": "SQLite 3.", "mariadb": "MariaDB ", "postgresql": "PostgreSQL "}[backend.name]
    assert told["database"][0]["finding"].startswith(product)
    rules = {"sqlite": "serialisable, one writer at a time; write-ahead log"}.get(backend.name, "read committed")
    assert told["isolation"][0]["finding"] == rules
    assert re.match(r"\d+\.\d ms, the median of 7", told["round trip"][0]["finding"])
    claims = {"sqlite": "compare and set"}.get(backend.name, "SKIP LOCKED works")
    assert told["claims"][0]["finding"].startswith(claims)
    if backend.name == "mariadb":
        assert told["packets"][0]["finding"] == "max_allowed_packet is 16 MB"
    if backend.name == "postgresql":
        assert "fsync is off" in told["durability"][0]["finding"]


def test_a_database_that_is_not_there_yet_is_made_by_nobody(console: Console, tmp_path: Path) -> None:
    told = found(console)
    assert statuses(told)["database"] == {"WARN"}
    assert "migrations" not in told
    assert not (tmp_path / "crawlfleet.db").exists()


def test_an_empty_database_lacks_its_tables_and_nothing_else(
    empty_backend: Backend, own_settings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Database(empty_backend.url).open()):
        pass
    told = found(Console(empty_backend.url, capsys))
    assert statuses(told)["migrations"] == {"WARN"}
    assert "run `db upgrade`" in told["migrations"][0]["advice"]
    assert not {"claims", "tokens"} & set(told)


def test_a_database_of_a_newer_program_is_a_failure(any_console: Console) -> None:
    def age(db: Database) -> None:
        db.write(lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))

    any_console.on_database(age)
    told = found(any_console, code=1)
    assert statuses(told)["migrations"] == {"FAIL"}
    assert "upgraded by a newer crawlfleet (migration 9999" in told["migrations"][0]["finding"]
    assert told["migrations"][0]["advice"] == "update this program"


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_wrong_port_fails_with_the_address_and_without_the_password(
    backend: Backend, own_settings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    told = found(Console(backend.url_at(port), capsys), code=1)
    [database] = told["database"]
    assert database["status"] == "FAIL"
    assert str(port) in database["finding"]
    assert database["advice"] == "check address, user, password and network"
    assert not {"isolation", "migrations", "clock"} & set(told)
    assert {"disk", "ports", "proxies"} <= set(told)


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_database_that_stops_answering_holds_nobody_up(
    backend: Backend, any_console: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections, and then says nothing."""
    assert backend.server is not None
    monkeypatch.setattr(findings.Check.__init__, "__defaults__", (1.0,))
    with TcpProxy("127.0.0.1", backend.server.port) as proxy:
        proxy.blackhole()
        told = found(Console(backend.url_at(proxy.port), capsys), code=1)
    [database] = told["database"]
    assert (database["status"], database["finding"]) == ("FAIL", "no answer within 1 s")


def test_a_file_that_is_no_database_fails(console: Console, tmp_path: Path) -> None:
    (tmp_path / "crawlfleet.db").write_bytes(b"this is a letter, not a database" * 100)
    told = found(console, code=1)
    assert statuses(told)["database"] == {"FAIL"}
    assert "name another file" in told["database"][0]["advice"]


def test_a_missing_token_is_named_but_not_shown(
    any_console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_account(any_console, token_env="U_TOKEN")
    file = tmp_path / "token"
    monkeypatch.setenv("CRAWLFLEET_TOKEN_FOLDER", str(tmp_path))
    any_console.on_database(lambda db: AccountDAO(db).add(Account("appsflyer", "v", token_file=str(file))))
    any_console.on_database(lambda db: AccountDAO(db).add(Account("appsflyer", "w", token_sealed="gAAAA")))
    any_console.on_database(lambda db: AccountDAO(db).add(Account("apple", "123")))
    told = found(any_console, code=1)
    texts = [each["finding"] for each in told["tokens"]]
    assert statuses(told)["tokens"] == {"FAIL"}
    assert texts[:2] == [
        "account u at appsflyer: environment variable U_TOKEN is not set on this node",
        f"account v at appsflyer: token file {file} cannot be read: No such file or directory",
    ]
    assert texts[2].startswith("account w at appsflyer: there is no key for sealed tokens on this node")
    assert len(texts) == 3
    monkeypatch.setenv("U_TOKEN", f"{SECRET} with a blank")
    file.write_text(SECRET)
    said = any_console("doctor")
    assert said.code == 1
    assert "the token holds characters that no header may carry" in said.out
    assert SECRET not in said.out + said.err


def test_a_refused_token_is_a_warning(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("U_TOKEN", SECRET)
    add_account(ready, token_env="U_TOKEN")
    ready.on_database(
        lambda db: db.write(lambda c: c.execute(sa.text("UPDATE cl_account SET status = 'token_expired'")))
    )
    [token] = found(ready)["tokens"]
    assert (token["status"], token["finding"]) == ("WARN", "the vendor refused the token of u at appsflyer")
    assert "accounts resume u" in token["advice"]


def test_of_many_missing_tokens_the_first_are_told(ready: Console) -> None:
    for number in range(30):
        ready.on_database(lambda db, n=number: AccountDAO(db).add(Account("appsflyer", f"u{n:02}", token_env=f"T{n}")))  # type: ignore[misc]
    texts = [each["finding"] for each in found(ready, code=1)["tokens"]]
    assert len(texts) == machine_checks.MAX_LINES + 1
    assert texts[-1] == "10 more like these"


def test_a_full_disk_fails_and_a_filling_one_warns(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = 2**62
    monkeypatch.setattr(machine_checks, "DISK_WARN_BYTES", huge)
    told = found(ready)
    assert statuses(told)["disk"] == {"WARN"}
    assert len(told["disk"]) == 2
    monkeypatch.setattr(machine_checks, "DISK_FAIL_BYTES", huge)
    assert statuses(found(ready, code=1))["disk"] == {"FAIL"}


def test_proxies_that_are_used_must_take_connections(
    any_console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dead, closed = free_port(), free_port()
    monkeypatch.setenv("U_TOKEN", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as alive:
        add_account(any_console, token_env="U_TOKEN", proxy=f"http://user:${{PROXY_PASSWORD}}@127.0.0.1:{dead}")
        any_console.on_database(
            lambda db: AccountDAO(db).add(
                Account("appsflyer", "v", token_env="U_TOKEN", proxy=f"socks5://127.0.0.1:{alive.getsockname()[1]}")
            )
        )
        config = tmp_path / "c.toml"
        config.write_text(f'[sources.appsflyer]\nproxy = "http://u:{SECRET}@127.0.0.1:{closed}"\n')
        [unused] = found(any_console, "--config", str(config))["proxies"]
        assert unused["finding"] == "use_proxy is off; 3 are known and not used"
        monkeypatch.setenv("CRAWLFLEET_USE_PROXY", "true")
        texts = [each["finding"] for each in found(any_console, "--config", str(config), code=1)["proxies"]]
        assert texts == [
            f"proxy http://127.0.0.1:{closed} cannot be reached: Connection refused",
            f"proxy http://127.0.0.1:{dead}: environment variable PROXY_PASSWORD is not set on this node",
            "1 of 3 take connections",
        ]
        monkeypatch.setenv("PROXY_PASSWORD", SECRET)
        said = any_console("doctor", "--config", str(config))
        assert f"proxy http://127.0.0.1:{dead} cannot be reached: Connection refused" in said.out
        assert SECRET not in said.out + said.err


def test_use_proxy_without_a_proxy_is_a_warning(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAWLFLEET_USE_PROXY", "true")
    assert statuses(found(ready))["proxies"] == {"WARN"}


def test_a_port_that_was_asked_for_must_be_free(
    ready: Console, free_api_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", free_api_port)):
        [taken] = found(ready, code=1)["ports"]
        assert "Address already in use" in taken["finding"]
        monkeypatch.setenv("CRAWLFLEET_API", "false")
        [off] = found(ready)["ports"]
        assert off["finding"] == "the API is off"
    monkeypatch.setenv("CRAWLFLEET_API", "true")
    monkeypatch.setenv("CRAWLFLEET_HOST", "0.0.0.0")
    [opened] = found(ready)["ports"]
    assert (opened["status"], "tokens list" in opened["advice"]) == ("WARN", True)


def test_a_default_port_that_is_taken_is_a_warning(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=taken.getsockname()[1])
        patched = {"port": SimpleNamespace(default=settings.port), "host": SimpleNamespace(default=settings.host)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine_checks, "FIELDS", patched)
            [finding] = machine_checks.ports(settings)
    assert finding.status == "WARN"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concurrent_tasks = 0", "concurrent_tasks must be a whole number"),
        ("nonsense = 1", "unknown key 'nonsense'"),
        ("device_id = ", "c.toml"),
    ],
)
def test_a_wrong_settings_file_is_a_failure_not_an_error(
    ready: Console, tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text)
    told = found(ready, "--config", str(config), code=1)
    assert list(told) == ["settings"]
    assert message in told["settings"][0]["finding"]
    assert "c.toml" in str(found(ready, "--config", str(tmp_path / "missing-c.toml"), code=1)["settings"])


def test_older_names_and_an_open_file_are_warnings(ready: Console, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'api_token = "{SECRET}"\nmax_retry_count = 2\n')
    config.chmod(0o644)
    texts = [each["finding"] for each in found(ready, "--config", str(config))["settings"]]
    assert texts[0].startswith("max_retry_count in file")
    assert texts[1] == f"{config} holds api_token and can be read by others"
    config.chmod(0o600)
    assert len(found(ready, "--config", str(config))["settings"]) == 2


def test_a_broken_executor_module_fails(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAWLFLEET_EXECUTORS", "no_such_module_at_all")
    told = found(ready, code=1)
    assert statuses(told)["executors"] == {"FAIL"}
    assert "no_such_module_at_all" in told["executors"][0]["finding"]


# -- what no test server does by itself


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    opened = Database(backend.url).open()
    yield opened
    opened.close()


def test_a_far_database_and_a_wrong_clock_are_told(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_checks, "measure_round_trips", lambda db, times: [0.01] * 3 + [0.25] * 4)
    [slow] = database_checks.round_trip(db)
    assert (slow.status, slow.finding) == ("WARN", "250.0 ms, the median of 7")
    for ahead, status in ((3.0, "WARN"), (-400.0, "FAIL"), (1.0, "OK")):
        monkeypatch.setattr(database_checks, "time", SimpleNamespace(time=lambda shift=ahead: time.time() + shift))
        [skewed] = database_checks.clock(db)
        assert skewed.status == ("OK" if db.family == "sqlite" else status)
        if db.family != "sqlite":
            assert ("ahead of" if ahead > 0 else "behind") in skewed.finding


@pytest.mark.parametrize(
    ("family", "state", "expected"),
    [
        ("postgresql", {"transaction_isolation": "serializable"}, ["FAIL isolation"]),
        ("mysql", {"tx_isolation": "repeatable-read"}, ["FAIL isolation"]),
        (
            "mysql",
            {"tx_isolation": "read-committed", "log_bin": "on", "binlog_format": "statement"},
            ["FAIL isolation"],
        ),
        ("mysql", {"tx_isolation": "read-committed", "log_bin": "on", "binlog_format": "mixed"}, ["OK isolation"]),
        (
            "mysql",
            {"transaction_isolation": "read-committed", "innodb_flush_log_at_trx_commit": "2"},
            ["OK isolation", "WARN durability"],
        ),
        (
            "postgresql",
            {"transaction_isolation": "read committed", "synchronous_commit": "off", "fsync": "on"},
            ["OK isolation", "WARN durability"],
        ),
        ("sqlite", {"journal_mode": "delete", "synchronous": "2"}, ["WARN isolation"]),
    ],
)
def test_rules_of_the_server_are_judged(
    family: str, state: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_checks, "server_state", lambda db: state)
    judged = list(database_checks.isolation(SimpleNamespace(family=family)))  # type: ignore[arg-type]
    assert [f"{each.status} {each.check}" for each in judged] == expected


def test_a_small_packet_is_a_warning() -> None:
    """A server with small packets stalled nodes, and doctor said OK."""
    small = SimpleNamespace(family="mysql", dialect=SimpleNamespace(statement_bytes=2**20))
    [judged] = database_checks.packets(small)  # type: ignore[arg-type]
    assert (judged.status, judged.advice) == ("WARN", "set it to 16M or more")


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_server_that_ignores_skip_locked_is_a_warning(any_console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_checks, "probe_strategy", lambda db: Strategy.COMPARE_AND_SET)
    assert statuses(found(any_console))["claims"] == {"WARN"}


def test_files_of_an_older_version_that_everybody_can_read_are_told(
    ready: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New files are private, but those that are there keep their mode."""
    log = tmp_path / "node.log"
    log.touch()
    monkeypatch.setenv("CRAWLFLEET_LOG_FILE", str(log))
    told = found(ready)["database"]
    assert [each["status"] for each in told] == ["OK"]
    for file in (log, tmp_path / "crawlfleet.db"):
        file.chmod(0o644)
    told = found(ready)["database"]
    assert [each["status"] for each in told] == ["WARN", "WARN", "OK"]
    assert {each["advice"] for each in told[:2]} == {f"chmod 600 {log}", f"chmod 600 {tmp_path / 'crawlfleet.db'}"}


def test_sqlite_on_a_network_drive_fails(ready: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disks = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype="nfs4")]
    monkeypatch.setattr(database_checks.psutil, "disk_partitions", lambda all: disks)
    told = found(ready, code=1)
    assert "is on a network drive (nfs4)" in told["database"][0]["finding"]
    assert len(told["database"]) == 2


def test_a_check_that_hangs_or_breaks_is_a_failure_in_time() -> None:
    never = threading.Event()

    def hang() -> Iterator[Finding]:
        yield ok("it", "this much is known")
        never.wait()

    def break_down() -> Iterator[Finding]:
        raise ZeroDivisionError("mysql://user:secret@host/x")
        yield

    checks: list[Callable[[], Iterator[Finding]]] = [hang, break_down]
    known, late, broken = [each for look in checks for each in Check("it", look, 0.2).findings()]
    assert known.status == "OK"
    assert (late.status, late.finding) == ("FAIL", "no answer within 0.2 s")
    assert (broken.status, broken.finding) == ("FAIL", "ZeroDivisionError: mysql://user:***@host/x")
    never.set()


def test_doctor_leaves_no_trace_in_the_folder(console: Console, tmp_path: Path) -> None:
    console("doctor")
    assert os.listdir(tmp_path) == []
