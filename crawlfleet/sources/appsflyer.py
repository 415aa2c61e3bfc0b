"""AppsFlyer: the App List API and the aggregate Pull API, version 2 tokens.

Shapes and limits follow the vendor's own documentation (devhub: app_list_ad_nets_api.yaml, aggregate_pull_api_v2.yaml;
help centre 207034366 for quotas); the texts of quota errors are those that several public clients agree on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any
from urllib.parse import quote

from crawlfleet.core.account import Account
from crawlfleet.core.errors import AuthError, PermanentError, QuotaError, TaskError, TransientError
from crawlfleet.core.figures import App, Figures
from crawlfleet.sources.appsflyer_report import MEDIA_SOURCE, ReportText, storable
from crawlfleet.sources.base import AppListUnavailable, Cancellable, Limit, Report, Shape, SourceSettings
from crawlfleet.sources.http import Session, Transport
from crawlfleet.sources.refusals import Classify, Refusal

BASE_URL = "https://hq1.appsflyer.com"
APPS_PATH = "/api/mng/apps"
APPS_PER_PAGE = 1000  # the vendor's maximum
MAX_PAGES = 100  # the vendor allows 100 calls a day
APP_ID_PATTERN = re.compile(r"[a-zA-Z0-9._-]{1,190}")
SHORT_RANGE_DAYS = 2  # up to here a call counts against the minute, beyond it against the day
DAILY_QUOTA_SIGNS = ("call limit has been reached", "calls limit has been reached", "reached your maximum number of")

LIMITS = (
    Limit("aggregate_short_range", 1, 60, ("account", "app", "report")),
    Limit("aggregate_long_range_app", 24, 86_400, ("account", "app")),
    Limit("aggregate_long_range_account", 120, 86_400, ("account",)),
    Limit("app_list_minute", 20, 60, ("account",)),
    Limit("app_list_day", 100, 86_400, ("account",)),
)
APP_LIST = Shape(("app_list_minute", "app_list_day"), calls=2)
BY_DATE = (
    Shape(("aggregate_short_range",), max_days=SHORT_RANGE_DAYS),
    Shape(("aggregate_long_range_app", "aggregate_long_range_account"), min_days=SHORT_RANGE_DAYS + 1, max_days=1000),
)
REPORTS = {"partners_by_date_report": Report("partners_by_date_report", BY_DATE, settle_days=2)}


class AppsFlyer:
    """The source `appsflyer`. Figures are in the app's own currency, days are UTC."""

    name = "appsflyer"
    limits: Sequence[Limit] = LIMITS
    reports: Mapping[str, Report] = REPORTS
    app_list = APP_LIST

    def __init__(self, settings: SourceSettings) -> None:
        self._transport = Transport(settings.base_url or BASE_URL, settings.proxy, settings.timeout_seconds)

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def list_apps(self, account: Account, context: Cancellable) -> list[App]:
        """All apps that the account sees, each once, in the vendor's order.

        Raises AppListUnavailable when the vendor lists none for this account (403, 404), PermanentError for an
        answer of another shape or pages without end, TransientError for fewer apps than the answer announces.
        """
        session = self._transport.session(account.token, context, _app_list_error)
        apps: dict[str, App] = {}
        seen_records = 0
        visited: set[str] = set()
        page = session.get_json(APPS_PATH, {"limit": str(APPS_PER_PAGE)})
        while True:
            records = _records(page, session)
            before = len(apps)
            for record in records:
                app = _app(record, session)
                apps.setdefault(app.app_id, app)
            seen_records += len(records)
            link = _next_link(page, session)
            if link is None:
                break
            if link in visited or len(visited) >= MAX_PAGES - 1 or len(apps) == before:
                raise PermanentError(
                    f"GET {APPS_PATH}: the list has no end (page {len(visited) + 1} with {len(records)} apps,"
                    f" {len(apps)} in all, leads to {session.quote(link)})"
                )
            visited.add(link)
            page = session.get_json(link)
        announced = _total_items(page)
        if announced is not None and seen_records < announced:
            raise TransientError(f"GET {APPS_PATH}: {seen_records} apps came, {announced} were announced")
        return list(apps.values())

    def fetch_app_data(
        self, account: Account, app_id: str, report: str, start: date, end: date, context: Cancellable
    ) -> Iterator[Figures]:
        """All rows of the report for these days, both ends included, read while the response arrives.

        Parameters are checked at the call; the request is made at the first row.
        """
        if report not in self.reports:
            raise PermanentError(f"report must be one of {', '.join(sorted(self.reports))} (got {report!r:.80})")
        if app_id.isascii() and app_id.isdigit():
            raise PermanentError(f"app_id of an iOS app must begin with 'id': id{app_id} (got {app_id!r:.80})")
        if not APP_ID_PATTERN.fullmatch(app_id) or app_id in (".", ".."):
            raise PermanentError(f"app_id must be made of letters, digits, '.', '_' and '-' (got {app_id!r:.80})")
        return self._rows(account, app_id, report, start, end, context)

    def _rows(
        self, account: Account, app_id: str, report: str, start: date, end: date, context: Cancellable
    ) -> Iterator[Figures]:
        is_short = (end - start).days + 1 <= SHORT_RANGE_DAYS

        def classify(refusal: Refusal) -> TaskError | None:
            return _report_error(refusal, is_short)

        session = self._transport.session(account.token, context, classify)
        path = f"/api/agg-data/export/app/{quote(app_id, safe='')}/{report}/v5"
        lines = session.stream_lines(path, {"from": start.isoformat(), "to": end.isoformat()})
        where = f"report {report} of {app_id}"
        yield from ReportText(_without_refusal(lines, where, session, classify), where, session.quote).rows(start, end)


