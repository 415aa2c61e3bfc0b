"""How the database server is set up: what its sessions of ours run under."""

from __future__ import annotations

import time

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql
from crawlfleet.core.transaction import Reader

_PRAGMAS = ("journal_mode", "synchronous")
_POSTGRESQL = ("transaction_isolation", "synchronous_commit", "fsync")
# MariaDB before 11.1 has tx_isolation only
_MYSQL = ("transaction_isolation", "tx_isolation", "innodb_flush_log_at_trx_commit", "log_bin", "binlog_format")


def server_state(db: Database) -> dict[str, str]:
    """Settings of a session as nodes use it, by their names at the server, in lower case."""
    with db.read() as reader:
        return {name: value.lower() for name, value in _read(reader)}


def _read(reader: Reader) -> list[tuple[str, str]]:
    if reader.dialect.family == "sqlite":
        return [(name, str(reader.exec_driver_sql(f"PRAGMA {name}").scalar_one())) for name in _PRAGMAS]
    if reader.dialect.family == "postgresql":
        return [(name, str(reader.execute(sql(f"SHOW {name}")).scalar_one())) for name in _POSTGRESQL]
    names = ", ".join(f"'{name}'" for name in _MYSQL)
    rows = reader.exec_driver_sql(f"SHOW VARIABLES WHERE Variable_name IN ({names})")
    return [(name, value) for name, value in rows]


def measure_round_trips(db: Database, times: int) -> list[float]:
    """Seconds that the smallest question took, so many times."""
    seconds = []
    with db.read() as reader:
        reader.exec_driver_sql("SELECT 1").scalar_one()  # connects
        for _ in range(times):
            began = time.monotonic()
            reader.exec_driver_sql("SELECT 1").scalar_one()
            seconds.append(time.monotonic() - began)
    return seconds
