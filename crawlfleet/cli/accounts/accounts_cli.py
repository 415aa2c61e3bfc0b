"""`accounts`: the accounts at vendors, where their tokens are, and their proxies. A token is never an argument."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from crawlfleet.cli.accounts import show
from crawlfleet.cli.accounts.secrets import add_parsers, sealed_token
from crawlfleet.cli.arguments import add_json_option, settings_from
from crawlfleet.cli.database import actor, existing_fleet, ready_fleet
from crawlfleet.cli.moments import screen
from crawlfleet.cli.output import local_time, print_json, print_table, say
from crawlfleet.core.account import Account
from crawlfleet.core.edge_text import clean
from crawlfleet.core.errors import CrawlfleetError, ProxyError, TokenUnavailable, UsageError
from crawlfleet.core.reach import OWN_VARIABLES
from crawlfleet.core.secrets import Owner, keyring
from crawlfleet.core.wording import counted
from crawlfleet.model.gate import ASKED_BY
from crawlfleet.model.lifecycle import AccountStatus
from crawlfleet.model.task_spec import TaskSpec

if TYPE_CHECKING:
    from crawlfleet.services.fleet import Fleet
    from crawlfleet.settings.definitions import Settings

KINDS = ("advertiser", "agency", "ad_network")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
MAX_PATH = 1024
LISTED = ("username", "source", "health", "since", "until", "kind", "token", "proxy", "apps by hand", "reason")


class RefuseToken(argparse.Action):
    """Refuses `--token`: its value would be in the shell's history and in the list of processes."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(
            "a token on the command line could be read by others: put it in an environment variable and name that"
            " with --token-env, put it in a file with --token-file, or hand it in with --token-stdin"
        )


def run_add(args: argparse.Namespace) -> int:
    """Store a new account."""
    from crawlfleet.sources.contract import SourceSettings
    from crawlfleet.sources.registry import make_source

    settings = settings_from(args)
    source = make_source(args.source, SourceSettings())
    _check_token_place(args, source.needs_token)
    values = {"kind": KINDS[0], "app_ids": (), "proxy": None} | _given(args)
    values |= _sealed(args, settings, (args.source, args.username))
    account = Account(args.source, args.username, reach=settings.reach, **values)
    with ready_fleet(args, makes_default=True) as fleet:
        is_new = fleet.accounts.add(account, actor())
    print(f"account {account.username} at {account.source} {'added' if is_new else 'is there already, just like this'}")
    _warn_of_what_is_missing(account, source.needs_token, settings.use_proxy)
    return 0


