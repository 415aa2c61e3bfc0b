"""Accounts, what was fetched for them, what is missing, and what the vendors' quotas leave."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from crawlfleet.api import bodies, data_models, models
from crawlfleet.api.parameters import (
    NOT_THERE,
    PROBLEMS,
    Actor,
    After,
    AfterId,
    Context,
    Feeds,
    Name,
    PageLimit,
    Source,
    Username,
    listed,
)
from crawlfleet.api.strict_json import StrictRoute
from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.insights import budgets
from crawlfleet.insights.coverage import coverage_page, gaps_page, period
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.insights.stored_rows import apps_page, rows_page

accounts = APIRouter(tags=["accounts"], responses=PROBLEMS, route_class=StrictRoute)
data = APIRouter(tags=["data"], responses=PROBLEMS, route_class=StrictRoute)

FirstDay = Annotated[dt.date | None, Query(description="first day")]
LastDay = Annotated[dt.date | None, Query(description="last day, included")]


@accounts.get("/accounts", response_model=data_models.Accounts)
async def list_accounts(context: Context, source: Source = None, username: Username = None) -> Response:
    """Accounts and how they stand. Where a token is, is shown; a token never."""
    return await context.cache.answer(
        ("accounts", source, username), lambda db: {"accounts": budgets.accounts(db, username, source)}
    )


@accounts.get("/accounts/{source}/{username}", response_model=data_models.WholeAccount, responses=NOT_THERE)
async def show_account(context: Context, source: Name, username: Name) -> Response:
    """One account with its budgets and what its vendor does not let it have."""
    return await context.queries.answer(lambda db: budgets.account_detail(db, context.fleet.account(username, source)))


@accounts.post("/accounts/{source}/{username}/park", response_model=models.Changed, responses=NOT_THERE)
async def park_account(context: Context, actor: Actor, source: Name, username: Name, why: bodies.Why) -> Response:
    """Let the account's tasks wait until `resume`."""

    def park(_db: Database) -> dict[str, Any]:
        context.fleet.account(username, source)
        return {"changed": context.fleet.accounts.park(source, username, why.reason, actor)}

    return await context.queries.answer(park)


@accounts.post("/accounts/{source}/{username}/resume", response_model=models.Changed, responses=NOT_THERE)
async def resume_account(context: Context, actor: Actor, source: Name, username: Name) -> Response:
    """Let the account's tasks run again."""

    def resume(_db: Database) -> dict[str, Any]:
        context.fleet.account(username, source)
        return {"changed": context.fleet.accounts.resume(source, username, actor)}

    return await context.queries.answer(resume)


@accounts.get("/budgets", response_model=data_models.Budgets)
async def list_budgets(
    context: Context,
    source: Source = None,
    username: Username = None,
    blocked: Annotated[bool, Query(description="only those that allow no call now")] = False,
    limit: PageLimit = 50,
    after: AfterId = None,
) -> Response:
    """What the vendors allow and how much of it is used; budgets that all accounts of a source share belong to each."""

    def ask(db: Database) -> dict[str, Any]:
        rows, following = budgets.budget_page(db, source, username, blocked, limit, after)
        return {"budgets": rows, "next": None if following is None else str(following)}

    return await context.queries.answer(ask)


@data.get("/apps", response_model=data_models.Apps)
async def list_apps(
    context: Context, source: Source = None, username: Username = None, limit: PageLimit = 100, after: After = None
) -> Response:
    """The apps that accounts see, by source, account and app."""
    wanted = FeedFilter(source, username)
    return await context.queries.answer(lambda db: listed("apps", apps_page(db, wanted, limit, after)))


@data.get("/data/rows", response_model=data_models.Rows)
async def list_rows(
    context: Context,
    feeds: Feeds,
    start_date: FirstDay = None,
    end_date: LastDay = None,
    limit: PageLimit = 100,
    after: After = None,
) -> Response:
    """Stored figures by source, account, app, report and day."""
    if start_date and end_date and start_date > end_date:
        raise UsageError(f"start_date must not be after end_date (got {start_date} and {end_date})")
    return await context.queries.answer(
        lambda db: listed("rows", rows_page(db, feeds, start_date, end_date, limit, after))
    )


@data.get("/data/coverage", response_model=data_models.Coverage)
async def coverage(
    context: Context,
    feeds: Feeds,
    start_date: FirstDay = None,
    end_date: LastDay = None,
    limit: PageLimit = 50,
    after: After = None,
) -> Response:
    """The state of each day of each feed, `limit` feeds a page, fewer where more than 5,000 days would be shown.
    Without days: the 30 up to yesterday."""

    def ask(db: Database) -> dict[str, Any]:
        start, end = period(db, start_date, end_date)
        page = coverage_page(db, feeds, start, end, context.reports_of, limit, after)
        return listed("feeds", page, start_date=start, end_date=end)

    return await context.queries.answer(ask)


@data.get("/data/gaps", response_model=data_models.Gaps)
async def gaps(
    context: Context,
    feeds: Feeds,
    start_date: FirstDay = None,
    end_date: LastDay = None,
    limit: PageLimit = 200,
    after: After = None,
) -> Response:
    """Which days should be fetched (again), and why: of `limit` feeds a page, fewer where more than 5,000 days would
    be looked at. A page without any may still have a `next`."""

    def ask(db: Database) -> dict[str, Any]:
        start, end = period(db, start_date, end_date)
        page = gaps_page(db, feeds, start, end, context.reports_of, limit, after)
        return listed("gaps", page, start_date=start, end_date=end)

    return await context.queries.answer(ask)
