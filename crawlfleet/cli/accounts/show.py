"""`accounts show`: the health of one account, its budgets, and what its vendor does not let it have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.accounts.budget_table import print_budgets
from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.database import existing_fleet
from crawlfleet.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:
    from crawlfleet.services.fleet import Fleet

TheAccount = Callable[["Fleet", argparse.Namespace], dict[str, Any]]


def run_show(args: argparse.Namespace, the_account: TheAccount) -> int:
    """Print one account."""
    from crawlfleet.insights.budgets import account_detail

    with existing_fleet(args) as fleet:
        row = the_account(fleet, args)
        account = account_detail(fleet.db, row)
    if args.json:
        print_json(account)
        return 0
    health, budgets, denied = (account.pop(name) for name in ("health", "budgets", "denied"))
    print_fields({name: value for name, value in account.items() if not name.startswith("status")})  # `health` tells
    print_fields(dict(zip(("health", "since", "until", "reason"), health.values(), strict=True)))
    if budgets:
        print("\nbudgets in use:")
        print_budgets(budgets)
    if denied:
        print("\nnot permitted by the vendor:")
        names = ("app_id", "report", "denials", "denied_until", "denied_reason")
        columns = ("app", "report", "denials", "asked again", "reason")
        print_table(columns, [[feed[name] for name in names] for feed in denied], prose=("reason",))
    return 0


def add_parser(subparsers: Any, the_account: TheAccount) -> None:
    """Add `show`; `the_account` finds the one that the arguments name."""
    parser = subparsers.add_parser(
        "show", help="show an account's health, its quotas, and what the vendor does not permit it"
    )
    parser.add_argument("username", metavar="USERNAME", help="name of the account")
    parser.add_argument(
        "--source", metavar="S", help="the vendor; needed only when several have an account of this name"
    )
    add_json_option(parser)
    parser.set_defaults(run=partial(run_show, the_account=the_account))
