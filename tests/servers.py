"""Private database servers for tests: MariaDB and PostgreSQL on free loopback ports, thrown away afterwards.

    server = Server(MARIADB, directory); server.start(); url = server.url(server.create_database("one"))

A data directory is initialised once for each run and copied for every further server. The settings trade the safety of
a power cut for speed; what a server has acknowledged survives its process being killed.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pymysql

from tests.ports import free_port
from tests.reaper import reaper
from tests.waiting import wait_until

SEARCH_PATH = (  # where packages put server programs beside PATH, newest version first
    "/usr/sbin",
    "/usr/local/sbin",
    "/usr/libexec",
    *sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]), reverse=True),
)
MEMORY_FOLDER = "/dev/shm"  # Linux's; small in many containers
MEMORY_BYTES = 3 * 2**30  # two shared servers, a few private ones of 0.1 GB each, and the files of the tests
START_SECONDS = 60  # a start takes about one; a busy machine gets more


@dataclass(frozen=True)
class Flavour:
    """What differs between the two kinds of server."""

    name: str
    title: str
    package: str  # Debian's
    programs: tuple[str, ...]  # the server first
    users: tuple[str, ...]  # whom to run as when we are root, the first that exists
    initialise: Callable[[Path], list[str]]
    command: Callable[[Path, int], list[str]]
    url: str
    connect: Callable[[int, str | None], Any]
    stop_signal: signal.Signals
    drop_database: str
    durable: tuple[str, ...]  # options that make a commit wait for the disk


def _mariadb_initialise(datadir: Path) -> list[str]:
    return [
        program("mariadb-install-db"),
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        f"--datadir={datadir}",
        f"--tmpdir={datadir}",  # see _mariadb_command
        "--innodb-log-file-size=16M",
    ]


def _mariadb_command(datadir: Path, port: int) -> list[str]:
    return [
        program("mariadbd"),
        "--no-defaults",
        f"--datadir={datadir}",
        f"--socket={datadir}/socket",
        f"--pid-file={datadir}/pid",
        f"--tmpdir={datadir}",  # a server that starts throws away the temporary tables of all others in /tmp
        "--bind-address=127.0.0.1",
        f"--port={port}",
        "--skip-name-resolve",
        "--skip-log-bin",
        "--max-connections=300",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-flush-log-at-trx-commit=2",
        "--innodb-use-native-aio=0",  # the kernel's places for it are few, and many servers run at once
        "--default-time-zone=+08:00",  # not UTC, so that code which trusts the server's zone is found out
    ]


def _mariadb_connect(port: int, database: str | None) -> Any:
    # without ssl_disabled every connect reads the system's list of authorities: 40 ms instead of 3
    return pymysql.connect(
        host="127.0.0.1",
        port=port,
        user="root",
        database=database,
        autocommit=True,
        connect_timeout=5,
        ssl_disabled=True,
    )


def _postgresql_initialise(datadir: Path) -> list[str]:
    return [
        program("initdb"),
        f"--pgdata={datadir}",
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]


def _postgresql_command(datadir: Path, port: int) -> list[str]:
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": 300,
        "shared_buffers": "64MB",
        "fsync": "off",
        "full_page_writes": "off",
        "dynamic_shared_memory_type": "mmap",  # in the data directory: what a killed server had goes with it
        "timezone": "Asia/Shanghai",  # not UTC, for the same reason
    }
    return [program("postgres"), "-D", str(datadir), *(f"--{name}={value}" for name, value in settings.items())]


def _postgresql_connect(port: int, database: str | None) -> Any:
    return psycopg.connect(
        host="127.0.0.1", port=port, user="postgres", dbname=database or "postgres", autocommit=True, connect_timeout=5
    )


MARIADB = Flavour(
    name="mariadb",
    title="MariaDB",
    package="mariadb-server",
    programs=("mariadbd", "mariadb-install-db"),
    users=("mysql", "nobody"),
    initialise=_mariadb_initialise,
    command=_mariadb_command,
    url="mysql://root@127.0.0.1:{port}/{database}",
    connect=_mariadb_connect,
    stop_signal=signal.SIGTERM,
    drop_database="DROP DATABASE {database}",
    durable=("--innodb-flush-log-at-trx-commit=1",),
)
POSTGRESQL = Flavour(
    name="postgresql",
    title="PostgreSQL",
    package="postgresql",
    programs=("postgres", "initdb"),
    users=("postgres", "nobody"),
    initialise=_postgresql_initialise,
    command=_postgresql_command,
    url="postgresql://postgres@127.0.0.1:{port}/{database}",
    connect=_postgresql_connect,
    stop_signal=signal.SIGINT,  # "fast": sessions are ended, not waited for
    drop_database="DROP DATABASE {database} WITH (FORCE)",
    durable=("--fsync=on", "--full_page_writes=on"),
)
FLAVOURS = {flavour.name: flavour for flavour in (MARIADB, POSTGRESQL)}


class SharedServer:
    """A running server that others use too: reachable, but not to be stopped."""

    def __init__(self, flavour: Flavour, port: int) -> None:
        self.flavour = flavour
        self.port = port

    def url(self, database: str) -> str:
        """The address of `database` as a user of crawlfleet would write it, without a driver's name."""
        return self.flavour.url.format(port=self.port, database=database)

    def connect(self, database: str | None = None) -> Any:
        """A plain driver connection in autocommit mode, to `database` or to none in particular."""
        return self.flavour.connect(self.port, database)

    def create_database(self, name: str) -> str:
        """Create an empty database: about 5 ms on MariaDB, 20 ms on PostgreSQL. Returns `name`."""
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database although somebody may still be connected to it."""
        if self.flavour is MARIADB:  # an open transaction of a forgotten connection would hold the drop up for ever
            for (session,) in self.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"):
                with contextlib.suppress(pymysql.MySQLError):  # it may end by itself first
                    self.execute(f"KILL {session}")
        self.execute(self.flavour.drop_database.format(database=name))

    def is_ready(self) -> bool:
        """True when a client can connect now."""
        try:
            self.connect().close()
        except (pymysql.MySQLError, psycopg.Error):
            return False
        return True

    def execute(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """Execute a statement outside any database; its rows."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else ()


