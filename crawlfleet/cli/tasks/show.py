"""`tasks show`: one task as a person asks for it, with its runs and what people did; --json has every column."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from crawlfleet.cli.arguments import MAX_ID, add_json_option, whole_number
from crawlfleet.cli.database import existing_database
from crawlfleet.cli.output import print_fields, print_json, print_table
from crawlfleet.core.errors import CrawlfleetError
from crawlfleet.model.lifecycle import OPEN, TaskStatus

RUN_COLUMNS = ("run", "device", "status", "began", "seconds", "error")
EVENT_COLUMNS = ("when", "event", "actor", "detail")


def run_show(args: argparse.Namespace) -> int:
    """Print one task with its runs and events."""
    from crawlfleet.insights.tasks import task_detail

    with existing_database(args) as db:
        task = task_detail(db, args.id)
    if task is None:
        raise CrawlfleetError(f"there is no task {args.id}")
    if args.json:
        print_json(task)
        return 0
    print_fields(_fields(task))
    runs = task["assignments"]
    print(f"\nruns: {len(runs)}")
    if runs:
        print_table(RUN_COLUMNS, [_run(number, run) for number, run in enumerate(runs, 1)], prose=("error",))
    if task["events"]:
        print("\nevents:")
        names = ("created_at", "event", "actor", "detail")
        print_table(EVENT_COLUMNS, [[event[name] for name in names] for event in task["events"]], prose=("detail",))
    return 0


def days_of(task: Mapping[str, Any]) -> str:
    """Return the task's days as one word, empty when it has none."""
    return "..".join(dict.fromkeys(str(task[name]) for name in ("start_date", "end_date") if task[name]))


def _fields(task: Mapping[str, Any]) -> dict[str, Any]:
    is_open = task["status"] in OPEN
    attempts = f"{task['retry']} of {task['max_retry_count'] + 1} failed" if task["retry"] else None
    return {
        "id": task["id"],
        "type": task["task_type"],
        "status": task["status"],
        "account": task["username"],
        "source": task["source"],
        "app": task["app_id"],
        "report": task["report"],
        "days": days_of(task),
        "device": task["assigned_device_id"] if task["status"] != TaskStatus.PENDING else None,
        "label": task["label"],
        "priority": task["priority"] or None,
        "unique key": task["unique_key"],
        "added by task": task["parent_id"],
        "added": task["created_at"],
        "due": task["next_run_at"] if is_open else None,
        "ended": task["completed_at"],
        "attempts": attempts,
        "longest run": f"{task['execution_timeout']} s",
        "error": task["error_message"] and f"{task['error_kind']}: {task['error_message']}",
        "data": task["task_data"],
        "result": task["task_ret"],
    }


def _run(number: int, run: Mapping[str, Any]) -> tuple[Any, ...]:
    began, ended = run["started_at"], run["completed_at"]
    seconds = None if began is None or ended is None else round((ended - began).total_seconds(), 1)
    error = run["error_message"] and f"{run['error_kind']}: {run['error_message']}"
    return (number, run["device_id"], run["status"], began or run["assigned_at"], seconds, error)


def add_parser(subparsers: Any) -> None:
    """Add `show`."""
    show = subparsers.add_parser("show", help="show a task with its runs and events; --json has every column")
    show.add_argument("id", metavar="ID", type=whole_number(1, MAX_ID), help="id of the task")
    add_json_option(show)
    show.set_defaults(run=run_show)
