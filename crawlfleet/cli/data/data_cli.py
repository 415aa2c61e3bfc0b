"""`data`: the apps of accounts and the figures of apps; the modules beside this one have the other commands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crawlfleet.cli.arguments import MAX_ROWS, add_json_option, whole_number
from crawlfleet.cli.data import coverage, export, gaps, restatements
from crawlfleet.cli.data.filters import (
    add_account_filters,
    add_app_filters,
    add_day_filters,
    check_days,
    filtered_database,
)
from crawlfleet.cli.moments import screen
from crawlfleet.cli.output import print_json, print_table, say
from crawlfleet.core.vendor_data import AMOUNTS, COUNTS, CURRENCY, DIMENSIONS

TABLE_LIMIT = 50  # rows of figures on a screen; --json prints all
APP_COLUMNS = (
    ("app", "app_id"),
    ("username", "username"),
    ("name", "app_name"),
    ("platform", "platform"),
    ("time zone", "timezone"),
    ("currency", "currency"),
    ("status", "app_status"),
    ("fetched", "fetched_at"),
    ("source", "source"),
)
KEY_COLUMNS = ("username", "app_id", "date")
FIGURES = (*COUNTS, *AMOUNTS)
EXTRA_CHARS = 80  # of `extra` on a screen


def run_apps(args: argparse.Namespace) -> int:
    """Print the apps that accounts see."""
    from crawlfleet.insights.stored_rows import apps

    with filtered_database(args) as (db, wanted):
        listed = apps(db, wanted)
    if args.json:
        print_json(listed)
    else:
        print_table([title for title, _ in APP_COLUMNS], map(_app_line, listed))
    return 0


def _app_line(app: Mapping[str, Any]) -> list[Any]:
    values = (app[name] for _, name in APP_COLUMNS)
    return [screen.ago(value) if isinstance(value, datetime) else value for value in values]


def run_rows(args: argparse.Namespace) -> int:
    """Print stored figures."""
    from crawlfleet.insights.stored_rows import data_rows

    start, end = check_days(args)
    limit = args.limit if args.json or args.limit else TABLE_LIMIT
    with filtered_database(args) as (db, wanted):
        stored = data_rows(db, wanted, start, end, limit)
        if args.json:
            print_json(stored)
            return 0
        rows = list(stored)
    _print_rows(rows)
    if len(rows) == limit:
        say(f"these are the first {limit}; --limit shows more, --json everything")
    return 0


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """Print a table without empty columns; a row without figures shows what its `extra` tells."""
    columns = [*KEY_COLUMNS, *(name for name in (*DIMENSIONS, *FIGURES) if any(row[name] is not None for row in rows))]
    if set(columns) & set(AMOUNTS):
        columns.append(CURRENCY)
    table = [[row[name] for name in columns] for row in rows]
    extras = [None if any(row[name] is not None for name in FIGURES) else row["extra"] for row in rows]
    if any(extras):
        columns.append("extra")
        for cells, extra in zip(table, extras, strict=True):
            text = json.dumps(extra, ensure_ascii=False) if extra else ""
            cells.append(text if len(text) <= EXTRA_CHARS else text[:EXTRA_CHARS] + "...")
    print_table(columns, table)


def add_parser(subparsers: Any) -> None:
    """Add `data` with its sub-commands."""
    parser = subparsers.add_parser("data", help="look at and export apps and figures")
    inner = parser.add_subparsers(title="sub-commands", dest="subcommand", metavar="COMMAND", required=True)
    apps = inner.add_parser("apps", help="list the apps of each account")
    rows = inner.add_parser("rows", help="show the stored figures, by app and day")
    for command, run in ((apps, run_apps), (rows, run_rows)):
        add_account_filters(command)
        add_json_option(command)
        command.set_defaults(run=run)
    add_app_filters(rows)
    add_day_filters(rows)
    limit = f"show at most N rows (default: {TABLE_LIMIT} in a table, all with --json)"
    rows.add_argument("--limit", metavar="N", type=whole_number(1, MAX_ROWS), help=limit)
    for module in (coverage, gaps, restatements, export):
        module.add_parser(inner)