class Server(SharedServer):
    """A server of our own, on a copy of a prepared data directory. Keeps its port when it is started again."""

    def __init__(self, flavour: Flavour, directory: Path) -> None:
        super().__init__(flavour, free_port())
        self.datadir = copy_of_template(flavour, directory)
        self.process: subprocess.Popen[bytes] | None = None
        self.extra_arguments: list[str] = []  # of the next start

    @property
    def log_path(self) -> Path:
        return self.datadir.with_suffix(".log")

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        assert self.process is None, "already started"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.flavour.command(self.datadir, self.port), *self.extra_arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.datadir,
                start_new_session=True,
                **as_server_user(self.flavour),
            )
        reaper.watch(self.process.pid)
        wait_until(self._is_ready_or_over, timeout=START_SECONDS, what=f"{self.flavour.title} on port {self.port}")
        if self.process.poll() is not None:
            self._forget_process()
            raise RuntimeError(f"{self.flavour.title} did not start:\n{self.log_path.read_text(errors='replace')}")

    def _is_ready_or_over(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None or self.is_ready()

    def stop(self) -> None:
        """Shut the server down in good order. Sessions are ended. Fine when it is not running."""
        if self.process is None:
            return
        self.process.send_signal(self.flavour.stop_signal)
        self.process.wait(START_SECONDS)
        self._forget_process()

    def kill(self) -> None:
        """End the server and all its children at once with SIGKILL, as a crash would."""
        if self.process is None:
            return
        # a PostgreSQL child left behind would keep the next start from taking the data directory
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()
        wait_until(lambda: not any(map(_is_alive, family)), what=f"the end of {self.flavour.title}'s children")
        self._forget_process()

    def restart(self) -> None:
        """Stop (in good order, when it runs) and start again on the same port."""
        self.stop()
        self.start()

    def give(self, file: Path) -> Path:
        """Copy a file, readable by the server alone, into its data directory; returns the copy."""
        copy = self.datadir / file.name
        shutil.copyfile(file, copy)
        copy.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(copy, **_owner(self.flavour))
        return copy

    def remove(self) -> None:
        """End the server and delete what it stored."""
        self.kill()
        shutil.rmtree(self.datadir)
        self.log_path.unlink(missing_ok=True)

    def _forget_process(self) -> None:
        assert self.process is not None
        reaper.forget(self.process.pid)
        self.process = None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_server(flavour: Flavour, directory: Path, durable: bool = False) -> Server:
    """A running server in `directory`; a port that somebody else took in between is given up for another one.

    Commits of a `durable` one wait for the disk.
    """
    for _ in range(3):
        server = Server(flavour, directory)
        if durable:
            server.extra_arguments += flavour.durable
        try:
            server.start()
        except RuntimeError as error:
            refused = error
            server.remove()
        else:
            return server
    raise refused


def run_directory(durable: bool = False) -> Path:
    """A new directory that every user can reach, removed at the end of the run at the latest.

    It lies in memory where there is room, unless what is written there is to be `durable`.
    """
    memory = None if durable else memory_folder()
    for parent in (*([memory] if memory else []), tempfile.gettempdir(), "/var/tmp", "/tmp"):
        if os.geteuid() != 0 or all(step.stat().st_mode & 0o001 for step in (Path(parent), *Path(parent).parents)):
            break
    directory = Path(tempfile.mkdtemp(prefix="crawlfleet-", dir=parent))
    directory.chmod(0o755)
    reaper.remove(str(directory))
    return directory


def memory_folder() -> str | None:
    """A folder whose files are in memory, where making a table and waiting for the disk cost next to nothing.

    None where there is none, or too little room in it for the servers of a run.
    """
    try:
        has_room = shutil.disk_usage(MEMORY_FOLDER).free > MEMORY_BYTES and os.access(MEMORY_FOLDER, os.W_OK)
    except OSError:
        return None
    return MEMORY_FOLDER if has_room else None


def prepare_template(flavour: Flavour, directory: Path) -> None:
    """Initialise the data directory that every server of this flavour in `directory` starts as a copy of."""
    template = directory / f"{flavour.name}-template"
    template.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(template, **_owner(flavour))
    subprocess.run(
        flavour.initialise(template),
        check=True,
        cwd=template,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        **as_server_user(flavour),
    )


def copy_of_template(flavour: Flavour, directory: Path) -> Path:
    """A data directory of its own for one more server."""
    copy = Path(tempfile.mkdtemp(prefix=f"{flavour.name}-", dir=directory))
    copy.rmdir()
    # cp keeps owners and modes, and shares blocks where the file system can
    subprocess.run(["cp", "-a", str(directory / f"{flavour.name}-template"), str(copy)], check=True)
    return copy


def program(name: str) -> str:
    """The full path of a server program; FileNotFoundError when it is not installed."""
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(SEARCH_PATH))
    if path is None:
        raise FileNotFoundError(name)
    return path


def is_installed(flavour: Flavour) -> bool:
    """True when all programs of this flavour are found."""
    try:
        return bool([program(name) for name in flavour.programs])
    except FileNotFoundError:
        return False


def as_server_user(flavour: Flavour) -> dict[str, Any]:
    """Arguments for subprocess that give up root, which both servers refuse or frown upon."""
    if os.geteuid() != 0:
        return {}
    return {**_owner(flavour), "extra_groups": ()}


def _owner(flavour: Flavour) -> dict[str, Any]:
    entry = next(_existing_users(flavour.users))
    return {"user": entry.pw_uid, "group": entry.pw_gid}


def _existing_users(names: Sequence[str]) -> Iterator[pwd.struct_passwd]:
    for name in names:
        with contextlib.suppress(KeyError):
            yield pwd.getpwnam(name)
