"""`data gaps`: which days should be fetched (again), why, and the command that does it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.data.filters import add_coverage_filters, question
from crawlfleet.cli.output import print_json, print_table, print_text, say
from crawlfleet.cli.program import program_words

if TYPE_CHECKING:
    from crawlfleet.insights.coverage import Gap

SHOWN = ("app_id", "start_date", "end_date", "days", "state", "username", "report", "source")  # the first fit


def run_gaps(args: argparse.Namespace) -> int:
    """Print the gaps of each feed; exit code 1 when there are any, or when nothing is known."""
    from crawlfleet.insights.coverage import gaps
    from crawlfleet.insights.feeds import find_feeds
    from crawlfleet.insights.names import never_synced

    with question(args) as asked:
        gap_rows = [_as_object(gap) for gap in gaps(asked.db, asked.wanted, asked.start, asked.end, asked.reports_of)]
        unsynced = never_synced(asked.db, asked.wanted)
        is_known = bool(gap_rows or find_feeds(asked.db, asked.wanted, asked.reports_of))
    if args.json:
        print_json(gap_rows)
    elif gap_rows:
        print_table(SHOWN, [[gap[name] for name in SHOWN] for gap in gap_rows])
        for state, why in sorted({(gap["state"], gap["why"]) for gap in gap_rows}):
            print_text(f"{state}: {why}")
        if any(gap["command"] is not None for gap in gap_rows):
            print(f"\nwhat closes them:\n{_backfill(_given(args), '--all-gaps')}")
    elif is_known:
        say(f"no gaps from {asked.start} to {asked.end}" + (" elsewhere" if unsynced else ""))
    if not (is_known or unsynced):
        say("nothing is known: no app is listed and no day was fetched of what is asked for")
    tell_unsynced(unsynced)
    return 1 if gap_rows or unsynced or not is_known else 0


def tell_unsynced(accounts: Sequence[tuple[str, str]]) -> None:
    """Say of which accounts, each a source and a username, nothing is known, and the command that changes it."""
    for source, username in accounts:
        command = f"tasks add --type user_apps --username {shlex.quote(username)} --source {shlex.quote(source)}"
        say(f"account {username} at {source} was never synced, so nobody knows what is missing: `{command}`")


def _given(args: argparse.Namespace) -> dict[str, str | None]:
    """Return the options that chose the feeds and days."""
    names = ("username", "source", "app_id", "report", "start_date", "end_date")
    return {f"--{name.replace('_', '-')}": value and str(value) for name in names for value in [getattr(args, name)]}


def _as_object(gap: Gap) -> dict[str, Any]:
    return gap.as_dict() | {"command": command_for(gap)}


def command_for(gap: Gap) -> str | None:
    """Return the command that closes the gap, as a shell reads it; None where only the vendor can."""
    if gap.feed.is_denied:
        return None
    name = gap.feed.name
    options = {
        "--username": name.username,
        "--source": name.source,
        "--app-id": name.app_id,
        "--report": name.report,
        "--start-date": gap.start.isoformat(),
        "--end-date": gap.end.isoformat(),
    }
    return _backfill(options)


def _backfill(options: Mapping[str, str | None], *flags: str) -> str:
    words = (
        shlex.quote(f"{option}={value}") if value.startswith("-") else f"{option} {shlex.quote(value)}"
        for option, value in options.items()
        if value is not None
    )
    return " ".join((f"{program_words()} tasks backfill", *flags, *words))


def add_parser(subparsers: Any) -> None:
    """Add `data gaps`."""
    parser = subparsers.add_parser(
        "gaps", help="list the days that still have to be fetched; exit code 1 when there are any"
    )
    add_coverage_filters(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_gaps)
