"""Fixtures that every test may use: databases, private servers. How they work is in server_park.py and servers.py."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from crawlfleet.core.process import forget, own_identity
from tests.nodes import remove_witnesses
from tests.pooler import PGBOUNCER, Pooler, start_pooler
from tests.server_park import ParkVisitor, ServerMissing, ServerPark, ensure_installed, skip_or_fail
from tests.servers import FLAVOURS, MARIADB, POSTGRESQL, Flavour, Server, SharedServer, memory_folder, run_directory
from tests.templates import create_database_with_tables, sqlite_url_with_tables

CHECKOUT = Path(__file__).parent.parent
BACKENDS = ("sqlite", *FLAVOURS)
SLOW = ("tests/faults/", "tests/test_bench")  # whole nodes at work; what else is slow has the marker

park_key = pytest.StashKey[ServerPark]()
visitor_key = pytest.StashKey[ParkVisitor]()


@dataclass(frozen=True)
class Backend:
    """A fresh database. `server` is shared with other tests; None for SQLite."""

    name: str
    url: str
    server: SharedServer | None

    @property
    def commit_request(self) -> bytes:
        """How COMMIT reads on the wire, for `TcpProxy.cut_after_request`; not a BEGIN of the level READ COMMITTED."""
        return b"COMMIT\0" if self.name == "postgresql" else b"COMMIT"

    def url_at(self, port: int) -> str:
        """The same database through another port, as a proxy's."""
        assert self.server is not None, "a file has no port"
        return self.url.replace(f":{self.server.port}/", f":{port}/")


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        os.environ["PYTHONDONTWRITEBYTECODE"] = ""  # each process that tests start would compile the program again
        if memory := memory_folder():  # SQLite waits for the disk at every commit
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)
        park = config.stash[park_key] = ServerPark()
        if config.getoption("numprocesses", None):
            park.open_to_workers()
    config.stash[visitor_key] = ParkVisitor(config.stash.get(park_key, None))


def pytest_unconfigure(config: pytest.Config) -> None:
    forget(own_identity().as_dict())
    remove_witnesses()
    if park := config.stash.get(park_key, None):
        park.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests first in the share that each worker begins with, so that none is left when the others are done."""
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    if workers == 1:
        return
    slow = [item for item in items if _is_slow(item)]
    fast = [item for item in items if not _is_slow(item)]
    ends = [len(items) * (number + 1) // workers for number in range(workers)]
    items.clear()
    for number, end in enumerate(ends):
        items += slow[number::workers]
        count = end - len(items)
        items += fast[:count]
        del fast[:count]


def _is_slow(item: pytest.Item) -> bool:
    return "slow" in item.keywords or item.nodeid.startswith(SLOW)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the servers that the selected tests need side by side, while the first tests run."""
    if session.config.option.collectonly:
        return
    wanted = {
        callspec.params.get("backend", callspec.params.get("empty_backend"))
        for item in session.items
        if (callspec := getattr(item, "callspec", None)) is not None
    }
    for flavour in FLAVOURS.values():
        if flavour.name in wanted:
            threading.Thread(
                target=_start_ahead, args=(session.config.stash[visitor_key], flavour), daemon=True
            ).start()


