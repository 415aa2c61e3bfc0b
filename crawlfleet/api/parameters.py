"""What the routes have in common: their context, who asks, filters with limits, and pages."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from crawlfleet.api.bodies import MAX_ID
from crawlfleet.api.guard import caller_of
from crawlfleet.api.models import Problem
from crawlfleet.api.query_runner import RouteContext
from crawlfleet.core.errors import NotFound
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.insights.pages import Page

PREFIX = "/api/distribution"
MAX_PAGE = 1000  # rows
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the body cannot be read"},
    401: {"model": Problem, "description": "no token, or a wrong one"},
    403: {"model": Problem, "description": "the token's role is too weak"},
    422: {"model": Problem, "description": "a value is wrong"},
    429: {"model": Problem, "description": "too many wrong tokens came from this address"},
    503: {"model": Problem, "description": "the database cannot be used"},
}
NOT_THERE: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "there is nothing of this id"}}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "its state does not allow it"}}
TOO_LARGE: dict[int | str, dict[str, Any]] = {413: {"model": Problem, "description": "the body is too large"}}


def office_of(request: Request) -> RouteContext:
    """What the routes of this application work with."""
    context: RouteContext = request.app.state.context
    return context


def actor_of(request: Request) -> str:
    """Who asks, for the audit."""
    return caller_of(request).actor


def _filter(what: str, most: int = 190) -> Any:
    return Query(max_length=most, pattern=PRINTABLE, description=f"only of this {what}")


Context = Annotated[RouteContext, Depends(office_of)]
Actor = Annotated[str, Depends(actor_of)]
Source = Annotated[str | None, _filter("source", 64)]
Username = Annotated[str | None, _filter("account")]
AppId = Annotated[str | None, _filter("app")]
Report = Annotated[str | None, _filter("report", 64)]
TaskType = Annotated[str | None, _filter("type", 64)]
DeviceFilter = Annotated[str | None, _filter("device", 64)]
PageLimit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="rows of a page, at most")]
Before = Annotated[int | None, Query(ge=1, le=MAX_ID, description="the `next` of the page before")]
AfterId = Annotated[int | None, Query(ge=0, le=MAX_ID, description="the `next` of the page before")]
After = Annotated[str | None, Query(max_length=4000, description="the `next` of the page before")]
RowId = Annotated[int, Path(ge=1, le=MAX_ID)]
DeviceId = Annotated[str, Path(max_length=64, pattern=PRINTABLE)]
Name = Annotated[str, Path(max_length=190, pattern=PRINTABLE)]


def feed_filter(
    source: Source = None, username: Username = None, app_id: AppId = None, report: Report = None
) -> FeedFilter:
    """Which feeds the request means."""
    return FeedFilter(source, username, app_id, report)


Feeds = Annotated[FeedFilter, Depends(feed_filter)]


def listed(name: str, page: Page, **more: Any) -> dict[str, Any]:
    """A page as its answer."""
    return {**more, name: page.rows, "next": page.next}


def found(value: Any, what: str) -> Any:
    """The value; raises NotFound for None."""
    if value is None:
        raise NotFound(f"there is no {what}")
    return value
