"""What `doctor` asks of the database."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil

from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, DatabaseRefused
from crawlfleet.core.private_files import is_open_to_others
from crawlfleet.core.system_metrics import SLOW_SECONDS
from crawlfleet.doctor.exposures import exposures
from crawlfleet.doctor.findings import Finding, fail, ok, warn
from crawlfleet.model import migrations, schema
from crawlfleet.model.claim_strategy import Strategy, probe_strategy
from crawlfleet.model.server_state import measure_round_trips, server_state
from crawlfleet.settings.definitions import Settings

SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 2.0, 300.0  # from the second on TLS certificates begin to fail
ROUND_TRIPS = 7
PACKET_WARN_BYTES = 16 * 2**20
NETWORK_DISKS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p"})
UPGRADE = "run `db upgrade`; a node does it, too, when it starts"


def open_database(settings: Settings, opened: list[Database]) -> Iterator[Finding]:
    """Whether it can be used; puts it into `opened` then. Never makes a file."""
    try:
        db = Database(settings.database_url)
        file = None if db.family != "sqlite" else Path(db.url.database or "").absolute()
        if file is not None and not str(db.url.database).startswith("file:"):
            if not file.exists():
                yield _new_file(db, file)
                return
            kind = _disk_kind(file)
            if kind in NETWORK_DISKS:
                text = f"{file} is on a network drive ({kind}), where SQLite's locks cannot be relied on"
                yield fail("database", text, "move it to a local disk, or use a database server")
        db.open()
    except CrawlfleetError as error:
        message, _, advice = str(error).rpartition(": ")
        yield fail("database", message or advice, advice if message else "correct database_url")
        return
    opened.append(db)
    for path in (file, settings.log_file):
        if path and is_open_to_others(path):
            text = f"{path} can be read by others, as it was made by an older version or another program"
            yield warn("database", text, f"chmod 600 {path}")
    for text, advice in exposures(settings):
        yield warn("database", text, advice)
    yield ok("database", f"{db.product} {db.version} at {db.name}{', through a pooler' if db.dialect.pooled else ''}")


def _new_file(db: Database, file: Path) -> Finding:
    if not os.access(file.parent, os.W_OK | os.X_OK):
        return fail(
            "database", f"{db.name} cannot be made: {file.parent} is not a folder that we may write to", "make it"
        )
    return warn("database", f"there is no {db.name} yet", "nothing to do: the first node or `db upgrade` makes it")


def _disk_kind(file: Path) -> str:
    """The file system on which a file lies; empty where the system does not tell."""
    try:
        disks = psutil.disk_partitions(all=True)
    except OSError:
        return ""
    above = [disk for disk in disks if file.is_relative_to(disk.mountpoint)]
    return max(above, key=lambda disk: len(disk.mountpoint)).fstype if above else ""


def round_trip(db: Database) -> Iterator[Finding]:
    """How far it is."""
    seconds = median(measure_round_trips(db, ROUND_TRIPS))
    text = f"{seconds * 1000:.1f} ms, the median of {ROUND_TRIPS}"
    if seconds < SLOW_SECONDS:
        yield ok("round trip", text)
    else:
        yield warn(
            "round trip", text, "run nodes nearer to the database, or look why it is slow; they work, but slower"
        )


def clock(db: Database) -> Iterator[Finding]:
    """Whether this machine and the database agree about the time."""
    if db.family == "sqlite":
        yield ok("clock", "the database's clock is this machine's")
        return
    with db.read() as reader:
        reader.ask_clock().read()  # the connection is there, so the next one is a round trip
        before = time.time()
        theirs = reader.ask_clock().read().now
        after = time.time()
    skew = (before + after) / 2 - theirs.timestamp()
    text = f"this machine is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the database"
    sure = max(0.0, abs(skew) - (after - before) / 2)
    advice = "let NTP set both clocks: no task depends on this machine's, but certificates and log lines do"
    if sure >= SKEW_FAIL_SECONDS:
        yield fail("clock", text, advice)
    elif sure >= SKEW_WARN_SECONDS:
        yield warn("clock", text, advice)
    else:
        yield ok("clock", text)


def isolation(db: Database) -> Iterator[Finding]:
    """Under which rules transactions run, and whether what was committed outlives a power cut."""
    state = server_state(db)
    if db.family == "sqlite":
        mode = state["journal_mode"]
        if mode == "wal":
            yield ok("isolation", "serialisable, one writer at a time; write-ahead log")
        else:
            yield warn(
                "isolation", f"journal_mode is {mode}, not wal", "move the file to a disk that allows shared memory"
            )
        return
    level = state.get("transaction_isolation", state.get("tx_isolation", "unknown")).replace("-", " ")
    if level != "read committed":
        advice = "let nothing between here and the server change the session, as some connection poolers do"
        yield fail("isolation", f"transactions run at {level}, not at read committed", advice)
    elif state.get("log_bin") == "on" and state.get("binlog_format") == "statement":
        yield fail("isolation", "binlog_format is STATEMENT, which refuses read committed", "set binlog_format = ROW")
    else:
        yield ok("isolation", level)
    safe = {"fsync": "on", "innodb_flush_log_at_trx_commit": "1"}
    for name, value in safe.items():
        if state.get(name, value) != value:
            text = f"{name} is {state[name]}: a power cut may take back what was committed"
            yield warn("durability", text, f"set {name} = {value} unless all of it can be fetched again")
    if state.get("synchronous_commit") == "off":
        text = "synchronous_commit is off: a power cut may take back the last commits"
        yield warn("durability", text, "set synchronous_commit = on")


def packets(db: Database) -> Iterator[Finding]:
    """Whether the server takes large statements. Small ones are made smaller, but a single row may not fit."""
    if db.family != "mysql":
        return
    text = f"max_allowed_packet is {db.dialect.statement_bytes / 2**20:g} MB"
    if db.dialect.statement_bytes < PACKET_WARN_BYTES:
        yield warn("packets", f"{text}: reports are written in many small pieces", "set it to 16M or more")
    else:
        yield ok("packets", text)


def migration(db: Database) -> Iterator[Finding]:
    """Whether the tables are this program's."""
    try:
        migrations.check(db)
    except DatabaseRefused as error:
        found = migrations.current(db)
        message, _, advice = str(error).rpartition(": ")
        is_newer = found is not None and advice == "update this program"
        yield fail("migrations", message, advice) if is_newer else warn("migrations", message, UPGRADE)
        if lacking := migrations.lacking_privileges(db):
            text = f"the user of the URL may not make tables: it lacks {', '.join(lacking)}"
            yield fail("migrations", text, "grant it, or let another user run `db upgrade`")
        return
    yield ok("migrations", f"at {schema.HEAD}, as this program")


def claims(db: Database) -> Iterator[Finding]:
    """Whether devices pass over each other's locks."""
    if not has_tables(db):
        return
    strategy = probe_strategy(db)
    if strategy is Strategy.SKIP_LOCKED:
        yield ok("claims", "SKIP LOCKED works: devices claim side by side")
    elif db.family == "sqlite":
        yield ok("claims", "compare and set, since SQLite has one writer at a time")
    else:
        text = "SKIP LOCKED is not honoured (a Galera cluster, or an imitation): devices claim by compare and set"
        yield warn("claims", text, "nothing to do unless devices are many: claims are right, but sometimes in vain")


def has_tables(db: Database) -> bool:
    """Whether this program's tables are there."""
    return migrations.current(db) == schema.HEAD
