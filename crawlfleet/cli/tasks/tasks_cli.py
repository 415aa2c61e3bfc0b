"""`tasks`: list, show, count, retry and cancel tasks, pause the queue. `add.py` and its neighbours have the rest."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from crawlfleet.cli.arguments import MAX_ID, MAX_ROWS, add_json_option, whole_number
from crawlfleet.cli.database import actor, check_names, existing_database, existing_fleet
from crawlfleet.cli.moments import beginning, end, screen
from crawlfleet.cli.output import print_json, print_table, progress, say
from crawlfleet.cli.tasks import add, backfill, explain, forecast, logs, run_now, show
from crawlfleet.cli.tasks.show import days_of
from crawlfleet.core.errors import UsageError
from crawlfleet.model.lifecycle import MOVES, TaskStatus

DEFAULT_LIMIT = 50
MOVE_BATCH = 500  # tasks between two looks at how far it is
SHOWN_LEFT = 20  # tasks that were left as they were, each named with the one that has its unique key
REASON_CHARS = 200  # of an error in a list; `tasks show` has the whole text
LEFT_BECAUSE = {
    "revive": "another open task holds their unique key, or they were retried meanwhile",
    "cancel": "they ended meanwhile",
}
COLUMNS = ("id", "type", "status", "when", "username", "app", "device", "days", "failures", "source", "error")


def run_list(args: argparse.Namespace) -> int:
    """Print the newest tasks."""
    from crawlfleet.insights.tasks import TaskFilter, newest_tasks

    with existing_database(args) as db:
        check_names(db, args)
        wanted = TaskFilter(
            args.status, args.type, args.username, args.source, args.app_id, args.device, args.since, args.until
        )
        tasks = list(newest_tasks(db, wanted, args.limit))
    if args.json:
        print_json(tasks)
        return 0
    print_table(COLUMNS, map(_line, tasks), prose=("error",))
    if len(tasks) == args.limit:
        say(f"these are the newest {args.limit}; --limit shows more")
    return 0


def _line(task: Mapping[str, Any]) -> tuple[Any, ...]:
    error = task["error_message"] or ""
    return (
        task["id"],
        task["task_type"],
        task["status"],
        _when(task),
        task["username"],
        task["app_id"],
        task["assigned_device_id"],
        days_of(task),
        task["retry"] or None,
        task["source"],
        error if len(error) <= REASON_CHARS else f"{error[: REASON_CHARS - 1]}…",
    )


def _when(task: Mapping[str, Any]) -> str:
    if task["completed_at"]:
        return f"ended {screen.ago(task['completed_at'])}"
    if task["status"] == TaskStatus.PENDING:
        return f"due {screen.ago(task['next_run_at'])}"
    return f"taken {screen.ago(task['assigned_at'])}"


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
            check_names(fleet.db, args)
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
    for module in (add, backfill, explain, forecast, logs, run_now, show):
        module.add_parser(inner)

    listing = inner.add_parser("list", help="list the newest tasks")
    _add_filters(listing, list(TaskStatus))
    listing.add_argument("--source", metavar="S", help="only tasks of this vendor")
    listing.add_argument("--app-id", metavar="A", help="only tasks of this app")
    listing.add_argument("--device", metavar="ID", help="tasks that this device has, or had last")
    when = "a day, or a moment as in 2026-01-31T08:00; of your zone unless it names one"
    listing.add_argument("--since", metavar="T", type=beginning, help=f"only tasks added since: {when}")
    listing.add_argument("--until", metavar="T", type=end, help="tasks added until then; a day is included")
    limit = whole_number(1, MAX_ROWS)
    listing.add_argument("--limit", metavar="N", type=limit, default=DEFAULT_LIMIT, help="show at most N (default: 50)")
    add_json_option(listing)
    listing.set_defaults(run=run_list)

    stats = inner.add_parser("stats", help="count tasks by state")
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

    pause = inner.add_parser("pause", help="stop all devices from taking tasks until resume")
    pause.add_argument("--reason", metavar="TEXT", help="reason, shown wherever tasks wait because of it")
    pause.set_defaults(run=run_pause)
    inner.add_parser("resume", help="let devices take tasks again").set_defaults(run=run_resume)


def _add_filters(parser: argparse.ArgumentParser, states: Sequence[TaskStatus]) -> None:
    parser.add_argument("--status", metavar="S", choices=[state.value for state in states], help=", ".join(states))
    parser.add_argument("--type", metavar="T", help="only tasks of this type")
    parser.add_argument("--username", metavar="U", help="only tasks of this account")
