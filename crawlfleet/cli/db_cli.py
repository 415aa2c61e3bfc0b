"""`db`: create or upgrade the tables, and look whether the database is fit."""

from __future__ import annotations

import argparse
from typing import Any

from crawlfleet.cli.arguments import add_json_option, settings_from
from crawlfleet.cli.database import open_existing
from crawlfleet.cli.output import print_json, print_table, say


def run_upgrade(args: argparse.Namespace) -> int:
    """Bring the database to this program's tables."""
    from crawlfleet.core.db import Database
    from crawlfleet.model import migrations

    db = Database(settings_from(args).database_url).open()
    try:
        changed = migrations.upgrade(db)
        print(f"{db.name} is at migration {migrations.check(db)}{'' if changed else ' already'}")
    finally:
        db.close()
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Print what kind of database this is; exit code 1 unless it is at this program's migration."""
    from crawlfleet.insights.database import database_state

    db = open_existing(settings_from(args))
    try:
        state = database_state(db)
    finally:
        db.close()
    if args.json:
        print_json(state)
    else:
        print_table(("what", "value"), state.items())
    if state["migration"] == state["expected"]:
        return 0
    say(f"the database is at migration {state['migration'] or 'none'}, this program at {state['expected']}")
    return 1


def add_parser(subparsers: Any) -> None:
    """Add `db` with its sub-commands."""
    parser = subparsers.add_parser("db", help="upgrade and check the database")
    inner = parser.add_subparsers(title="sub-commands", dest="subcommand", metavar="COMMAND", required=True)
    inner.add_parser("upgrade", help="create or upgrade the tables").set_defaults(run=run_upgrade)
    check = inner.add_parser(
        "check", help="check the database: exit code 1 when its tables are not up to date, 3 when it cannot be used"
    )
    add_json_option(check)
    check.set_defaults(run=run_check)
