"""What the API gives of accounts, budgets and stored figures, for its documentation."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from crawlfleet.api.models import Next
from crawlfleet.api.row_models import fields_of, row_model
from crawlfleet.core.vendor_data import CURRENCY
from crawlfleet.insights.coverage import CoveredDay
from crawlfleet.insights.stored_rows import FEED_NAMES, KEY_COLUMNS
from crawlfleet.model import schema


class Account(BaseModel):
    """Where a token is (variable, file, or sealed in the database), never the token."""

    model_config = ConfigDict(extra="allow")
    source: str
    username: str
    kind: str
    token_env: str | None
    token_file: str | None
    token_sealed: bool
    status: str
    status_reason: str | None
    health: dict[str, Any] = Field(description="state, since, until, reason")


class Accounts(BaseModel):
    accounts: list[Account]


class WholeAccount(Account):
    budgets: list[dict[str, Any]]
    denied: list[dict[str, Any]] = Field(description="what its vendor does not let it have")


App = row_model("App", "", fields_of(schema.user_app, without={"id"}))


class Apps(BaseModel):
    apps: list[App]  # type: ignore[valid-type]
    next: Next


Row = row_model(
    "Row",
    "Figures of one day. null is a value that the vendor did not give; amounts have all their digits.",
    {
        **dict.fromkeys(FEED_NAMES, str),
        **fields_of(schema.app_data, without={*KEY_COLUMNS, "extra"}),
        CURRENCY: str,
        "extra": Any,
    },
)


class Rows(BaseModel):
    rows: list[Row]  # type: ignore[valid-type]
    next: Next


class CoveredFeed(BaseModel):
    source: str
    username: str
    report: str
    app_id: str
    refusal: str | None
    days: list[CoveredDay]


class Coverage(BaseModel):
    start_date: dt.date
    end_date: dt.date
    feeds: list[CoveredFeed]
    next: Next


class Gap(BaseModel):
    source: str
    username: str
    app_id: str
    report: str
    start_date: dt.date
    end_date: dt.date
    days: int
    state: str
    why: str


class Gaps(BaseModel):
    start_date: dt.date
    end_date: dt.date
    gaps: list[Gap]
    next: Next


class Budget(BaseModel):
    source: str
    limit: str
    username: str | None
    app_id: str | None
    report: str | None
    used: int
    allowed: int | None
    seconds: float = Field(description="of the window; 86400 is the UTC day")
    opens_at: dt.datetime | None
    closed_until: dt.datetime | None
    reason: str | None
    learned_calls: int | None
    learned_seconds: float | None = Field(description="of a window that refusals taught to be longer than declared")
    last_call_at: dt.datetime | None
    waiting: int = Field(description="due tasks that need it")


class Budgets(BaseModel):
    budgets: list[Budget]
    next: Next
