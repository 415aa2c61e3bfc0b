"""`tasks forecast`: when the backlog is done, and what limits it, with the figures that it is reckoned from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.accounts.budget_table import calls_text
from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.database import existing_database
from crawlfleet.cli.output import local_time, print_json, print_table, say

if TYPE_CHECKING:
    from crawlfleet.insights.forecast import Forecast

MOST_BUDGETS = 20
BUDGET_COLUMNS = ("limit", "account", "app", "report", "tasks", "calls owed", "used", "a day", "added a day", "done")


def run_forecast(args: argparse.Namespace) -> int:
    """Print the forecast of one account or of all."""
    from crawlfleet.insights.forecast import forecast

    with existing_database(args) as db:
        found = forecast(db, args.username)
    if args.json:
        print_json(asdict(found))
    else:
        _print(found)
    return 0


def _print(found: Forecast) -> None:
    rows = [
        (each.source, each.username, each.open_tasks, each.not_due, each.done_at or "never", each.limit, each.why)
        for each in found.accounts
    ]
    print_table(("source", "account", "open", "not due", "done", "limit", "why"), rows)
    if found.budgets:
        print("\nbudgets that tasks wait for:")
        print_table(BUDGET_COLUMNS, map(_budget_line, found.budgets[:MOST_BUDGETS]))
        if (rest := len(found.budgets) - MOST_BUDGETS) > 0:
            say(f"{rest} more budgets are done earlier; --json shows all")
    if found.work:
        speeds = [
            f"{each.tasks} {each.task_type} of {'unknown length' if each.seconds is None else f'{each.seconds:.3g} s'}"
            for each in found.work
        ]
        print(f"\ndevices: {found.slots} slots for {', '.join(speeds)}")
    print(f"\n{_verdict(found)}")


def _budget_line(budget: Mapping[str, Any]) -> tuple[Any, ...]:
    names = tuple(budget[name] for name in ("limit", "username", "app_id", "report", "tasks", "owed"))
    day = None if budget["calls_per_day"] is None else round(budget["calls_per_day"])
    return (*names, calls_text(budget), day, budget["added_per_day"], budget["done_at"])


def _verdict(found: Forecast) -> str:
    if not found.open_tasks:
        return "nothing is open"
    if found.done_at is not None:
        return f"{found.open_tasks} open tasks are done at about {local_time(found.done_at)}"
    never = [each for each in found.accounts if each.done_at is None]
    rest = [each.done_at for each in found.accounts if each.done_at is not None]
    text = f"{sum(each.open_tasks for each in never)} of {found.open_tasks} open tasks are never done as things stand"
    return text + (f"; the others at about {local_time(max(rest))}" if rest else "")


def add_parser(subparsers: Any) -> None:
    """Add `forecast`."""
    parser = subparsers.add_parser("forecast", help="say when the open tasks are done, and what limits them")
    parser.add_argument("--username", metavar="U", help="tasks of this account")
    add_json_option(parser)
    parser.set_defaults(run=run_forecast)
