"""`tasks backfill`: fetch an account's missing days in few calls, as early as the vendor's quotas allow."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.arguments import add_json_option, calendar_day, settings_from
from crawlfleet.cli.database import actor, existing_database
from crawlfleet.cli.output import cell, print_json, print_table, print_text, say
from crawlfleet.core.errors import CrawlfleetError, UsageError
from crawlfleet.model.task_spec import DEFAULT_REPORT

if TYPE_CHECKING:
    from crawlfleet.insights.coverage import Gap
    from crawlfleet.services.fleet import Fleet

SHOWN_TASKS = 50  # --json prints all


def run_backfill(args: argparse.Namespace) -> int:
    """Plan, print the plan, and queue its tasks."""
    from crawlfleet.planning.tariff import task_defaults
    from crawlfleet.services.fleet import Fleet

    if args.all_gaps:
        return _close_all_gaps(args)
    for name in ("username", "start_date", "end_date"):
        if getattr(args, name) is None:
            raise UsageError(f"--{name.replace('_', '-')} is required, or --all-gaps for all that `data gaps` shows")
    with existing_database(args) as db:
        fleet = Fleet(db, task_defaults(settings_from(args)))
        summary = _plan(fleet, args, args.username, args.start_date, args.end_date, args.source, args.app_id)
    if args.json:
        print_json(summary)
    else:
        _print(summary)
    return 0


def _plan(
    fleet: Fleet,
    args: argparse.Namespace,
    username: str,
    start: date,
    end: date,
    source: str | None,
    app_ids: Sequence[str] | None,
    report: str | None = None,
) -> dict[str, Any]:
    plan = fleet.backfill(
        username,
        start,
        end,
        source=source,
        app_ids=app_ids or (),
        report=report or args.report,
        label=args.label,
        dry_run=args.dry_run,
        actor=actor(),
        believe_empty=args.believe_empty,
    )
    return plan.as_dict()


def _close_all_gaps(args: argparse.Namespace) -> int:
    """Plan one backfill for each account and report with gaps, over the days from its first gap to its last."""
    from crawlfleet.cli.data.filters import question
    from crawlfleet.cli.data.gaps import tell_unsynced
    from crawlfleet.insights.coverage import gaps
    from crawlfleet.insights.names import never_synced
    from crawlfleet.planning.tariff import task_defaults
    from crawlfleet.services.fleet import Fleet

    if len(args.app_id or ()) > 1:
        raise UsageError("--all-gaps takes one --app-id, or none for all apps")
    chosen = argparse.Namespace(**{**vars(args), "app_id": args.app_id[0] if args.app_id else None})
    summaries, failed = [], False
    with question(chosen) as asked:
        found: dict[tuple[str, str, str], list[Gap]] = {}
        for gap in gaps(asked.db, asked.wanted, asked.start, asked.end, asked.reports_of):
            if not gap.feed.is_denied:
                name = gap.feed.name
                found.setdefault((name.source, name.username, name.report), []).append(gap)
        unsynced = never_synced(asked.db, asked.wanted)
        fleet = Fleet(asked.db, task_defaults(settings_from(args)))
        for (source, username, report), same in found.items():
            start, end = min(gap.start for gap in same), max(gap.end for gap in same)
            app_ids = list(dict.fromkeys(gap.feed.name.app_id for gap in same))
            try:
                summaries.append(_plan(fleet, args, username, start, end, source, app_ids, report))
            except CrawlfleetError as error:  # the others' gaps are closed all the same
                say(f"{username} at {source}, {report}: {error}")
                failed = True
    if args.json:
        print_json(summaries)
    else:
        for number, summary in enumerate(summaries):
            print(end="\n" if number else "")
            _print(summary)
        if not found:
            say(f"no gaps from {asked.start} to {asked.end} that a call could close")
    tell_unsynced(unsynced)
    return 1 if failed or unsynced else 0


def _print(summary: Mapping[str, Any]) -> None:
    for note in summary["notes"]:
        say(note)
    _print_summary(summary)
    if summary["tasks"]:
        print_table(
            ("app", "first day", "last day", "not before", "limits"), map(_task, summary["tasks"][:SHOWN_TASKS])
        )
        if len(summary["tasks"]) > SHOWN_TASKS:
            say(f"these are the first {SHOWN_TASKS} tasks; --json shows all")
        print()
        names = ("limit", "budgets", "calls planned", "least left now", "allowed")
        print_table(names, _by_limit(summary["budgets"]))
        print()
        ids = sorted(summary["ids"])
        print(f"tasks queued: {len(ids)}, ids {ids[0]} to {ids[-1]}" if ids else "dry run: nothing was queued")


def _print_summary(summary: Mapping[str, Any]) -> None:
    what = f"report {summary['report']} of {summary['username']}, {summary['start_date']} to {summary['end_date']}"
    if summary["tasks"]:
        print_text(f"{what}: {summary['calls']} calls; the last can be made at {cell(summary['finish_at'])}")
    else:
        print_text(f"{what}: nothing to fetch")
    skipped = [f"{count} {reason.replace('_', ' ')}" for reason, count in summary["skipped"].items() if count]
    if skipped:
        print_text(f"days left out, of {summary['apps']} apps together: {', '.join(skipped)}")


def _task(task: Mapping[str, Any]) -> Sequence[Any]:
    return task["app_id"], task["start_date"], task["end_date"], task["run_at"], task["limits"]


def _by_limit(budgets: Sequence[Mapping[str, Any]]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for limit in dict.fromkeys(budget["limit"] for budget in budgets):
        same = [budget for budget in budgets if budget["limit"] == limit]
        left = [budget["calls_left"] for budget in same if budget["calls_left"] is not None]
        planned = sum(budget["calls_planned"] for budget in same)
        allowed = {budget["allowed"] for budget in same} - {None}
        rows.append((limit, len(same), planned, min(left, default=None), max(allowed, default=None)))
    return rows


def add_parser(subparsers: Any) -> None:
    """Add `backfill`."""
    parser = subparsers.add_parser(
        "backfill", help="queue the fewest calls that fetch the missing days of a date range"
    )
    add = parser.add_argument
    add(
        "--all-gaps",
        action="store_true",
        help="queue everything that `data gaps` lists, for all accounts or the one given",
    )
    add("--username", metavar="U", help="the account")
    add("--source", metavar="S", help="vendor of the account; needed only when several vendors have this username")
    add("--start-date", metavar="D", type=calendar_day, help="first day, as in 2026-01-31")
    add("--end-date", metavar="D", type=calendar_day, help="last day, inclusive")
    add("--app-id", metavar="A", action="append", help="this app; may be repeated (default: all known apps)")
    add("--report", metavar="R", help=f"the vendor's report (default: its first, as {DEFAULT_REPORT})")
    add("--label", metavar="LABEL", help="run only on devices that have this label")
    add(
        "--believe-empty",
        action="store_true",
        help="trust empty answers: delete the stored rows of days that now have none",
    )
    add("--dry-run", action="store_true", help="show the plan and queue nothing")
    add_json_option(parser)
    parser.set_defaults(run=run_backfill)
