"""`tasks`: list, show, count, retry and cancel tasks, pause the queue. `add.py` and its neighbours have the rest."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from crawlfleet.cli.arguments import MAX_ID, MAX_ROWS, add_json_option, whole_number
from crawlfleet.cli.database import actor, existing_database, existing_fleet
from crawlfleet.cli.output import cell, print_json, print_table, progress, say
from crawlfleet.cli.tasks import add, backfill, explain, forecast, logs, run_now
from crawlfleet.core.errors import CrawlfleetError, UsageError
from crawlfleet.model.lifecycle import MOVES, TaskStatus

DEFAULT_LIMIT = 50
MOVE_BATCH = 500  # tasks between two looks at how far it is
SHOWN_LEFT = 20  # tasks that were left as they were, each named with the one that has its unique key
REASON_WIDTH = 60  # of an error in a table; `tasks show` has the whole text
LEFT_BECAUSE = {
    "revive": "another open task holds their unique key, or they were retried meanwhile",
    "cancel": "they ended meanwhile",
}
RUN_COLUMNS = ("id", "device_id", "status", "assigned_at", "started_at", "completed_at", "error_kind", "error_message")


def run_list(args: argparse.Namespace) -> int:
    """Print the newest tasks."""
    from crawlfleet.insights.tasks import TaskFilter, newest_tasks

    with existing_database(args) as db:
        tasks = list(newest_tasks(db, TaskFilter(args.status, args.type, args.username), args.limit))
    if args.json:
        print_json(tasks)
        return 0
    columns = ("id", "type", "status", "source", "username", "app", "days", "failures", "due", "ended", "error")
    print_table(columns, map(_line, tasks))
    if len(tasks) == args.limit:
        say(f"these are the newest {args.limit}; --limit shows more")
    return 0


def _line(task: Mapping[str, Any]) -> tuple[Any, ...]:
    days = [str(task[name]) for name in ("start_date", "end_date") if task[name]]
    error = task["error_message"] or ""
    return (
        task["id"],
        task["task_type"],
        task["status"],
        task["source"],
        task["username"],
        task["app_id"],
        "..".join(dict.fromkeys(days)),
        task["retry"],
        None if task["completed_at"] else task["next_run_at"],
        task["completed_at"],
        error if len(error) <= REASON_WIDTH else f"{error[: REASON_WIDTH - 1]}…",
    )


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
    assignments, events = task.pop("assignments"), task.pop("events")
    for name, value in task.items():
        if value is not None:
            print(f"{name}: {cell(value)}")
    print(f"\nruns: {len(assignments)}")
    if assignments:
        print_table(RUN_COLUMNS, [[run[name] for name in RUN_COLUMNS] for run in assignments])
    if events:
        print("\nevents:")
        names = ("created_at", "event", "actor", "detail")
        print_table(names, [[event[name] for name in names] for event in events])
    return 0


def run_stats(args: argparse.Namespace) -> int:
    """Print how many tasks are in each state."""
    with existing_fleet(args) as fleet:
        counts = fleet.tasks.stats()
    if args.json:
        print_json(counts)
    else:
        for state, count in counts.items():
            print(f"{state}: {count}")
    return 0


def run_retry(args: argparse.Namespace) -> int:
    """Queue failed or cancelled tasks again."""
    return _move(args, "revive", "queued again")


def run_cancel(args: argparse.Namespace) -> int:
    """Cancel open tasks."""
    return _move(args, "cancel", TaskStatus.CANCELLED)


def _move(args: argparse.Namespace, move: str, done: str) -> int:
    """Move the tasks with these ids, all or none of them, or the tasks that the filters find."""
    filtered = any((args.status, args.type, args.username))
    if bool(args.ids) == filtered:
        raise UsageError("name tasks either by their ids or by --status, --type and --username")
    with existing_fleet(args) as fleet:
        ids = list(dict.fromkeys(args.ids))
        if filtered:
            states = [TaskStatus(args.status)] if args.status else MOVES[move].task_from
            ids = fleet.tasks.ids_in(states, args.type, args.username)
        else:
            fleet.require_movable(move, ids)
        mover = fleet.retry_tasks if move == "revive" else fleet.cancel_tasks
        moved: set[int] = set()
        with progress(len(ids), done) as advance:
            for first in range(0, len(ids), MOVE_BATCH):
                batch = ids[first : first + MOVE_BATCH]
                moved.update(mover(batch, actor()))
                advance(len(batch))
        left = [each for each in ids if each not in moved]
        notes = fleet.open_elsewhere(left[:SHOWN_LEFT]) if move == "revive" and left else []
    print(f"{done}: {len(moved)}")
    if not left:
        return 0
    for note in notes:
        say(note)
    if len(left) > len(notes):
        say(f"left as they were: {len(left) - len(notes)}: {LEFT_BECAUSE[move]}")
    return 0 if filtered else 1


def run_pause(args: argparse.Namespace) -> int:
    """Let no device claim anything until `resume`."""
    with existing_fleet(args) as fleet:
        changed = fleet.set_paused(True, args.reason, actor())
    print("the queue is paused; running tasks go on" if changed else "the queue was paused already")
    return 0


def run_resume(args: argparse.Namespace) -> int:
    """Let devices claim again."""
    with existing_fleet(args) as fleet:
        changed = fleet.set_paused(False, actor=actor())
    print("the queue is open again" if changed else "the queue was not paused")
    return 0


def add_parser(subparsers: Any) -> None:
    """Add `tasks` with its sub-commands."""
    parser = subparsers.add_parser("tasks", help="add, list, retry and cancel tasks")
    inner = parser.add_subparsers(title="sub-commands", dest="subcommand", metavar="COMMAND", required=True)
    for module in (add, backfill, explain, forecast, logs, run_now):
        module.add_parser(inner)

    listing = inner.add_parser("list", help="show the newest tasks")
    _add_filters(listing, list(TaskStatus))
    limit = whole_number(1, MAX_ROWS)
    listing.add_argument(
        "--limit", metavar="N", type=limit, default=DEFAULT_LIMIT, help="at most so many (default: 50)"
    )
    add_json_option(listing)
    listing.set_defaults(run=run_list)

    show = inner.add_parser("show", help="show one task with its runs and events")
    show.add_argument("id", metavar="ID", type=whole_number(1, MAX_ID), help="id of the task")
    add_json_option(show)
    show.set_defaults(run=run_show)

    stats = inner.add_parser("stats", help="count the tasks in each state")
    add_json_option(stats)
    stats.set_defaults(run=run_stats)

    for name, move, run, help_line in (
        ("retry", "revive", run_retry, "queue failed or cancelled tasks again"),
        ("cancel", "cancel", run_cancel, "cancel open tasks, running ones too"),
    ):
        mover = inner.add_parser(name, help=help_line)
        mover.add_argument("ids", metavar="ID", nargs="*", type=whole_number(1, MAX_ID), help="ids of tasks")
        _add_filters(mover, MOVES[move].task_from)
        mover.set_defaults(run=run)

    pause = inner.add_parser("pause", help="let no device claim anything until resume")
    pause.add_argument("--reason", metavar="TEXT", help="shown with everything that waits")
    pause.set_defaults(run=run_pause)
    inner.add_parser("resume", help="let devices claim again").set_defaults(run=run_resume)


def _add_filters(parser: argparse.ArgumentParser, states: Sequence[TaskStatus]) -> None:
    parser.add_argument("--status", metavar="S", choices=[state.value for state in states], help=", ".join(states))
    parser.add_argument("--type", metavar="T", help="tasks of this type")
    parser.add_argument("--username", metavar="U", help="tasks of this account")
