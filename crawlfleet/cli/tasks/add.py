"""`tasks add`: one task from options, or many from a file of JSON lines, all or none of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.arguments import add_json_option, whole_number
from crawlfleet.cli.database import actor, ready_fleet
from crawlfleet.cli.output import print_json, progress, say
from crawlfleet.cli.tasks.lines import read_task_lines
from crawlfleet.core.errors import UsageError
from crawlfleet.core.json_text import parse_json
from crawlfleet.model.task_spec import BELIEVE_EMPTY, DEFAULT_REPORT, MAX_PRIORITY, SPEC_KEYS, TaskSpec

if TYPE_CHECKING:
    from crawlfleet.services.fleet import Fleet, Queued

MANY = 10_000  # tasks, from which on adding them takes seconds


def run_add(args: argparse.Namespace) -> int:
    """Queue tasks and print their ids."""
    given = {name: getattr(args, name) for name in SPEC_KEYS if getattr(args, name) is not None}
    if args.believe_empty:
        given["task_data"] = _with_belief(given)
    if args.from_file is not None:
        queued = _add_lines(args, given)
    else:
        if "task_type" not in given:
            raise UsageError("--type is required, as in --type user_apps; --from FILE adds the tasks of a file")
        spec = TaskSpec.from_mapping(given)
        with ready_fleet(args) as fleet:
            queued = fleet.queue([spec], actor(), force=args.force)
    if args.json:
        print_json({"ids": queued.ids})
    else:
        for task_id in queued.ids:
            print(task_id)
    for note in queued.notes:
        say(note)
    return 0


def _with_belief(given: dict[str, Any]) -> dict[str, Any]:
    """The data of a task that is to believe days without rows; only the types that fetch figures read that."""
    data = given.get("task_data", {})
    if given.get("task_type") not in ("app_data", "user_apps") or not isinstance(data, dict):
        raise UsageError("--believe-empty is for tasks of type app_data or user_apps, whose --data is an object")
    return {**data, BELIEVE_EMPTY: True}


def _add_lines(args: argparse.Namespace, given: dict[str, Any]) -> Queued:
    if given:
        raise UsageError(f"{_option(next(iter(given)))} cannot go with --from: every line is a whole task")
    lines: list[tuple[str, TaskSpec]] = []
    with progress(None, "tasks read") as advance:
        for line in read_task_lines(args.from_file):
            lines.append(line)
            advance()
    if len(lines) >= MANY:
        say(f"adding {len(lines)} tasks")
    with ready_fleet(args) as fleet:
        try:
            queued = fleet.queue([spec for _, spec in lines], actor(), force=args.force)
        except UsageError:
            _name_the_line(fleet, lines, args.force)
            raise
    say(f"tasks queued: {len(queued.ids)}")
    return queued


def _name_the_line(fleet: Fleet, lines: list[tuple[str, TaskSpec]], force: bool) -> None:
    """Raise the error of the first task that cannot be added, with its line. Checks tasks that are alike once."""
    alike = {
        (spec.task_type, spec.username, spec.source, spec.start_date is None, spec.end_date is None): (place, spec)
        for place, spec in reversed(lines)
    }
    for place, spec in reversed(alike.values()):
        try:
            fleet.check([spec], force=force)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from None


def _option(name: str) -> str:
    return "--" + {"task_type": "type", "task_data": "data"}.get(name, name).replace("_", "-")


def _json_value(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error} (got {text!r:.80})") from None


def add_parser(subparsers: Any) -> None:
    """Add `add`."""
    parser = subparsers.add_parser("add", help="queue a task, or the tasks of a file")
    add = parser.add_argument
    add("--from", dest="from_file", metavar="FILE", help="file with one task per line, as JSON; - reads standard input")
    add("--type", dest="task_type", metavar="T", help="user_apps, app_data, or a type of your own executors")
    add("--username", metavar="U", help="the account")
    add("--source", metavar="S", help="vendor of the account; needed only when several vendors have this username")
    add("--app-id", metavar="A", help="id of the app, as the vendor spells it")
    add("--start-date", metavar="D", help="first day, as in 2026-01-31")
    add("--end-date", metavar="D", help="last day, inclusive")
    add("--report", metavar="R", help=f"the vendor's report (default: its first, as {DEFAULT_REPORT})")
    priority = whole_number(-MAX_PRIORITY, MAX_PRIORITY)
    add("--priority", metavar="N", type=priority, help="each step counts like ten minutes of waiting (default: 0)")
    add("--run-at", metavar="T", help="earliest start, as in 2026-01-31T08:00:00+08:00; UTC if no zone is given")
    add("--data", dest="task_data", metavar="JSON", type=_json_value, help="JSON object for the executor")
    add(
        "--believe-empty",
        action="store_true",
        help="trust empty answers: delete the stored rows of days that now have none",
    )
    add("--label", metavar="LABEL", help="run only on devices that have this label")
    add("--unique-key", metavar="K", help="add nothing while a task with this key is open")
    add("--force", action="store_true", help="accept a type that looks misspelled, and a report that is unknown here")
    add("--execution-timeout", metavar="S", type=whole_number(1, 604_800), help="time limit of a run, in seconds")
    add("--max-retry-count", metavar="N", type=whole_number(0, 100), help="retries after the first attempt")
    add_json_option(parser)
    parser.set_defaults(run=run_add)
