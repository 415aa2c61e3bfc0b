"""Tokens that `accounts` keeps sealed in the database, and the keys that seal them."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

from crawlfleet.cli.arguments import settings_from
from crawlfleet.cli.database import actor, existing_fleet
from crawlfleet.cli.output import say
from crawlfleet.core.account import MAX_TOKEN_BYTES, check_token
from crawlfleet.core.edge_text import clean, decode
from crawlfleet.core.errors import UsageError
from crawlfleet.core.logs import hide
from crawlfleet.core.private_files import write_private
from crawlfleet.core.secrets import Keyring, Owner, keyring, new_key


def sealed_token(keys: Keyring, owner: Owner) -> str:
    """Read the account's token from standard input, on a terminal without echo, and seal it.

    Raises UsageError for a bad one.
    """
    if sys.stdin is None:
        raise UsageError("--token-stdin: there is no standard input")
    if sys.stdin.isatty():
        token = clean(getpass.getpass("Token: "))
    else:
        try:
            token = decode(sys.stdin.buffer.read(MAX_TOKEN_BYTES + 1))
        except ValueError as error:
            raise UsageError(f"--token-stdin: the token is no text: {error}") from None
    hide(token)
    if not token:
        raise UsageError("--token-stdin takes one token, and got none")
    return keys.seal(check_token(token), owner)


def run_new_key(args: argparse.Namespace) -> int:
    """Print a new key, or write it to a file that only its owner can read."""
    key = new_key()
    if args.output is None:
        print(key)
        return 0
    try:
        write_private(args.output, key + "\n")
    except FileExistsError:
        raise UsageError(f"{args.output} exists: a new key goes before the keys in it, as its first line") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{args.output} cannot be written: {reason}") from None
    say(f"wrote {args.output}")
    return 0


def run_rotate(args: argparse.Namespace) -> int:
    """Seal all tokens of the database anew, under the newest key: all of them or none."""
    keys = keyring(settings_from(args).secret_key_file)
    with existing_fleet(args) as fleet:
        count = fleet.accounts.reseal_tokens(keys, actor())
    print(f"{count} tokens are sealed under the newest key")
    return 0


def add_parsers(inner: Any) -> None:
    """Add `new-key` and `rotate` to the sub-commands of `accounts`."""
    add = inner.add_parser("new-key", help="create a key for tokens that are stored encrypted in the database")
    add.add_argument("--output", "-o", metavar="FILE", help="write it to this file, readable by its owner only")
    add.set_defaults(run=run_new_key)
    rotate = inner.add_parser("rotate", help="encrypt all stored tokens again, with the newest key")
    rotate.set_defaults(run=run_rotate)
