"""Accounts, apps and days of figures, stored as the tasks that fetch them would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange, Row, Scope
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.range_store import replace_range
from crawlfleet.model.task_spec import DEFAULT_REPORT

LONG_SETTLED = datetime(2026, 6, 1, tzinfo=UTC)


def store(db: Database, scope: Scope, rows: Iterable[Row], fetched_at: datetime = LONG_SETTLED) -> None:
    """What a task that began to fetch these rows at that moment would store."""
    found = list(rows)  # a transaction may run twice
    db.write(lambda connection: replace_range(connection, scope, found, fetched_at))


def add_account(db: Database, *app_ids: str, username: str = "u", source: str = "appsflyer") -> None:
    """An account whose vendor lists these apps."""
    AccountDAO(db).add(Account(source, username, token_env="NO_TOKEN"))
    store(db, AppList(source, username), map(App, app_ids))


def add_days(
    db: Database,
    app_id: str,
    start: date,
    row_counts: Sequence[int],
    fetched_at: datetime = LONG_SETTLED,
    report: str = DEFAULT_REPORT,
    username: str = "u",
    source: str = "appsflyer",
    cost: str = "1.5",
) -> None:
    """One fetch of successive days from `start`, with so many rows each."""
    scope = ReportRange(source, username, app_id, report, start, start + timedelta(len(row_counts) - 1))
    rows = [
        Figures(start + timedelta(number), media_source=f"m{n}", clicks=2, cost=Decimal(cost))
        for number, count in enumerate(row_counts)
        for n in range(count)
    ]
    store(db, scope, rows, fetched_at)
