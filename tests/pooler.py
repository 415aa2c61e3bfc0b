"""A PgBouncer in front of the tests' PostgreSQL, in transaction mode, with fewer sessions than its clients use."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.ports import free_port
from tests.reaper import reaper
from tests.servers import START_SECONDS, Flavour, as_server_user, program
from tests.waiting import wait_until

PGBOUNCER = Flavour(
    name="pgbouncer",
    title="PgBouncer",
    package="pgbouncer",
    programs=("pgbouncer",),
    users=("postgres", "nobody"),
    initialise=lambda folder: [],
    command=lambda folder, port: [program("pgbouncer"), str(folder / "pgbouncer.ini")],
    url="postgresql://postgres@127.0.0.1:{port}/{database}",
    connect=lambda port, database: None,
    stop_signal=signal.SIGINT,
    drop_database="",
    durable=(),
)
SESSIONS = 3  # of the server, for each database


@dataclass
class Pooler:
    """A running PgBouncer."""

    port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        reaper.forget(self.process.pid)


def start_pooler(server_port: int, folder: Path) -> Pooler:
    """A PgBouncer that leads to the PostgreSQL on this port."""
    port = free_port()
    settings: dict[str, Any] = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": SESSIONS,
        "max_client_conn": 300,
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    ini = folder / "pgbouncer.ini"
    target = f"* = host=127.0.0.1 port={server_port} user=postgres"
    ini.write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))
    ini.chmod(0o644)
    process = subprocess.Popen(
        PGBOUNCER.command(folder, port),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # the reaper ends groups
        **as_server_user(PGBOUNCER),
    )
    reaper.watch(process.pid)

    def is_ready() -> bool:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres", connect_timeout=5).close()
        except psycopg.Error:
            return False
        return True

    wait_until(is_ready, timeout=START_SECONDS, what=f"PgBouncer on port {port}")
    return Pooler(port, process)
