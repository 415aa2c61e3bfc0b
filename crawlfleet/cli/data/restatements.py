"""`data restatements`: figures that a vendor changed after they were fetched."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.data.filters import add_coverage_filters, question
from crawlfleet.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from crawlfleet.insights.restatements import Restatement

FEED = ("source", "username", "app_id", "report")
VALUES = ("day", "figure", "before", "after", "difference", "currency", "fetched_before", "fetched_at")
SHOWN = ("app_id", *VALUES[:6], "username", "report", "source", *VALUES[6:])  # the first of them fit in a line


def run_restatements(args: argparse.Namespace) -> int:
    """Print each changed figure of each day."""
    from crawlfleet.insights.restatements import restatements

    with question(args) as asked:
        objects = map(_as_object, restatements(asked.db, asked.wanted, asked.start, asked.end))
        if args.json:
            print_json(objects)
            return 0
        rows = [[item[name] for name in SHOWN] for item in objects]
    if rows:
        print_table(SHOWN, rows)
    else:
        say(f"no day from {asked.start} to {asked.end} was changed by a later fetch")
    return 0


def _as_object(restatement: Restatement) -> dict[str, Any]:
    feed = restatement.feed
    values = (feed.source, feed.username, feed.app_id, feed.report, restatement.day, restatement.figure)
    amounts = (restatement.before, restatement.after, restatement.difference, restatement.currency)
    return dict(
        zip((*FEED, *VALUES), (*values, *amounts, restatement.fetched_before, restatement.fetched_at), strict=True)
    )


def add_parser(subparsers: Any) -> None:
    """Add `data restatements`."""
    parser = subparsers.add_parser("restatements", help="show figures that the vendor changed after they were fetched")
    add_coverage_filters(parser)
    add_json_option(parser)
    parser.set_defaults(run=run_restatements)
