"""`data coverage`: the state of every day of every feed, as a calendar on a terminal."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.data.filters import Question, add_coverage_filters, question
from crawlfleet.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from crawlfleet.insights.coverage import FeedCoverage

COLUMNS = ("day", "state", "rows", "fetched_at", "settles_at")


def run_coverage(args: argparse.Namespace) -> int:
    """Print the state of each day of each feed."""
    from crawlfleet.insights.coverage import coverage

    with question(args) as asked:
        calendars = coverage(asked.db, asked.wanted, asked.start, asked.end, asked.reports_of)
        if args.json:
            print_json(_as_objects(calendars))
            return 0
        totals: Counter[str] = Counter()
        counted = _counted(calendars, totals)
        if sys.stdout.isatty():
            from crawlfleet.cli.data.heatmap import print_heatmap, print_legend

            print_heatmap(counted, asked.start, asked.end)
            print_legend(totals)
        else:
            _print_lines(counted, asked)
            print("all days: " + ", ".join(f"{totals[name]} {name}" for name in _state_names()))
    if not totals:
        say("there are no feeds: nothing was fetched, and no account has apps (a task of type user_apps finds them)")
    return 0


def _state_names() -> list[str]:
    from crawlfleet.model.coverage_state import DayState

    return [state.value for state in DayState]


def _counted(calendars: Iterable[FeedCoverage], totals: Counter[str]) -> Iterator[FeedCoverage]:
    """Yield the calendars as they come, and count their days by state in `totals`."""
    for calendar in calendars:
        totals.update(covered.state.value for covered in calendar.days)
        yield calendar


def _as_objects(calendars: Iterable[FeedCoverage]) -> Iterator[dict[str, Any]]:
    for calendar in calendars:
        name = calendar.feed.name
        feed = {"source": name.source, "username": name.username, "app_id": name.app_id, "report": name.report}
        for covered in calendar.days:
            yield feed | {column: getattr(covered, column) for column in COLUMNS}


def _print_lines(calendars: Iterable[FeedCoverage], asked: Question) -> None:
    """Print one line for each feed, for files and other programs."""
    from crawlfleet.cli.data.heatmap import LETTERS

    names = _state_names()
    rows = []
    for calendar in calendars:
        name, counts = calendar.feed.name, Counter(covered.state.value for covered in calendar.days)
        letters = "".join(LETTERS[covered.state] for covered in calendar.days)
        rows.append([*(name.source, name.username, name.report, name.app_id), *(counts[n] for n in names), letters])
    print_table(["source", "username", "report", "app", *names, f"{asked.start}..{asked.end}"], rows)


def add_parser(subparsers: Any) -> None:
    """Add `data coverage`."""
    parser = subparsers.add_parser("coverage", help="show which days of which feeds were fetched")
    add_coverage_filters(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_coverage)
