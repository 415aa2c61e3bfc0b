"""The database servers that the other tests use."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pymysql
import pytest
import sqlalchemy

from tests import debian_packages, server_park, servers
from tests.conftest import Backend
from tests.server_park import ServerMissing
from tests.servers import FLAVOURS, MARIADB, POSTGRESQL, Server
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
DRIVERS = {"sqlite": "sqlite", "mariadb": "mysql+pymysql", "postgresql": "postgresql+psycopg"}


def test_backend_is_an_empty_database(empty_backend: Backend) -> None:
    url = sqlalchemy.make_url(empty_backend.url)
    engine = sqlalchemy.create_engine(url.set(drivername=DRIVERS[empty_backend.name]))
    with contextlib.closing(engine.connect()) as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
        connection.execute(sqlalchemy.text("CREATE TABLE t (n INTEGER)"))
        connection.commit()
    engine.dispose()


@pytest.mark.parametrize("backend", FLAVOURS, indirect=True)
def test_database_with_a_forgotten_transaction_can_be_dropped(backend: Backend) -> None:
    assert backend.server is not None
    name = backend.server.create_database(f"forgotten_{os.getpid()}")
    with contextlib.closing(backend.server.connect(name)) as connection:
        for statement in ("CREATE TABLE t (n INTEGER)", "BEGIN", "INSERT INTO t VALUES (1)"):
            connection.cursor().execute(statement)
        backend.server.drop_database(name)
        with pytest.raises((pymysql.MySQLError, psycopg.Error)):
            connection.cursor().execute("SELECT 1 FROM t")


def test_killed_server_keeps_what_it_acknowledged(private_server: Server) -> None:
    private_server.create_database("kept")
    with contextlib.closing(private_server.connect("kept")) as connection:
        for statement in ("CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (7)"):
            connection.cursor().execute(statement)
        private_server.kill()
        assert not private_server.is_ready()
    private_server.start()
    assert rows(private_server, "kept", "SELECT n FROM t") == [(7,)]


def test_restarted_server_keeps_its_port(private_server: Server) -> None:
    port = private_server.port
    private_server.restart()
    assert private_server.port == port
    assert private_server.is_ready()
    private_server.stop()
    private_server.stop()
    assert not private_server.is_ready()


def test_two_private_servers_do_not_share_anything(private_server: Server, start_private_server) -> None:
    other = start_private_server(private_server.flavour)
    private_server.create_database("mine")
    other.create_database("mine")
    private_server.kill()
    assert other.is_ready()


def test_server_that_cannot_start_says_why(private_server: Server) -> None:
    private_server.stop()
    shutil.rmtree(private_server.datadir)
    private_server.datadir.mkdir()
    with pytest.raises(RuntimeError, match=f"{private_server.flavour.title} did not start:\n.+"):
        private_server.start()


@pytest.mark.parametrize(
    ("private_server", "how"),
    [("mariadb", signal.SIGKILL), ("postgresql", signal.SIGKILL), ("postgresql", signal.SIGINT)],
    indirect=["private_server"],
)
def test_no_server_and_no_file_outlive_a_killed_test_run(private_server: Server, tmp_path: Path, how: int) -> None:
    # the test of the inner run starts a server, tells its port and directory, and waits to be killed
    inner = tmp_path / "test_inner.py"
    inner.write_text(
        f"""
import pathlib, threading
def test_waits({private_server.flavour.name}_server):
    server = {private_server.flavour.name}_server()
    story = pathlib.Path({str(tmp_path / "story")!r})
    story.with_suffix(".part").write_text(f"{{server.port}} {{server.datadir.parent}} {{server.process.pid}}")
    story.with_suffix(".part").rename(story)
    threading.Event().wait()
"""
    )
    # what a shell has started in the background ignores SIGINT, and so would everything below it
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    pytest_main = f"{listen}; import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    run = subprocess.Popen(
        [sys.executable, "-c", pytest_main, "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", ROOT, inner],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    story = wait_until(lambda: (tmp_path / "story").exists() and (tmp_path / "story").read_text(), 60, "a server")
    port, directory, pid = story.split()
    server = servers.SharedServer(private_server.flavour, int(port))
    assert server.is_ready()
    run.send_signal(how)
    run.wait(30)
    wait_until(lambda: not server.is_ready(), what=f"the end of the server {pid}")
    wait_until(lambda: not Path(directory).exists(), what=f"the end of {directory}")


def test_missing_server_is_skipped_on_a_laptop_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(servers, "SEARCH_PATH", ())
    monkeypatch.setattr(debian_packages, "may_install", lambda: False)
    with pytest.raises(ServerMissing, match="install it: apt-get install mariadb-server") as missing:
        server_park.ensure_installed(MARIADB)

    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install mariadb-server"):
        server_park.skip_or_fail(missing.value)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install mariadb-server"):
        server_park.skip_or_fail(missing.value)


@pytest.mark.parametrize(("workers", "ci", "outcome"), [("0", "true", "1 error"), ("1", "", "1 skipped")])
def test_run_without_a_server_ends_with_one_loud_line(tmp_path: Path, workers: str, ci: str, outcome: str) -> None:
    inner = tmp_path / "test_inner.py"
    inner.write_text(
        """
import pytest
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_needs_a_server(backend):
    pass
"""
    )
    without_servers = """
import sys, pytest
from tests import debian_packages, server_park
server_park.is_installed = debian_packages.may_install = lambda *_: False
sys.exit(pytest.main(sys.argv[1:]))
"""
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", ROOT, "-n", workers]
    result = subprocess.run(
        [sys.executable, "-c", without_servers, *options, inner],
        cwd=ROOT,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in result.stdout
    assert result.stdout.count("TESTS WERE LEFT OUT: MariaDB is not installed") == 1
    assert "apt-get install mariadb-server" in result.stdout
    assert result.returncode == (1 if ci else 0)


def test_missing_server_is_installed_when_we_may(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr(server_park, "is_installed", lambda flavour: flavour.package in installed)
    monkeypatch.setattr(debian_packages, "may_install", lambda: True)
    monkeypatch.setattr(debian_packages, "install", installed.extend)
    server_park.ensure_installed(POSTGRESQL)
    server_park.ensure_installed(POSTGRESQL)
    assert installed == ["postgresql"]


def test_failed_installation_says_so_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(packages: list[str]) -> None:
        raise subprocess.CalledProcessError(100, ["apt-get", "install", *packages])

    monkeypatch.setattr(server_park, "is_installed", lambda flavour: False)
    monkeypatch.setattr(debian_packages, "may_install", lambda: True)
    monkeypatch.setattr(debian_packages, "install", fail)
    with pytest.raises(ServerMissing, match=r"apt-get failed.*100.*install it: apt-get install postgresql"):
        server_park.ensure_installed(POSTGRESQL)


def test_services_are_kept_down_only_while_packages_are_installed(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with debian_packages.services_kept_down(policy):
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()

    policy.write_text("#!/bin/sh\nexit 0\n")
    policy.chmod(0o700)
    with debian_packages.services_kept_down(policy):
        assert subprocess.run([policy], check=False).returncode == 101
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert stat.S_IMODE(policy.stat().st_mode) == 0o700


def rows(server: Server, database: str, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())
