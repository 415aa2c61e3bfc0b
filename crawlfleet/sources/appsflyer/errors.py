"""What AppsFlyer's refusals mean. The body speaks before the status: exhausted quotas come as 400 and 403.

Texts of the Pull API: devhub aggregate_pull_api_v2.yaml, and for quotas what several public clients agree on;
of the Master API: devhub master_api.yaml. A page of a CDN or a company's proxy comes with any status and says nothing
of the account; single calls of healthy apps were answered with 404 and 416 and worked later. So only the vendor's own
words deny something, and what lacks them is tried again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from crawlfleet.core.errors import AuthError, NotPermitted, QuotaError, RangeTooLarge, TaskError, TransientError
from crawlfleet.sources.appsflyer.report import looks_like_header
from crawlfleet.sources.contract import AppListUnavailable
from crawlfleet.sources.http.refusals import WORDLESS, Classify, Refusal, general_error
from crawlfleet.sources.http.transport import Session

RETRY_WAIT_SECONDS = 60.0  # "re-try to download in a minute"
WRONG_REQUEST_SIGNS = ("date format", "from date", "kpi", "formula")  # 403s that say nothing about the account
DENIAL_SIGNS = re.compile(
    r"subscription|package|\bplan\b|not (authori[sz]ed|permitted|allowed|included|entitled)|permission"
)


class Quota(Enum):
    """Which quota a text speaks of."""

    OF_RANGE = auto()  # the minute's for a short range of days, else the day's
    MINUTE = auto()  # too fast, whatever the range is
    DAY = auto()


class QuotaText(NamedTuple):
    """A text that says that a quota is used up, in small letters, and who met it."""

    pattern: str
    quota: Quota
    met: str


CALLS = r"(calls?|requests?|downloads?|reports?)"
QUOTA_TEXTS = (  # the first that is found counts
    QuotaText(r"limit reached for", Quota.OF_RANGE, "403 of the aggregate Pull API: three public clients"),
    QuotaText(r"calls? limit has been reached", Quota.DAY, "400 of the Pull API: aggregate_pull_api_v2.yaml, a client"),
    QuotaText(r"reached your maximum number of", Quota.DAY, "400 of raw data reports: two reports of users"),
    QuotaText(
        rf"max(imum)?\W+(number of )?{CALLS}\W.{{0,20}}per minute", Quota.MINUTE, "the same of a minute: by its meaning"
    ),
    QuotaText(
        rf"max(imum)?\W+(number of )?{CALLS}\W.{{0,20}}per (day|24)", Quota.DAY, "400 `Max requests 24 per day`: a user"
    ),
    QuotaText(rf"too many {CALLS}", Quota.MINUTE, "400 of the SKAN API: skadnetworks yaml; 429 anywhere"),
    QuotaText(
        rf"{CALLS}.{{0,40}}(limit|quota) (was |is |has been )?(reached|exceeded)", Quota.OF_RANGE, "by its meaning"
    ),
    QuotaText(
        rf"(reached|exceeded|exhausted).{{0,40}}(limit|quota|number) (of|for) .{{0,20}}{CALLS}",
        Quota.OF_RANGE,
        "by its meaning",
    ),
    QuotaText(
        r"(rate|call|request|daily) (limit|quota) (was |is |has been )?(reached|exceeded|exhausted)",
        Quota.OF_RANGE,
        "by its meaning",
    ),
    QuotaText(r"quota (was |is |has been )?(reached|exceeded|exhausted|used up)", Quota.OF_RANGE, "by its meaning"),
)
PERIODS = (
    (r"\b(per|a|each) minute\b", Quota.MINUTE),
    (r"\b(per|a|each) day\b|\btoday\b|\bdaily (limit|quota)\b", Quota.DAY),
)


def quota_of(text: str) -> Quota | None:
    """The quota that these words of the vendor say is used up; None when they say nothing of the kind."""
    text = text.lower()
    for known in QUOTA_TEXTS:
        if re.search(known.pattern, text):
            named = [quota for pattern, quota in PERIODS if re.search(pattern, text)]
            return named[0] if known.quota is Quota.OF_RANGE and named else known.quota
    return None


def app_list_error(refusal: Refusal) -> TaskError | None:
    """App List API."""
    if refusal.is_page:
        return None
    if _is_suspended(refusal):
        return AuthError(str(refusal))
    if refusal.status == 429 or quota_of(refusal.body) is not None:
        scope = "app_list_day" if quota_of(refusal.body) is Quota.DAY else "app_list_minute"
        return QuotaError(str(refusal), refusal.retry_after, scope)
    if refusal.status in (403, 404) and refusal.body:
        return AppListUnavailable(str(refusal))
    return _perhaps(refusal)


def pull_error(refusal: Refusal, is_short: bool) -> TaskError | None:
    """Aggregate Pull API; ranges up to two days (`is_short`) count against the minute, longer ones against the day."""
    if error := _common_error(refusal, is_short):
        return error
    if refusal.status == 404 and refusal.body:  # documented as a page
        return NotPermitted(
            f"{refusal.where} answered 404: no such app for this token. The app id may be wrong (an iOS app needs"
            " its 'id' prefix), or the token belongs to another account",
            in_words=False,
        )
    if refusal.is_page or not refusal.body:
        return _perhaps(refusal)
    if refusal.status == 403 or (refusal.status == 400 and _denies(refusal)):
        return NotPermitted(str(refusal), in_words=_denies(refusal))
    return _perhaps(refusal)


def master_error(refusal: Refusal) -> TaskError | None:
    """Master API and its date of the last update."""
    if error := _common_error(refusal):
        return error
    text = refusal.body.lower()
    if refusal.is_page or not text:
        return _perhaps(refusal)
    if "not authorized app-ids" in text or "select authorized app-id" in text:
        return NotPermitted(str(refusal))
    if "re-try" in text:
        return TransientError(str(refusal), refusal.retry_after or RETRY_WAIT_SECONDS)
    if refusal.status == 416 and "other reason" in text:  # documented as: the report size exceeds 200K
        return RangeTooLarge(f"{refusal}: more than 200,000 rows")
    if refusal.status == 404 and "not found" in text:
        return NotPermitted(f"{refusal}: the Master API is not part of the account's plan")
    if refusal.status == 403 and not any(sign in text for sign in WRONG_REQUEST_SIGNS):
        return NotPermitted(str(refusal), in_words=_denies(refusal))
    return None


def without_refusal(lines: Iterator[str], where: str, session: Session, classify: Classify) -> Iterator[str]:
    """The lines, unless the first is the text of a refusal that came with status 200 (seen in the field), or a page."""
    first = next(lines, None)
    if first is None:
        return
    if not looks_like_header(first):
        refusal = Refusal(where, 200, session.quote(first))
        error = classify(refusal)
        if error is not None:
            raise error
        if refusal.is_page:
            raise general_error(refusal)
    yield first
    yield from lines


def _common_error(refusal: Refusal, is_short: bool = False) -> TaskError | None:
    """A used up quota or a suspended account, said in words. `is_short`: the calls of a minute are counted."""
    if refusal.is_page or refusal.status >= 500:
        return None
    quota = quota_of(refusal.body) or (Quota.MINUTE if refusal.status == 429 else None)
    if quota is Quota.DAY:
        return QuotaError(str(refusal), refusal.retry_after, daily=True)
    if quota is not None and is_short:
        return QuotaError(str(refusal), refusal.retry_after, "aggregate_short_range")
    if quota is Quota.OF_RANGE:
        return QuotaError(str(refusal), refusal.retry_after, "aggregate_long_range_app")
    if quota is Quota.MINUTE:  # of which no budget knows: a day's must not learn from it
        return TransientError(str(refusal), refusal.retry_after or RETRY_WAIT_SECONDS)
    return AuthError(str(refusal)) if _is_suspended(refusal) else None


def _perhaps(refusal: Refusal) -> TaskError | None:
    """Refusals that pass: of a page, or without a word, whatever their status is."""
    if refusal.status in WORDLESS:
        return TransientError(f"{refusal} (not in the vendor's words: it may pass)", refusal.retry_after)
    return None


def _denies(refusal: Refusal) -> bool:
    return DENIAL_SIGNS.search(refusal.body.lower()) is not None


def _is_suspended(refusal: Refusal) -> bool:
    return not refusal.is_page and "account may be suspended" in refusal.body.lower()
