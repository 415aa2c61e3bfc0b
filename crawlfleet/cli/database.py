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
    from crawlfleet.settings.definitions import Settings

ADDRESS, DEFAULT = "database_url", "default"


def open_existing(settings: Settings) -> Database:
    """Open the database of the settings, whatever is in it. Makes no file; raises DatabaseError when there is none."""
    from crawlfleet.core.db import Database

    db = Database(settings.database_url)
    _require_file(db, settings)
    return db.open()


def _require_file(db: Database, settings: Settings) -> None:
    """Raise DatabaseRefused that says where it was looked for when there is no file."""
    file = db.url.database or ""
    if db.family != "sqlite" or file.startswith("file:") or Path(file).exists():
        return
    if _is_given(settings):
        where, origin = "", settings.origins[ADDRESS]
        way = "start a node or run `crawlfleet db upgrade` first"
    else:
        where, origin = f" in {Path(file).absolute().parent}", "the default"
        way = f"name one with --database URL, {ADDRESS} in the file of --config, or CRAWLFLEET_DATABASE_URL; or make"
        way += " one here with `crawlfleet db upgrade`, `accounts add` or a node"
    raise DatabaseRefused(f"there is no database {db.name}{where} ({origin}): {way}")


def _is_given(settings: Settings) -> bool:
    """Whether an option, a variable or a file says where the database is."""
    return settings.origins.get(ADDRESS, DEFAULT) != DEFAULT


@contextmanager
def existing_database(args: argparse.Namespace) -> Iterator[Database]:
    """Open the command's database; raises DatabaseError when this program's tables are not in it."""
    from crawlfleet.model import migrations

    db = open_existing(settings_from(args))
    try:
        migrations.check(db)
        with db.read() as reader:
            screen.set_now(reader.now)
        yield db
    finally:
        db.close()


def check_names(db: Database, args: argparse.Namespace) -> None:
    """Raise UsageError for a --source, --username or --app-id of which nothing is known: a slip is no empty answer."""
    from crawlfleet.insights.feeds import FeedFilter
    from crawlfleet.insights.names import require_known

    require_known(db, FeedFilter(*(getattr(args, name, None) for name in ("source", "username", "app_id"))))


@contextmanager
def existing_fleet(args: argparse.Namespace) -> Iterator[Fleet]:
    """Open the fleet of `existing_database`."""
    from crawlfleet.services.fleet import Fleet

    with existing_database(args) as db:
        yield Fleet(db)


@contextmanager
def ready_fleet(args: argparse.Namespace, makes_default: bool = False) -> Iterator[Fleet]:
    """Make or upgrade the tables of the command's database, then open its fleet.

    A file at the default address is only made by a command that `makes_default`: in the wrong directory, what is added
    would be seen by nobody.
    """
    from crawlfleet.core.db import Database
    from crawlfleet.planning.tariff import task_defaults
    from crawlfleet.services.fleet import connect

    settings = settings_from(args)
    if not makes_default and not _is_given(settings):
        _require_file(Database(settings.database_url), settings)
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
