"""`tokens`: who may use the HTTP API. A token is printed once, when it is made."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.database import actor, existing_database, ready_fleet
from crawlfleet.cli.output import print_json, print_table, say
from crawlfleet.cli.streams import stdout_is_missing
from crawlfleet.core.errors import CrawlfleetError, NotFound, UsageError
from crawlfleet.model.api_token import ApiTokenDAO, Role

COLUMNS = ("name", "role", "accounts", "created_by", "created_at", "expires_at", "last_used_at")
MAX_DAYS = 3650
MEANINGS = {
    Role.READ: "look at everything but the audit",
    Role.OPERATE: "also add, retry and cancel tasks, pause the queue, park accounts, drain devices",
    Role.ADMIN: "also remove devices, delete expired rows, read the audit",
}


def run_add(args: argparse.Namespace) -> int:
    """Make a token and print it; one that cannot be shown is not kept."""
    if stdout_is_missing():
        raise UsageError("stdout is closed, so nobody would see the token: nothing was stored")
    with ready_fleet(args) as fleet:
        for account in args.account or ():
            source, _, username = account.partition("/")
            if fleet.accounts.get(source, username) is None:
                raise UsageError(
                    f"--account takes SOURCE/USERNAME of an account (got {account!r:.80}): see `accounts list`"
                )
        accounts = None if args.account is None else sorted(set(args.account))
        tokens = ApiTokenDAO(fleet.db)
        was_demanded = tokens.known().demanded
        token = tokens.add(args.name, Role(args.role), actor(), accounts, args.days)
        try:
            if args.json:
                told = {"name": args.name, "role": args.role, "accounts": accounts, "days": args.days, "token": token}
                print_json(told)
            else:
                print(token)
            sys.stdout.flush()
        except BaseException:
            _withdraw(tokens, args.name, was_demanded)
            raise
    say("keep it now: it is stored nowhere and cannot be shown again")
    return 0


def _withdraw(tokens: ApiTokenDAO, name: str, was_demanded: bool) -> None:
    try:
        tokens.withdraw(name, actor(), was_demanded)
    except CrawlfleetError as error:
        say(f"token {name} could not be shown, nor revoked: do it with `tokens revoke {name}`: {error}")
    else:
        say(f"token {name} could not be shown, so it is not kept")


def _days(text: str) -> int:
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_DAYS} (got {text!r:.80})")
    return int(text)


def run_list(args: argparse.Namespace) -> int:
    """Print all tokens, without what they are."""
    with existing_database(args) as db:
        tokens = [{name: getattr(token, name) for name in COLUMNS} for token in ApiTokenDAO(db).find()]
    if args.json:
        print_json(tokens)
    else:
        for token in tokens:
            token["accounts"] = None if token["accounts"] is None else ", ".join(token["accounts"])
        print_table(COLUMNS, [list(token.values()) for token in tokens], prose=("accounts",))
    return 0


def run_revoke(args: argparse.Namespace) -> int:
    """Forget a token."""
    with existing_database(args) as db:
        tokens = ApiTokenDAO(db)
        if not tokens.revoke(args.name, actor()):
            raise NotFound(f"there is no token {args.name!r}: `tokens list` shows all")
        is_last = not tokens.find()
    print(f"token {args.name} is revoked; nodes refuse it within seconds")
    if is_last:
        say("no token is left, and the API goes on demanding one: make one with `tokens add`")
    return 0


def add_parser(subparsers: Any) -> None:
    """Add `tokens` with its sub-commands."""
    parser = subparsers.add_parser("tokens", help="create and revoke access tokens of the HTTP API")
    inner = parser.add_subparsers(title="sub-commands", dest="subcommand", metavar="COMMAND", required=True)
    add = inner.add_parser("add", help="create a token; it is shown only once")
    add.add_argument("name", metavar="NAME", help="who will use it; the audit log shows this name")
    meanings = "; ".join(f"{role}: {meaning}" for role, meaning in MEANINGS.items())
    add.add_argument("--role", choices=[role.value for role in Role], default=Role.READ.value, help=meanings)
    add.add_argument("--days", type=_days, metavar="N", help="let it end after so many days; without, never")
    add.add_argument(
        "--account",
        metavar="SOURCE/USERNAME",
        action="append",
        help="let it ask about this account only; may be repeated",
    )
    add_json_option(add)
    add.set_defaults(run=run_add)
    listing = inner.add_parser("list", help="show all tokens: for what, until when, and when last used")
    add_json_option(listing)
    listing.set_defaults(run=run_list)
    revoke = inner.add_parser("revoke", help="revoke a token")
    revoke.add_argument("name", metavar="NAME", help="name of the token")
    revoke.set_defaults(run=run_revoke)
