"""Looking whether this machine can run a node. It changes nothing, and it ends within a minute, whatever hangs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError
from crawlfleet.doctor import database_checks, machine_checks
from crawlfleet.doctor.findings import Check, Finding, fail
from crawlfleet.settings.layers import load_settings


def examine(config: str | None = None, overrides: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Findings, check by check, as they come in.

    With wrong settings nothing else can be looked at; without a database nothing that is in it.
    """
    try:
        settings = load_settings(config, overrides)
    except CrawlfleetError as error:
        yield fail("settings", str(error), "correct it: `distribute config` prints all settings with their ranges")
        return
    yield from machine_checks.settings_in_effect(settings, config)
    local = [
        Check("executors", lambda: machine_checks.known_executors(settings)),
        Check("disk", lambda: machine_checks.disks(settings)),
        Check("ports", lambda: machine_checks.ports(settings)),
    ]
    opened: list[Database] = []
    yield from Check("database", lambda: database_checks.open_database(settings, opened)).findings()
    db = opened[0] if opened else None
    remote = [Check("proxies", lambda: machine_checks.proxies(settings, db))]
    if db is not None:
        yield from _of_database(db)
        remote.insert(0, Check("tokens", lambda: machine_checks.tokens(settings, db)))
    for check in (*remote, *local):
        yield from check.findings()
    if db is not None:
        db.close()


def _of_database(db: Database) -> Iterator[Finding]:
    """The first by itself: what else is asked would make it seem farther."""
    yield from Check("round trip", lambda: database_checks.round_trip(db)).findings()
    checks = [
        Check("clock", lambda: database_checks.clock(db)),
        Check("isolation", lambda: database_checks.isolation(db)),
        Check("packets", lambda: database_checks.packets(db)),
        Check("migrations", lambda: database_checks.migration(db)),
        Check("claims", lambda: database_checks.claims(db)),
    ]
    for check in checks:
        yield from check.findings()
