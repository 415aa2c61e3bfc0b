"""`data gaps`: which days should be fetched (again), why, and the command that does it."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.data.filters import add_coverage_filters, question
from crawlfleet.cli.output import print_json, print_table, print_text, say
from crawlfleet.cli.program import program_words

if TYPE_CHECKING:
    from crawlfleet.insights.coverage import Gap

SHOWN = ("app_id", "start_date", "end_date", "days", "state", "username", "report", "source")  # the first fit


def run_gaps(args: argparse.Namespace) -> int:
    """Print the gaps of each feed; exit code 1 when there are any."""
    from crawlfleet.insights.coverage import gaps

    with question(args) as asked:
        gap_rows = [_as_object(gap) for gap in gaps(asked.db, asked.wanted, asked.start, asked.end, asked.reports_of)]
    if args.json:
        print_json(gap_rows)
    elif gap_rows:
        print_table(SHOWN, [[gap[name] for name in SHOWN] for gap in gap_rows])
        for state, why in sorted({(gap["state"], gap["why"]) for gap in gap_rows}):
            print_text(f"{state}: {why}")
        if commands := [gap["command"] for gap in gap_rows if gap["command"] is not None]:
            print("\nwhat closes them:", *commands, sep="\n")
    else:
        say(f"no gaps from {asked.start} to {asked.end}")
    return 1 if gap_rows else 0


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
    words = (
        shlex.quote(f"{option}={value}") if value.startswith("-") else f"{option} {shlex.quote(value)}"
        for option, value in options.items()
    )
    return f"{program_words()} tasks backfill {' '.join(words)}"


def add_parser(subparsers: Any) -> None:
    """Add `data gaps`."""
    parser = subparsers.add_parser("gaps", help="show which days should be fetched (again); exit 1 when there are any")
    add_coverage_filters(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_gaps)