def run_set(args: argparse.Namespace) -> int:
    """Change what is named of an account."""
    from crawlfleet.sources.contract import SourceSettings
    from crawlfleet.sources.registry import make_source

    settings = settings_from(args)
    values = _given(args)
    if not values:
        raise UsageError("say what to change: --token-env, --token-file, --token-stdin, --proxy, --kind or --app-id")
    with existing_fleet(args) as fleet:
        row = _the_account(fleet, args)
        source = make_source(row["source"], SourceSettings())
        if not source.needs_token:
            _check_token_place(args, source.needs_token)
        values |= _sealed(args, settings, (row["source"], row["username"]))
        fleet.accounts.change(row["source"], row["username"], values, actor())
        account = fleet.accounts.get(row["source"], row["username"])
    if account is None:
        raise CrawlfleetError(f"account {row['username']!r} was just removed")
    print(f"account {account.username} at {account.source} changed")
    account = replace(account, reach=settings.reach)
    _warn_of_what_is_missing(account, source.needs_token, settings.use_proxy)
    _say_that_it_waits(row)
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of an account, by its columns; a token has one place only."""
    values: dict[str, Any] = {}
    if args.token_env is not None or args.token_file is not None or args.token_stdin:
        values |= {"token_env": _variable(args.token_env), "token_file": _path(args.token_file), "token_sealed": None}
    if args.proxy is not None:
        values["proxy"] = _proxy(args.proxy) if args.proxy else None
    if args.kind is not None:
        values["kind"] = args.kind
    for app_id in args.app_id or [None]:
        TaskSpec("app_data", source=args.source, username=args.username, app_id=app_id)  # what no task could name
    if args.app_id is not None:
        values["app_ids"] = tuple(args.app_id)
    return values


def _sealed(args: argparse.Namespace, settings: Settings, owner: Owner) -> dict[str, str]:
    return {"token_sealed": sealed_token(keyring(settings.secret_key_file), owner)} if args.token_stdin else {}


def _say_that_it_waits(row: Mapping[str, Any]) -> None:
    if row["status"] != AccountStatus.HEALTHY:
        say(f"its tasks still wait ({row['status']}): `accounts resume {row['username']}` lets them go on")


def _say_when_nodes_read_variables(row: Mapping[str, Any]) -> None:
    """A node that runs with the old value would be refused again."""
    if row["token_env"]:
        say(
            f"a node reads the variable {row['token_env']} once, at its start: a node that started before the token was"
            " renewed needs a new start (a file of --token-file is read at each use)"
        )


def _warn_of_what_is_missing(account: Account, needs_token: bool, use_proxy: bool) -> None:
    from crawlfleet.sources.http.proxies import Proxy

    try:
        if needs_token:
            account.token()
        if account.proxy is not None:
            Proxy(account.proxy, account.reach.proxy_variables).open()
    except (TokenUnavailable, ProxyError) as error:
        say(f"warning: {error}; every node that fetches for this account needs it")
    if account.proxy is not None and not use_proxy:
        say("note: use_proxy is off here; a node goes through the proxy only with use_proxy = true")


def _check_token_place(args: argparse.Namespace, needs_token: bool) -> None:
    is_given = args.token_env is not None or args.token_file is not None or args.token_stdin
    if needs_token and not is_given:
        raise UsageError(
            f"an account at {args.source} needs a token: --token-env NAME, --token-file F or --token-stdin"
        )
    if is_given and not needs_token:
        raise UsageError(f"an account at {args.source} has no token: leave out --token-env, --token-file and so on")


def _variable(name: str | None) -> str | None:
    name = None if name is None else clean(name)
    if name is not None and not VARIABLE.fullmatch(name):  # not repeated here: it may be the token
        raise UsageError("--token-env takes the name of an environment variable: letters, digits and '_', at most 128")
    if name is not None and name.upper().startswith(OWN_VARIABLES):
        raise UsageError(f"--token-env must not name {name}: variables with {OWN_VARIABLES} are crawlfleet's own")
    return name


def _path(name: str | None) -> str | None:
    if name is None:
        return None
    name = clean(name)
    path = os.path.abspath(name)
    if not name or len(path) > MAX_PATH or not path.isprintable():
        raise UsageError(f"--token-file takes the path of a file, at most {MAX_PATH} characters (got {name!r:.80})")
    return path


def _proxy(address: str) -> str:
    from crawlfleet.sources.http.proxies import Proxy

    if len(address) > MAX_PATH or not address.isprintable():
        raise UsageError(f"--proxy takes an address of at most {MAX_PATH} printable characters")
    if Proxy(address).holds_password:
        raise UsageError(
            "--proxy must not hold a password, which others could read: put it in an environment variable of each node"
            " and name that, as in 'socks5://user:${PROXY_PASSWORD}@host:1080' (in single quotes)"
        )
    return address


def run_list(args: argparse.Namespace) -> int:
    """Print all accounts."""
    from crawlfleet.insights.budgets import accounts

    with existing_fleet(args) as fleet:
        rows = accounts(fleet.db)
    if args.json:
        print_json(rows)
    else:
        print_table(LISTED, map(_line, rows), prose=("reason", "apps by hand"))
    return 0


def _line(row: Mapping[str, Any]) -> tuple[Any, ...]:
    from crawlfleet.sources.http.proxies import Proxy

    token = "none"
    if row["token_sealed"]:
        token = "sealed"
    elif row["token_env"] or row["token_file"]:
        token = f"variable {row['token_env']}" if row["token_env"] else f"file {row['token_file']}"
    proxy = row["proxy"] and Proxy(row["proxy"]).name
    health = row["health"]
    moments = (screen.ago(health[name]) for name in ("since", "until"))
    who = (row["username"], row["source"], health["state"], *moments)
    return (*who, row["kind"], token, proxy, row["app_ids"], health["reason"])


def run_test(args: argparse.Namespace) -> int:
    """Ask the vendor for the account's apps, which shows that the token and the network work."""
    from crawlfleet.planning.tariff import tariff_of
    from crawlfleet.services.account_check import count_apps
    from crawlfleet.services.node import usable_account
    from crawlfleet.sources.contract import AppListUnavailable

    settings = settings_from(args)
    with existing_fleet(args) as fleet:
        row = _the_account(fleet, args)
        stored = fleet.accounts.get(row["source"], row["username"])
        if stored is None:
            raise CrawlfleetError(f"account {row['username']!r} was just removed")
        account, tariff = usable_account(stored, settings), tariff_of(settings)
        if tariff.source(account.source).needs_token:
            account.token()  # no call is spent without one
        say(f"asking {account.source} for the apps of {account.username}; this counts against its app-list quota")
        try:
            count = count_apps(fleet.db, tariff, account, when=local_time)
        except AppListUnavailable as error:
            if not account.app_ids:
                raise
            say(f"{error}; {counted(len(account.app_ids), 'app')} named by hand will do")
        else:
            print(f"fine: {account.username} at {account.source} sees {counted(count, 'app')}")
    _say_when_nodes_read_variables(row)
    _say_that_it_waits(row)
    return 0