def _without_refusal(lines: Iterator[str], where: str, session: Session, classify: Classify) -> Iterator[str]:
    """The lines, unless the first is the text of a quota error that came with status 200 (seen in the field)."""
    first = next(lines, None)
    if first is None:
        return
    error = classify(Refusal(where, 200, session.quote(first)))
    if error is not None and MEDIA_SOURCE not in first:
        raise error
    yield first
    yield from lines


def _report_error(refusal: Refusal, is_short: bool) -> TaskError | None:
    """The meaning of a refused report: the body speaks before the status, since quota errors come as 400 and 403."""
    text = refusal.body.lower()
    if text.startswith("limit reached for"):
        scope = "aggregate_short_range" if is_short else "aggregate_long_range_app"
        return QuotaError(str(refusal), refusal.retry_after, scope)
    if any(sign in text for sign in DAILY_QUOTA_SIGNS):
        return QuotaError(str(refusal), refusal.retry_after, daily=True)
    if refusal.status == 200:
        return None
    if "account may be suspended" in text:
        return AuthError(str(refusal))
    if refusal.status == 404:
        return PermanentError(
            f"{refusal.where} answered 404: no such app for this token. The app id may be wrong (an iOS app needs"
            " its 'id' prefix), or the token belongs to another account"
        )
    return None


def _app_list_error(refusal: Refusal) -> TaskError | None:
    if "account may be suspended" in refusal.body.lower():
        return AuthError(str(refusal))
    if refusal.status == 429:
        return QuotaError(str(refusal), refusal.retry_after, "app_list_minute")
    if refusal.status in (403, 404):
        return AppListUnavailable(str(refusal))
    return None


def _records(page: Any, session: Session) -> list[Any]:
    records = page.get("data") if isinstance(page, dict) else None
    if not isinstance(records, list):
        raise PermanentError(f"GET {APPS_PATH}: the answer is no app list: {session.quote(str(page))}")
    return records


def _app(record: Any, session: Session) -> App:
    app_id = record.get("id") if isinstance(record, dict) else None
    if not isinstance(app_id, str) or not 1 <= len(app_id) <= 190 or not app_id.isprintable():
        raise PermanentError(f"GET {APPS_PATH}: an app without a usable id: {session.quote(str(record))}")
    attributes = record.get("attributes")
    if not isinstance(attributes, dict):
        attributes = {}

    def text(name: str) -> str | None:
        value = attributes.get(name)
        return storable(value) if isinstance(value, str) and value else None

    named = ("name", "platform", "currency", "time_zone")
    extra = {
        storable(key): storable(value) if isinstance(value, str) else value
        for key, value in attributes.items()
        if key not in named and isinstance(value, (str, bool, int))
    }
    return App(app_id, text("name"), text("platform"), text("currency"), text("time_zone"), extra)


def _next_link(page: Any, session: Session) -> str | None:
    links = page.get("links")
    link = links.get("next") if isinstance(links, dict) else None
    if link is None or link == "":
        return None
    if not isinstance(link, str):
        raise PermanentError(f"GET {APPS_PATH}: links.next must be an address (got {session.quote(str(link))})")
    return link


def _total_items(page: Any) -> int | None:
    meta = page.get("meta")
    total = meta.get("total_items") if isinstance(meta, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) else None
