"""Answers other than 200, and what they mean when a source knows no better."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from crawlfleet.core.errors import AuthError, PermanentError, TaskError, TransientError

MAX_RETRY_AFTER_SECONDS = 86_400.0
QUOTED_CHARS = 200
WORDLESS = (403, 404, 408, 416, 425)  # healthy apps met each of them, and had what they asked for later
SPEAKING = (401, 407)  # these say whose fault it is also without a word


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer other than 200, as a source sees it: `body` is free of the token and of control characters.

    `retry_after` is in seconds, at most a day; None when the answer names none.
    """

    where: str
    status: int
    body: str
    retry_after: float | None = None

    @property
    def is_page(self) -> bool:
        """Whether it is a page for people: of a CDN, a proxy or a gateway, which know nothing of the account."""
        return is_page(self.body)

    def __str__(self) -> str:
        return f"{self.where} answered {self.status}" + (f": {shorten(self.body)}" if self.body else "")


Classify = Callable[[Refusal], TaskError | None]


def shorten(text: str) -> str:
    """As much of a vendor's text as belongs into a message."""
    return text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + "..."


def is_page(text: str) -> bool:
    """Whether a body is HTML or XML, which no API of figures speaks."""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def general_error(refusal: Refusal) -> TaskError:
    """What a status means when the source knows no better. A page says nothing of the account, and neither does a
    bare status, which those between us and the vendor use as well: they may pass."""
    if refusal.is_page:
        return TransientError(f"{refusal} (a page, not the vendor's words)", retry_after=refusal.retry_after)
    if 400 <= refusal.status < 500 and refusal.status not in SPEAKING and not refusal.body:
        return TransientError(f"{refusal} without a word: it may pass", retry_after=refusal.retry_after)
    if refusal.status == 401:
        return AuthError(str(refusal))
    if 400 <= refusal.status < 500 and refusal.status not in (408, 425, 429):
        return PermanentError(str(refusal))
    return TransientError(str(refusal), retry_after=refusal.retry_after)


def _moment(text: str) -> datetime | None:
    """The moment that a header names, None when it is no date."""
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def retry_after_seconds(value: str | None, date: str | None = None) -> float | None:
    """Seconds of a Retry-After header, which is a number or an HTTP date (RFC 9110, 10.2.3); 0 to a day.

    `date` is the header Date of the answer, the vendor's own clock: this machine's may be hours off.
    """
    if value is None:
        return None
    if re.fullmatch(r"\d{1,12}(\.\d+)?", value.strip()):
        seconds = float(value)
    else:
        moment = _moment(value)
        if moment is None:
            return None
        seconds = (moment - (_moment(date or "") or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
