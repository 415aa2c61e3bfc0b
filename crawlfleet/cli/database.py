"""The database of a command: opened as it is, or upgraded first when the command adds to it."""

from __future__ import annotations

import argparse
import getpass
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crawlfleet.cli.arguments import settings_from
from crawlfleet.cli.moments import screen
from crawlfleet.core.errors import DatabaseRefused

if TYPE_CHECKING:
    from crawlfleet.core.db import Database
    from crawlfleet.services.fleet import Fleet


def open_existing(url: str) -> Database:
    """Open the database behind this URL, whatever is in it. Makes no file; raises DatabaseError when there is none."""
    from crawlfleet.core.db import Database

    db = Database(url)
    file = db.url.database or ""
    if db.family == "sqlite" and not file.startswith("file:") and not Path(file).exists():
        raise DatabaseRefused(f"there is no database {db.name}: start a node or run `crawlfleet db upgrade` first")
    return db.open()


@contextmanager
def existing_database(args: argparse.Namespace) -> Iterator[Database]:
    """Open the command's database; raises DatabaseError when this program's tables are not in it."""
    from crawlfleet.model import migrations

    db = open_existing(settings_from(args).database_url)
    try:
        migrations.check(db)
        with db.read() as reader:
            screen.set_now(reader.now)
        yield db
    finally:
        db.close()


@contextmanager
def existing_fleet(args: argparse.Namespace) -> Iterator[Fleet]:
    """Open the fleet of `existing_database`."""
    from crawlfleet.services.fleet import Fleet

    with existing_database(args) as db:
        yield Fleet(db)


@contextmanager
def ready_fleet(args: argparse.Namespace) -> Iterator[Fleet]:
    """Make or upgrade the tables of the command's database, then open its fleet."""
    from crawlfleet.planning.tariff import task_defaults
    from crawlfleet.services.fleet import connect

    settings = settings_from(args)
    fleet = connect(settings.database_url, task_defaults(settings))
    try:
        yield fleet
    finally:
        fleet.close()


def actor() -> str:
    """Return who gives the command, as user@host: the user whom the process runs as, whatever its environment says."""
    return f"{_process_user()}@{platform.node()}"[:190]


def _process_user() -> str:
    if os.name != "posix":
        return getpass.getuser()
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container without a user database
        return f"uid-{os.getuid()}"
