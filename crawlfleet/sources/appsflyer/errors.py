"""What AppsFlyer's refusals mean. The body speaks before the status: exhausted quotas come as 400 and 403.

Texts of the Pull API: devhub aggregate_pull_api_v2.yaml, and for quotas what several public clients agree on;
of the Master API: devhub master_api.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator

from crawlfleet.core.errors import AuthError, NotPermitted, QuotaError, RangeTooLarge, TaskError, TransientError
from crawlfleet.sources.appsflyer.report import looks_like_header
from crawlfleet.sources.contract import AppListUnavailable
from crawlfleet.sources.http.refusals import Classify, Refusal
from crawlfleet.sources.http.transport import Session

RETRY_WAIT_SECONDS = 60.0  # "re-try to download in a minute"
DAILY_QUOTA_SIGNS = ("call limit has been reached", "calls limit has been reached", "reached your maximum number of")
WRONG_REQUEST_SIGNS = ("date format", "from date", "kpi", "formula")  # 403s that say nothing about the account


def app_list_error(refusal: Refusal) -> TaskError | None:
    """App List API."""
    if _is_suspended(refusal):
        return AuthError(str(refusal))
    if refusal.status == 429:
        return QuotaError(str(refusal), refusal.retry_after, "app_list_minute")
    if refusal.status in (403, 404):
        return AppListUnavailable(str(refusal))
    return None


def pull_error(refusal: Refusal, is_short: bool) -> TaskError | None:
    """Aggregate Pull API; ranges up to two days (`is_short`) count against the minute, longer ones against the day."""
    if refusal.body.lower().startswith("limit reached for"):
        scope = "aggregate_short_range" if is_short else "aggregate_long_range_app"
        return QuotaError(str(refusal), refusal.retry_after, scope)
    if error := _common_error(refusal):
        return error
    if refusal.status == 403:
        return NotPermitted(str(refusal))
    if refusal.status == 404:
        return NotPermitted(
            f"{refusal.where} answered 404: no such app for this token. The app id may be wrong (an iOS app needs"
            " its 'id' prefix), or the token belongs to another account"
        )
    return None


def master_error(refusal: Refusal) -> TaskError | None:
    """Master API and its date of the last update."""
    if error := _common_error(refusal):
        return error
    text = refusal.body.lower()
    if "not authorized app-ids" in text or "select authorized app-id" in text:
        return NotPermitted(str(refusal))
    if "re-try" in text:
        return TransientError(str(refusal), refusal.retry_after or RETRY_WAIT_SECONDS)
    if refusal.status == 416 and "other reason" in text:  # documented as: the report size exceeds 200K
        return RangeTooLarge(f"{refusal}: more than 200,000 rows")
    if refusal.status == 404 and "not found" in text and not text.startswith("<"):
        return NotPermitted(f"{refusal}: the Master API is not part of the account's plan")
    if refusal.status == 403 and not any(sign in text for sign in WRONG_REQUEST_SIGNS):
        return NotPermitted(str(refusal))
    return None


def without_refusal(lines: Iterator[str], where: str, session: Session, classify: Classify) -> Iterator[str]:
    """The lines, unless the first is the text of a refusal that came with status 200 (seen in the field)."""
    first = next(lines, None)
    if first is None:
        return
    if not looks_like_header(first):
        error = classify(Refusal(where, 200, session.quote(first)))
        if error is not None:
            raise error
    yield first
    yield from lines


def _common_error(refusal: Refusal) -> TaskError | None:
    if any(sign in refusal.body.lower() for sign in DAILY_QUOTA_SIGNS):
        return QuotaError(str(refusal), refusal.retry_after, daily=True)
    return AuthError(str(refusal)) if _is_suspended(refusal) else None


def _is_suspended(refusal: Refusal) -> bool:
    return "account may be suspended" in refusal.body.lower()
