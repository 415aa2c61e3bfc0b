"""`tasks explain`: why a task waits, and until when."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from crawlfleet.cli.arguments import MAX_ID, add_json_option, settings_from, whole_number
from crawlfleet.cli.database import existing_database
from crawlfleet.cli.output import cell, local_time, print_json, print_text
from crawlfleet.core.errors import CrawlfleetError


def run_explain(args: argparse.Namespace) -> int:
    """Print one sentence; with --json the explanation and what it is made of."""
    from crawlfleet.insights.explain import explain, utc_text

    with existing_database(args) as db:
        when = utc_text if args.json else local_time
        explanation = explain(db, args.id, settings_from(args).offline_timeout, when=when)
    if explanation is None:
        raise CrawlfleetError(f"there is no task {args.id}")
    if args.json:
        print_json(asdict(explanation))
    else:
        print_text(cell(explanation.sentence))
    return 0


def add_parser(subparsers: Any) -> None:
    """Add `explain`."""
    parser = subparsers.add_parser("explain", help="explain why a task is waiting and until when, or how it ended")
    parser.add_argument("id", metavar="ID", type=whole_number(1, MAX_ID), help="id of the task")
    add_json_option(parser)
    parser.set_defaults(run=run_explain)
