"""`data coverage`: the state of every day of every feed, as a calendar."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.data.filters import add_coverage_filters, question
from crawlfleet.cli.output import print_json, say

if TYPE_CHECKING:
    from crawlfleet.insights.coverage import FeedCoverage

COLUMNS = ("day", "state", "rows", "fetched_at", "settles_at")


def run_coverage(args: argparse.Namespace) -> int:
    """Print the state of each day of each feed."""
    from crawlfleet.cli.data.heatmap import print_heatmap, print_legend
    from crawlfleet.insights.coverage import coverage

    with question(args) as asked:
        calendars = coverage(asked.db, asked.wanted, asked.start, asked.end, asked.reports_of)
        if args.json:
            print_json(_as_objects(calendars))
            return 0
        totals: Counter[str] = Counter()
        counted = _counted(calendars, totals)
        print_heatmap(counted, asked.start, asked.end)
        if totals:
            print_legend(totals)
    if not totals:
        say("there are no feeds: nothing was fetched, and no account has apps (a task of type user_apps finds them)")
    return 0


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


def add_parser(subparsers: Any) -> None:
    """Add `data coverage`."""
    parser = subparsers.add_parser("coverage", help="show which days have been fetched, for each app and report")
    add_coverage_filters(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_coverage)
