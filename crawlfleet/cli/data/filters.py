"""The options by which the `data` commands choose feeds and days, as `insights` takes them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from crawlfleet.cli.arguments import calendar_day, settings_from
from crawlfleet.cli.database import check_names, existing_database
from crawlfleet.core.errors import UsageError

if TYPE_CHECKING:
    from crawlfleet.core.db import Database
    from crawlfleet.insights.feeds import FeedFilter, ReportsOf


def add_account_filters(parser: argparse.ArgumentParser) -> None:
    """Add --source and --username."""
    parser.add_argument("--source", metavar="S", help="only of this vendor")
    parser.add_argument("--username", metavar="U", help="only of this account")


def add_app_filters(parser: argparse.ArgumentParser) -> None:
    """Add --app-id and --report."""
    parser.add_argument("--app-id", metavar="A", help="only of this app")
    parser.add_argument("--report", metavar="R", help="only of this report")


def add_day_filters(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Add --start-date and --end-date; `default` says what is meant without them."""
    parser.add_argument("--start-date", metavar="D", type=calendar_day, help="first day, as in 2026-01-31")
    parser.add_argument("--end-date", metavar="D", type=calendar_day, help=f"last day, inclusive{default}")


def add_coverage_filters(parser: argparse.ArgumentParser) -> None:
    """Add all of them, for commands that look at 30 days unless told otherwise."""
    add_account_filters(parser)
    add_app_filters(parser)
    add_day_filters(parser, " (default: the 30 days up to yesterday, UTC)")


def check_days(args: argparse.Namespace) -> tuple[date | None, date | None]:
    """Return the first and the last day, None where not given; raises UsageError when the last is before the first."""
    start, end = args.start_date, args.end_date
    if start and end and start > end:
        raise UsageError(f"--start-date must not be after --end-date (got {start} and {end})")
    return start, end


@contextmanager
def filtered_database(args: argparse.Namespace) -> Iterator[tuple[Database, FeedFilter]]:
    """Open the command's database, with the feeds that its options mean; raises UsageError for unknown names."""
    from crawlfleet.insights.feeds import FeedFilter

    wanted = FeedFilter(args.source, args.username, getattr(args, "app_id", None), getattr(args, "report", None))
    with existing_database(args) as db:
        check_names(db, args)
        yield db, wanted


@dataclass(frozen=True)
class Question:
    """What a command about completeness asks: which feeds, which days, and what the reports can do."""

    db: Database
    wanted: FeedFilter
    start: date
    end: date
    reports_of: ReportsOf


@contextmanager
def question(args: argparse.Namespace) -> Iterator[Question]:
    """Open the command's database for the question that these arguments ask.

    Raises UsageError for impossible days and unknown names.
    """
    from crawlfleet.executors.registry import executors
    from crawlfleet.insights.coverage import period
    from crawlfleet.planning.tariff import Tariff, all_source_settings

    settings = settings_from(args)
    tariff = Tariff(all_source_settings(settings), lambda: executors(settings.executors))
    with filtered_database(args) as (db, wanted):
        yield Question(db, wanted, *period(db, args.start_date, args.end_date), tariff.reports_of)