def _start_ahead(visitor: ParkVisitor, flavour: Flavour) -> None:
    with contextlib.suppress(Exception):  # the test that needs the server asks again and reports it
        visitor.shared(flavour)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One loud line for each server that was missing."""
    for text in config.stash[park_key].missing.values():
        terminalreporter.write_line(f"TESTS WERE LEFT OUT: {text}", red=True, bold=True)


@pytest.fixture(scope="session")
def _visitor(pytestconfig: pytest.Config) -> ParkVisitor:
    return pytestconfig.stash[visitor_key]


_database_numbers = itertools.count(1)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, _visitor: ParkVisitor, tmp_path: Path) -> Iterator[Backend]:
    """A fresh database with tables, on SQLite, MariaDB and PostgreSQL in turn.

    A test that names `pgbouncer` gets the PostgreSQL behind one.
    """
    if request.param == "sqlite":
        yield Backend("sqlite", sqlite_url_with_tables(tmp_path / "crawlfleet.db"), None)
    elif request.param == "pgbouncer":
        pooler: Pooler = request.getfixturevalue("pooler")
        for found in _on_server(_visitor, "postgresql", create_database_with_tables):
            yield replace(found, url=found.url_at(pooler.port))
    else:
        yield from _on_server(_visitor, request.param, create_database_with_tables)


@pytest.fixture(scope="session")
def pooler(_visitor: ParkVisitor) -> Iterator[Pooler]:
    """A PgBouncer in transaction mode in front of the PostgreSQL of all tests."""
    try:
        ensure_installed(PGBOUNCER)
    except ServerMissing as missing:
        skip_or_fail(missing)
    folder = run_directory()  # the server's user can read it
    found = start_pooler(_shared(_visitor, POSTGRESQL).port, folder)
    yield found
    found.stop()
    shutil.rmtree(folder)


@pytest.fixture(params=BACKENDS)
def empty_backend(request: pytest.FixtureRequest, _visitor: ParkVisitor, tmp_path: Path) -> Iterator[Backend]:
    """A fresh database without tables, on SQLite, MariaDB and PostgreSQL in turn."""
    if request.param == "sqlite":
        yield Backend("sqlite", f"sqlite:///{tmp_path}/crawlfleet.db", None)
    else:
        yield from _on_server(_visitor, request.param, SharedServer.create_database)


def _on_server(visitor: ParkVisitor, flavour: str, create: Callable[[SharedServer, str], str]) -> Iterator[Backend]:
    server = _shared(visitor, FLAVOURS[flavour])
    name = create(server, f"test_{os.getpid()}_{next(_database_numbers)}")
    yield Backend(flavour, server.url(name), server)
    server.drop_database(name)


def _shared(visitor: ParkVisitor, flavour: Flavour) -> SharedServer:
    try:
        return visitor.shared(flavour)
    except ServerMissing as missing:
        skip_or_fail(missing)


@pytest.fixture
def shared_postgresql(_visitor: ParkVisitor) -> Callable[[], SharedServer]:
    """The PostgreSQL of all tests, for databases that the test makes and drops by itself."""
    return lambda: _shared(_visitor, POSTGRESQL)


@pytest.fixture
def start_private_server(_visitor: ParkVisitor) -> Iterator[Callable[[Flavour], Server]]:
    """Starts servers that belong to the test alone, as many as it asks for."""
    servers: list[Server] = []

    def start(flavour: Flavour) -> Server:
        try:
            server = _visitor.private(flavour)
        except ServerMissing as missing:
            skip_or_fail(missing)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.remove()


@pytest.fixture
def mariadb_server(start_private_server: Callable[[Flavour], Server]) -> Callable[[], Server]:
    """Starts a MariaDB that the test may stop, kill and restart."""
    return lambda: start_private_server(MARIADB)


@pytest.fixture
def postgresql_server(start_private_server: Callable[[Flavour], Server]) -> Callable[[], Server]:
    """Starts a PostgreSQL that the test may stop, kill and restart."""
    return lambda: start_private_server(POSTGRESQL)


@pytest.fixture(params=FLAVOURS)
def private_server(request: pytest.FixtureRequest, start_private_server: Callable[[Flavour], Server]) -> Server:
    """A running server that the test may stop, kill and restart: MariaDB and PostgreSQL in turn."""
    return start_private_server(FLAVOURS[request.param])


@pytest.fixture
def fresh_copy(tmp_path: Path) -> Path:
    """What a clone of this checkout would hold, and an environment of its own that shares the installed packages."""
    if not (CHECKOUT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("only a checkout tells which files belong to it")
    copy = tmp_path / "checkout"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout.split("\0")[
        :-1
    ]:
        if (CHECKOUT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, copy / name)
    environment = copy / ".venv"
    environment.mkdir()
    for each in Path(sys.prefix).iterdir():
        (environment / each.name).symlink_to(each)
    (environment / ".ready").unlink(missing_ok=True)
    (environment / ".ready").touch()  # newer than all that `make` compares it with
    return copy
