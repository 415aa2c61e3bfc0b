"""`tasks run-now`: let a task that waits for its time, or for its next try, be due now."""

from __future__ import annotations

import argparse
from typing import Any

from crawlfleet.cli.arguments import MAX_ID, settings_from, whole_number
from crawlfleet.cli.database import actor, existing_fleet
from crawlfleet.cli.output import cell, local_time, print_text
from crawlfleet.core.errors import CrawlfleetError
from crawlfleet.model.lifecycle import TaskStatus


def run_run_now(args: argparse.Namespace) -> int:
    """Print what the task waits for now."""
    from crawlfleet.insights.explain import explain

    with existing_fleet(args) as fleet:
        states = fleet.tasks.states([args.id])
        if args.id not in states:
            raise CrawlfleetError(f"there is no task {args.id}")
        if states[args.id] in (TaskStatus.FAILED, TaskStatus.CANCELLED):
            raise CrawlfleetError(f"task {args.id} is {states[args.id]}: `tasks retry {args.id}` queues it again")
        fleet.run_now([args.id], actor())
        explanation = explain(fleet.db, args.id, settings_from(args).offline_timeout, when=local_time)
    print_text(cell(explanation.sentence if explanation is not None else "it is gone"))
    return 0


def add_parser(subparsers: Any) -> None:
    """Add `run-now`."""
    parser = subparsers.add_parser(
        "run-now", help="run a waiting task now instead of at its scheduled time or next retry"
    )
    parser.add_argument("id", metavar="ID", type=whole_number(1, MAX_ID), help="id of the task")
    parser.set_defaults(run=run_run_now)
