"""Accounts, apps and days of figures, stored as the tasks that fetch them would, and what is stored, to compare."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange, Row, Scope
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.range_store import replace_range
from crawlfleet.model.task_spec import DEFAULT_REPORT
from crawlfleet.services.fleet import Fleet

FIELDS = (
    *("agency", "media_source", "campaign", "country"),
    *("impressions", "clicks", "installs", "sessions", "loyal_users", "revenue", "cost"),
)
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


def stored_cells(fleet: Fleet, username: str, app_id: str, report: str = DEFAULT_REPORT) -> Counter[tuple[Any, ...]]:
    """Each stored row of a feed as the tuple of its cells, and how often it is there."""
    rows = stored_rows.data_rows(fleet.db, FeedFilter(username=username, app_id=app_id, report=report))
    return Counter(
        _cells({**row, "day": date.fromisoformat(str(row["date"])[:10])}, _extra_of(row["extra"])) for row in rows
    )


def invented_cells(rows: Iterable[Figures]) -> Counter[tuple[Any, ...]]:
    """The same of what the simulated vendor has."""
    return Counter(
        _cells({name: getattr(row, name) for name in ("day", *FIELDS)}, {**row.dimensions, **row.extra}) for row in rows
    )


def _extra_of(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value) if isinstance(value, str) else dict(value or {})
    return found


def _cells(row: dict[str, Any], extra: dict[str, Any]) -> tuple[Any, ...]:
    amounts = [None if row[name] is None else round(Decimal(row[name]), 6) for name in ("revenue", "cost")]
    return (row["day"], *(row[name] for name in FIELDS[:-2]), *amounts, json.dumps(extra, sort_keys=True))
