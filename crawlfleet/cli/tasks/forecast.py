"""`tasks forecast`: when the backlog is done, what limits it, and the numbers behind the answer."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.accounts.budget_table import calls_text
from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.database import check_names, existing_database
from crawlfleet.cli.output import local_time, print_json, print_table, print_text, say

if TYPE_CHECKING:
    from crawlfleet.insights.forecast import AccountForecast, Forecast

MOST_BUDGETS = 20
BUDGET_COLUMNS = ("limit", "account", "app", "report", "tasks", "calls owed", "used", "a day", "added a day", "done")


def run_forecast(args: argparse.Namespace) -> int:
    """Print the forecast of one account or of all."""
    from crawlfleet.insights.forecast import forecast

    with existing_database(args) as db:
        check_names(db, args)
        answer = forecast(db, args.username)
    if args.json:
        print_json(asdict(answer))
    else:
        _print(answer)
    return 0


def _print(forecast: Forecast) -> None:
    columns = ("account", "source", "open", "not due", "done", "limit", "why")
    if forecast.accounts:
        print_table(columns, map(_account_line, forecast.accounts), prose=("why",))
    if forecast.budgets:
        print("\nbudgets that tasks wait for:")
        print_table(BUDGET_COLUMNS, map(_budget_line, forecast.budgets[:MOST_BUDGETS]))
        if (rest := len(forecast.budgets) - MOST_BUDGETS) > 0:
            say(f"{rest} more budgets are done earlier; --json shows all")
    if forecast.work:
        speeds = [
            f"{kind.tasks} {kind.task_type} of {'unknown length' if kind.seconds is None else f'{kind.seconds:.3g} s'}"
            for kind in forecast.work
        ]
        print()
        print_text(f"devices: {forecast.slots} slots for {', '.join(speeds)}")
    if forecast.accounts:
        print()
    print_text(_verdict(forecast))


def _account_line(account: AccountForecast) -> tuple[Any, ...]:
    done_at = account.done_at or "never"
    tasks = (account.open_tasks, account.not_due)
    return (account.username, account.source, *tasks, done_at, account.limit, account.why)


def _budget_line(budget: Mapping[str, Any]) -> tuple[Any, ...]:
    names = tuple(budget[name] for name in ("limit", "username", "app_id", "report", "tasks", "owed"))
    day = None if budget["calls_per_day"] is None else round(budget["calls_per_day"])
    return (*names, calls_text(budget), day, budget["added_per_day"], budget["done_at"])


def _verdict(forecast: Forecast) -> str:
    if not forecast.open_tasks:
        return "nothing is open"
    if forecast.done_at is not None:
        return f"{forecast.open_tasks} open tasks are done at about {local_time(forecast.done_at)}"
    never = [account for account in forecast.accounts if account.done_at is None]
    rest = [account.done_at for account in forecast.accounts if account.done_at is not None]
    never_done = sum(account.open_tasks for account in never)
    text = f"{never_done} of {forecast.open_tasks} open tasks are never done as things stand"
    return text + (f"; the others at about {local_time(max(rest))}" if rest else "")


def add_parser(subparsers: Any) -> None:
    """Add `forecast`."""
    parser = subparsers.add_parser("forecast", help="estimate when all open tasks will be done, and what limits them")
    parser.add_argument("--username", metavar="U", help="only tasks of this account")
    add_json_option(parser)
    parser.set_defaults(run=run_forecast)