def run_park(args: argparse.Namespace) -> int:
    """Let the account's tasks wait."""
    with existing_fleet(args) as fleet:
        row = _the_account(fleet, args)
        changed = fleet.accounts.park(row["source"], row["username"], args.reason, actor())
    name = f"account {row['username']} at {row['source']}"
    print(f"{name} is parked; its tasks wait" if changed else f"{name} was parked already: {row['status_reason']}")
    return 0


def run_resume(args: argparse.Namespace) -> int:
    """Let the account's tasks run again."""
    with existing_fleet(args) as fleet:
        row = _the_account(fleet, args)
        changed = fleet.accounts.resume(row["source"], row["username"], actor(), args.accept_apps)
    print(f"account {row['username']} at {row['source']} {'is' if changed else 'was'} {AccountStatus.HEALTHY}")
    if row["status"] == AccountStatus.TOKEN_EXPIRED or ASKED_BY in (row["status_reason"] or ""):
        _say_when_nodes_read_variables(row)
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """Forget the account; its data stays."""
    with existing_fleet(args) as fleet:
        row = _the_account(fleet, args)
        fleet.accounts.remove(row["source"], row["username"], actor())
    print(f"account {row['username']} at {row['source']} removed; its apps and figures stay")
    return 0


def _the_account(fleet: Fleet, args: argparse.Namespace) -> dict[str, Any]:
    return fleet.account(args.username, args.source)


def add_parser(subparsers: Any) -> None:
    """Add `accounts` with its sub-commands."""
    parser = subparsers.add_parser("accounts", help="add, check and change accounts at vendors")
    inner = parser.add_subparsers(title="sub-commands", dest="subcommand", metavar="COMMAND", required=True)

    add = inner.add_parser("add", help="add an account")
    add.add_argument("--source", metavar="S", required=True, help="the vendor, as in appsflyer")
    add.add_argument("--username", metavar="U", required=True, help="name of the account")
    _add_account_options(add)
    add.set_defaults(run=run_add)
    change = inner.add_parser("set", help="change an account; what is not named stays as it is")
    change.add_argument("username", metavar="USERNAME", help="name of the account")
    change.add_argument(
        "--source", metavar="S", help="the vendor; needed only when several have an account of this name"
    )
    _add_account_options(change)
    change.set_defaults(run=run_set)

    add_parsers(inner)

    listing = inner.add_parser("list", help="list all accounts; tokens are never shown")
    add_json_option(listing)
    listing.set_defaults(run=run_list)
    show.add_parser(inner, _the_account)

    for name, run, help_line in (
        ("test", run_test, "check an account by asking the vendor for its apps; uses one call of that quota"),
        ("park", run_park, "hold back the account's tasks until resume"),
        ("resume", run_resume, "let the account's tasks run again"),
        ("remove", run_remove, "remove an account; its apps and figures stay"),
    ):
        command = inner.add_parser(name, help=help_line)
        command.add_argument("username", metavar="USERNAME", help="name of the account")
        command.add_argument(
            "--source", metavar="S", help="the vendor; needed only when several have an account of this name"
        )
        if name == "park":
            command.add_argument("--reason", metavar="TEXT", required=True, help="reason, shown to your colleagues")
        if name == "resume":
            accept = "take the next list of apps as it is, also when most of those known are missing from it"
            command.add_argument("--accept-apps", action="store_true", help=accept)
        command.set_defaults(run=run)


def _add_account_options(parser: argparse.ArgumentParser) -> None:
    """Add what can be said of an account."""
    parser.add_argument("--token", nargs="?", action=RefuseToken, help=argparse.SUPPRESS)
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--token-env", metavar="NAME", help="environment variable that holds the token on each node")
    token.add_argument("--token-file", metavar="F", help="file that holds the token on each node")
    token.add_argument(
        "--token-stdin",
        action="store_true",
        help="read the token from standard input and store it encrypted in the database",
    )
    parser.add_argument("--proxy", metavar="URL", help="proxy of the account, its password as ${VARIABLE}; '' for none")
    parser.add_argument("--kind", choices=KINDS, help=f"what the account is; a new one is {KINDS[0]} unless given")
    parser.add_argument(
        "--app-id", metavar="A", action="append", help="an app of an account whose vendor lists none; may be repeated"
    )
