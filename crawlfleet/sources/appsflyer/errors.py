"""What AppsFlyer's refusals mean. The body counts before the status: used up quotas come as 400 and 403.

Texts of the Pull API follow devhub aggregate_pull_api_v2.yaml, and for quotas what several public clients agree on.
Texts of the Master API follow devhub master_api.yaml.

A page of a CDN or of a company's proxy comes with any status and says nothing of the account. The vendor also answered
single calls of healthy apps with 404 and 416, and they worked later. Gateways write plain texts, too: `not permitted by
policy`. So only the vendor's own words, `DENIAL_TEXTS`, deny something at once. Any other 403 must persist.

Each function for an API returns the error of a refusal. None leaves it to `general_error`, which goes by the status.
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


class Quota(Enum):
    """Which quota a text speaks of."""

    OF_RANGE = auto()  # the minute's for a short range of days, else the day's
    MINUTE = auto()  # too fast, whatever the range is
    DAY = auto()


class QuotaText(NamedTuple):
    """A text that says that a quota is used up: a pattern for small letters, and who met the text."""

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


class DenialText(NamedTuple):
    """A text that says that an account may not have something: a pattern for small letters, the statuses that it comes
    with, and who met the text."""

    pattern: str
    statuses: tuple[int, ...]
    met: str


DENIAL_TEXTS = (
    DenialText(
        r"your current subscription package does(n.?t| not) include",
        (200, 400, 403),
        "400 of raw data reports: several public clients",
    ),
    DenialText(r"not authorized app-ids", (200, 403), "403 of the Master API: master_api.yaml"),
    DenialText(r"select authorized app-id", (200, 416), "416 of the Master API: master_api.yaml"),
    DenialText(r"^\W*(message\W+)?not found\W*$", (404,), "404 of the Master API, no more than this: master_api.yaml"),
)


def quota_of(text: str) -> Quota | None:
    """Which quota is used up by these words of the vendor; None when they speak of no used up quota."""
    text = text.lower()
    for known in QUOTA_TEXTS:
        if re.search(known.pattern, text):
            named = [quota for pattern, quota in PERIODS if re.search(pattern, text)]
            return named[0] if known.quota is Quota.OF_RANGE and named else known.quota
    return None


def app_list_error(refusal: Refusal) -> TaskError | None:
    """The error of a refusal of the App List API, or None."""
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
    """The error of a refusal of the aggregate Pull API, or None.

    Ranges of one or two days (`is_short`) count against the minute's quota, longer ones against the day's.
    """
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
    if _denies(refusal) or refusal.status == 403:
        return NotPermitted(str(refusal), in_words=_denies(refusal))
    return _perhaps(refusal)


def master_error(refusal: Refusal) -> TaskError | None:
    """The error of a refusal of the Master API or of its date of the last update, or None."""
    if error := _common_error(refusal):
        return error
    text = refusal.body.lower()
    if refusal.is_page or not text:
        return _perhaps(refusal)
    if _denies(refusal):
        meaning = ": the Master API is not part of the account's plan" if refusal.status == 404 else ""
        return NotPermitted(f"{refusal}{meaning}")
    if "re-try" in text:
        return TransientError(str(refusal), refusal.retry_after or RETRY_WAIT_SECONDS)
    if refusal.status == 416 and "other reason" in text:  # documented as: the report size exceeds 200K
        return RangeTooLarge(f"{refusal}: more than 200,000 rows")
    if refusal.status in (403, 404) and not any(sign in text for sign in WRONG_REQUEST_SIGNS):
        return NotPermitted(str(refusal), in_words=False)
    return None


def without_refusal(lines: Iterator[str], where: str, session: Session, classify: Classify) -> Iterator[str]:
    """The lines of a report, without blank ones at its begin; no lines when there are none.

    AppsFlyer sometimes sends a refusal with status 200 (seen in the field). So when the first line is no header, raises
    the error that `classify` gives for it. Any other text, or JSON, says nothing of what was asked: TransientError.
    """
    first = next((line for line in lines if line.strip("\ufeff \t\r\n")), None)
    if first is None:
        return
    if not looks_like_header(first):
        refusal = Refusal(where, 200, session.quote(first))
        if error := classify(refusal):
            raise error
        if refusal.is_page:
            raise general_error(refusal)
        raise TransientError(f"{refusal} (this is no report: it may pass)")
    yield first
    yield from lines


def _common_error(refusal: Refusal, is_short: bool = False) -> TaskError | None:
    """The error for a used up quota or a suspended account that the vendor states in words, or None.

    `is_short`: the call counts against the quota of the minute.
    """
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
    """TransientError for a status that pages and empty bodies come with and that may pass; else None."""
    if refusal.status in WORDLESS:
        return TransientError(f"{refusal} (not in the vendor's words: it may pass)", refusal.retry_after)
    return None


def _denies(refusal: Refusal) -> bool:
    """Whether the vendor's own words deny something."""
    text = refusal.body.lower()
    return any(refusal.status in known.statuses and re.search(known.pattern, text) for known in DENIAL_TEXTS)


def _is_suspended(refusal: Refusal) -> bool:
    return not refusal.is_page and "account may be suspended" in refusal.body.lower()
