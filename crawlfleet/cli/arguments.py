"""How every command reads its arguments: one parser class, the options that are accepted everywhere."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, NoReturn

from crawlfleet.core.errors import UsageError
from crawlfleet.settings.definitions import FIELDS, Settings
from crawlfleet.settings.layers import load_settings
from crawlfleet.settings.values import close_matches

log = logging.getLogger(__name__)

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
MAX_ID = 2**63 - 1  # of a row in any of the databases
MAX_ROWS = 1_000_000_000  # that a --limit may ask for
DEFAULT_DATABASE = FIELDS["database_url"].default
GLOBAL_DEFAULTS = {"database": None, "config": None, "debug": False}


class Commands(argparse._SubParsersAction):  # type: ignore[type-arg]  # generic for type checkers only
    """The commands of a parser; the help of each begins with what its line in the list says."""

    def add_parser(self, name: str, **kwargs: Any) -> Any:
        """Add a command as argparse does."""
        text = kwargs.get("help")
        if text:
            kwargs.setdefault("description", f"{text[0].upper()}{text[1:]}.")
        return super().add_parser(name, **kwargs)


class Parser(argparse.ArgumentParser):
    """Takes --database, --config and --debug at every level, never abbreviates, and raises UsageError.

    Parsers made with `add_subparsers` are of this class too. `rewrite` turns older spellings into today's.
    """

    def __init__(self, *args: Any, rewrite: Callable[[list[str]], list[str]] | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self._rewrite = rewrite
        self.register("action", "parsers", Commands)
        everywhere = self.add_argument_group("options of every command")
        # Suppressed defaults: an inner parser must not undo what was given before the command.
        add = everywhere.add_argument
        add("--database", metavar="URL", default=argparse.SUPPRESS, help=f"database (default: {DEFAULT_DATABASE})")
        add("--config", "-c", metavar="FILE", default=argparse.SUPPRESS, help="config file, TOML or JSON")
        add("--debug", action="store_true", default=argparse.SUPPRESS, help="log more, and show tracebacks")

    def parse_known_args(  # type: ignore[override]  # the overloads of the stubs say no more than Any
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, but refuse an option that this parser does not know, with a suggestion.

        Refuse an argument that is no UTF-8, too: no database stores it, no output shows it.
        """
        for word in args or ():
            if any("\ud800" <= mark <= "\udfff" for mark in word):
                self.error(f"the argument {word!r:.80} is not UTF-8")
        if args is not None and self._rewrite is not None:
            args = self._rewrite(list(args))
        found, rest = super().parse_known_args(args, namespace)
        for word in rest:
            if word.startswith("-"):
                option = word.partition("=")[0]
                close = close_matches(option, list(self._option_string_actions))
                self.error(f"unknown option {option}" + (f": did you mean {close[0]}?" if close else ""))
        if rest:
            self.error(f"unexpected argument {rest[0]!r}")
        return found, rest

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Do as argparse does, but say that `--option=--` lacks a value: Python 3.11 would hand on an empty list."""
        if action.option_strings and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "expected one argument")
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            close = close_matches(str(value), choices)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise argparse.ArgumentError(action, f"{value!r} is not one of {', '.join(choices)}{hint}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, which every reading command has."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return the `type` of an option that takes a whole number of this range."""

    def parse(text: str) -> int:
        if not WHOLE_NUMBER.fullmatch(text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high} (got {text!r:.80})")
        return int(text)

    return parse


def calendar_day(text: str) -> date:
    """Read the value of an option that takes a day."""
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a date like 2026-01-31 (got {text!r:.80})")


def settings_from(args: argparse.Namespace, **overrides: Any) -> Settings:
    """Return the settings in effect, with `--database` and `--config` from `args`; log their notices."""
    settings = load_settings(args.config, {"database_url": args.database, **overrides})
    for notice in settings.notices:
        log.warning("%s", notice)
    return settings


def first_word(argv: Sequence[str]) -> str | None:
    """Return the command among the arguments: the first that is neither an option nor an option's value."""
    words = iter(argv)
    for word in words:
        if word in {"--database", "--config", "-c"}:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None
