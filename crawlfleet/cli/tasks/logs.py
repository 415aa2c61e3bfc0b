"""`tasks logs`: what the runs of a task said, or the lines of all tasks that hold a text."""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.arguments import MAX_ID, MAX_ROWS, add_json_option, whole_number
from crawlfleet.cli.database import existing_database
from crawlfleet.cli.output import cell, end_screen, local_time, print_json, say
from crawlfleet.core.clock import pause
from crawlfleet.core.errors import CrawlfleetError, UsageError

if TYPE_CHECKING:
    from crawlfleet.core.db import Database
    from crawlfleet.insights.task_logs import LogLine

DEFAULT_FOUND = 100
FOLLOW_SECONDS = 0.5  # between two looks
QUIET_SECONDS = 3.0  # after the end of a task: its node may still store what it said
LEVEL_NAMES = ("debug", "info", "warning", "error", "critical")


def run_logs(args: argparse.Namespace) -> int:
    """Print lines of one task, the oldest first, or of all tasks, the newest first."""
    if args.follow and args.id is None:
        raise UsageError("--follow goes with the id of a task")
    with existing_database(args) as db:
        if args.id is None:
            lines = _search(db, args)
            if args.json:
                print_json(map(asdict, lines))
            else:
                for line in lines:
                    _print_line(line, f"task {line.task_id}")
                if not lines:
                    say("no such line")
            return 0
        task_lines = _of_task(db, args)
        if args.follow:
            for line in task_lines:
                if args.json:
                    print(json.dumps(asdict(line), default=_as_text, ensure_ascii=False), flush=True)
                else:
                    _print_line(line, line.device_id or "")
            return 0
        kept = deque(task_lines, args.limit)
    if args.json:
        print_json(map(asdict, kept))
        return 0
    for line in kept:
        _print_line(line, line.device_id or "")
    if not kept:
        say("no such line")
    return 0


def _of_task(db: Database, args: argparse.Namespace) -> Iterator[LogLine]:
    """Yield the task's lines that match; with --follow wait for more until the task is over and silent."""
    from crawlfleet.insights.task_logs import LEVELS, task_log

    after, over_since = None, None
    while True:
        page = task_log(db, args.id, after, live=args.follow)
        if page is None:
            raise CrawlfleetError(f"there is no task {args.id}")
        after = page.after
        for line in page.lines:
            if LEVELS[line.level] >= LEVELS[args.level] and (args.text or "").lower() in line.message.lower():
                yield line
        if page.more:
            continue
        if not args.follow:
            return
        if not page.ended:
            over_since = None
        elif over_since is None or page.lines:
            over_since = time.monotonic()
        elif time.monotonic() - over_since >= QUIET_SECONDS:
            return
        pause(FOLLOW_SECONDS)


def _search(db: Database, args: argparse.Namespace) -> list[LogLine]:
    from crawlfleet.insights.task_logs import search_logs

    wanted = args.limit or DEFAULT_FOUND
    lines: list[LogLine] = []
    before = None
    while len(lines) < wanted:
        page = search_logs(db, args.text, args.level, before, wanted - len(lines))
        lines += page.lines
        before = page.before
        if before is None:
            return lines
    say(f"these are the newest {wanted}; --limit shows more")
    return lines


def _print_line(line: LogLine, origin: str) -> None:
    first, *others = line.message.splitlines() or [""]
    moment = local_time(line.at)
    end_screen()  # before the first line: nobody sees the end of what is followed
    print(f"{moment} {line.level.upper():<8} {origin}  {cell(first)}", flush=True)
    for other in others:
        print(f"    {cell(other)}", flush=True)


def _as_text(value: Any) -> str:
    return str(value.isoformat().replace("+00:00", "Z"))


def add_parser(subparsers: Any) -> None:
    """Add `logs`."""
    parser = subparsers.add_parser("logs", help="show the log of a task, or search the logs of all tasks")
    parser.add_argument(
        "id", metavar="ID", nargs="?", type=whole_number(1, MAX_ID), help="id of the task; without it, all tasks"
    )
    parser.add_argument("--text", metavar="TEXT", help="only lines that contain this text, ignoring case")
    parser.add_argument(
        "--level",
        metavar="L",
        choices=LEVEL_NAMES,
        default="debug",
        help=f"only lines of this level or above: {', '.join(LEVEL_NAMES)}",
    )
    parser.add_argument("--follow", action="store_true", help="keep showing new lines until the task ends")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole_number(1, MAX_ROWS),
        help="show at most N lines, the newest (default for all tasks: 100)",
    )
    add_json_option(parser)
    parser.set_defaults(run=run_logs)
