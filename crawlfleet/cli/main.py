"""The program `crawlfleet`: finds the command, runs it, turns failures into one line and an exit code."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

import crawlfleet
from crawlfleet.cli.arguments import GLOBAL_DEFAULTS, Parser, first_word
from crawlfleet.cli.ending import end_in_time
from crawlfleet.cli.moments import screen
from crawlfleet.cli.output import end_screen
from crawlfleet.cli.streams import (
    lasting_stderr,
    lasting_stdout,
    open_missing_streams,
    point_to_nowhere,
    telling_stdout,
)
from crawlfleet.core.errors import CrawlfleetError, cause_of
from crawlfleet.core.logs import configure_logging, make_stream_safe, redact
from crawlfleet.core.private_files import keep_new_files_private

# Only the module of the command that is used is imported: the others would double the start-up time.
# Each has add_parser(subparsers), whose parsers set `run`, a function from the arguments to the exit code or None.
GROUPS = {
    "distribute": (
        "crawlfleet.cli.distribution_cli",
        "run a node, show the state of the fleet, write and check settings",
    ),
    "tasks": ("crawlfleet.cli.tasks.tasks_cli", "add, list, show, retry and cancel tasks"),
    "accounts": ("crawlfleet.cli.accounts.accounts_cli", "accounts at the vendors"),
    "devices": ("crawlfleet.cli.devices_cli", "devices of the fleet"),
    "data": ("crawlfleet.cli.data.data_cli", "synced apps and figures"),
    "tokens": ("crawlfleet.cli.tokens_cli", "tokens of the HTTP API"),
    "db": ("crawlfleet.cli.db_cli", "upgrade and check the database"),
    "doctor": ("crawlfleet.cli.doctor_cli", "check whether this machine can run a node"),
    "sandbox": ("crawlfleet.cli.sandbox_cli", "simulated vendor APIs with quotas"),
    "demo": ("crawlfleet.cli.demo_cli", "a small fleet at work against simulated vendors"),
}
# Commands that change something. Their exit code says what was done, whether or not anybody can be shown its result.
CHANGES = {
    "tasks": {"add", "backfill", "retry", "cancel", "pause", "resume"},
    "accounts": {"add", "set", "park", "resume", "remove", "rotate"},
    "devices": {"drain", "resume", "remove"},
    "tokens": {"revoke"},
    "db": {"upgrade"},
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
READER_GONE = 141  # 128 + SIGPIPE
MAX_MESSAGE_CHARS = 1000  # a value may be as long as a file; how a message begins and ends says what to do


def run() -> int:
    """The whole program: one command, and the end of its process."""
    keep_new_files_private()
    code = main()
    end_in_time(code)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 the work said no, 2 wrong usage, 3 no database."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_missing_streams()
    with lasting_stderr():
        return _guarded(arguments)


def _guarded(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        make_stream_safe(stream)
    configure_logging(debug=debug, quiet=True)
    screen.begin()
    try:
        return _run(arguments)
    except SystemExit as end:  # argparse, after --help and --version
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _settle_stdout()
        return READER_GONE
    except CrawlfleetError as error:
        return _report(str(error), error.exit_code, debug)
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {cause_of(error)} (--debug shows where)"
        return _report(text, 1, debug)


def _run(arguments: list[str]) -> int:
    with telling_stdout():
        args = build_parser(first_word(arguments)).parse_args(arguments)
    with lasting_stdout() if _changes_something(args) else telling_stdout():
        result = args.run(args)
        end_screen()
    return result if isinstance(result, int) else 0


def _changes_something(args: Namespace) -> bool:
    dry = getattr(args, "dry_run", False)
    return not dry and getattr(args, "subcommand", None) in CHANGES.get(args.command, ())


def build_parser(command: str | None) -> Parser:
    """Return the parser: it knows all commands by name, and only `command` with its options."""
    parser = Parser(prog="crawlfleet", description=crawlfleet.__doc__)
    parser.add_argument("--version", action="version", version=f"crawlfleet {crawlfleet.__version__}")
    parser.set_defaults(**GLOBAL_DEFAULTS)
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, (module, help_line) in GROUPS.items():
        if name == command:
            import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=help_line)
    return parser


def _report(text: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        print(redact(traceback.format_exc()), end="", file=sys.stderr)
    _settle_stdout()
    line = redact(" ".join(text.split()))
    if len(line) > MAX_MESSAGE_CHARS:
        line = f"{line[: MAX_MESSAGE_CHARS - 200]} ... {line[-195:]}"
    end_screen(sys.stderr)
    print(f"error: {line}", file=sys.stderr)
    return code


def _settle_stdout() -> None:
    """Flush what can be flushed."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        point_to_nowhere(sys.stdout)
