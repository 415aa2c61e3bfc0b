"""Reads an app's customer reviews. Apple does not document their feed; several public clients agree on its shape.

A storefront shows the newest 500 reviews on ten pages of 50, newest first. A page's `feed.entry` is a list, a single
object, or absent. Old feeds put the app itself first, without a rating. An edited review keeps its id and moves to the
day of the edit.

Now and then a storefront answers an empty feed for an app that has reviews. So we believe an empty page only where
something else speaks for it. We leave out a review that cannot be read among others, with a remark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from crawlfleet.core.errors import PermanentError, TransientError
from crawlfleet.core.vendor_data import Figures
from crawlfleet.sources.apple.records import list_of
from crawlfleet.sources.http.transport import Session
from crawlfleet.sources.records import UnusableRecord, usable
from crawlfleet.sources.values import storable

MAX_PAGES = 10  # the eleventh is answered with 400
REVIEWS_PER_PAGE = 50
MANY_RATINGS = 50  # an app with so many ratings and no review is less likely than an empty answer by mistake
EMPTY_WAIT_SECONDS = 1800.0  # what several clients wait until such a storefront answers again
RATING = "im:rating"
WHOLE = re.compile(r"-?[0-9]{1,18}")
TEXTS = {"title": ("title",), "content": ("content",), "author": ("author", "name"), "version": ("im:version",)}
NUMBERS = {"rating": RATING, "vote_sum": "im:voteSum", "vote_count": "im:voteCount"}


def reviews(
    session: Session,
    country: str,
    number: str,
    start: date,
    end: date,
    ratings: Callable[[Session, str, str], int | None],
) -> Iterator[Figures]:
    """One row for each review of these days (UTC, both included), newest first, each review once.

    `number` is the app's, in digits. `ratings` tells how many people rated the app there (None: the storefront does not
    say), or raises. We ask it when there seem to be no reviews.

    Raises PermanentError when the 500 newest reviews begin after `start`; its message names the first day that can be
    had. Raises TransientError for an empty answer that we do not believe, with a wait of 30 minutes.
    """
    seen: set[str] = set()  # a review that comes in while pages are read pushes others to the next page
    oldest = None
    is_full = True  # as if there were a page before the first
    for page in range(1, MAX_PAGES + 1):
        count, found = _page(session, country, number, page)
        if not count and is_full:
            if page == 1 and not _may_have_reviews(country, number, ratings(session, country, number)):
                return
            count, found = _page(session, country, number, page)
        if not count:
            return
        for row in found:
            if start <= row.day <= end and row.dimensions["review_id"] not in seen:
                seen.add(str(row.dimensions["review_id"]))
                yield row
        oldest = min(row.day for row in found)
        if oldest < start:
            return
        is_full = count >= REVIEWS_PER_PAGE
    if is_full and oldest is not None:
        raise PermanentError(
            f"storefront {country} shows only the newest {MAX_PAGES * REVIEWS_PER_PAGE} reviews of id{number}, and"
            f" they begin on {oldest}: ask for days from {oldest + timedelta(1)} on (got {start})"
        )


def _may_have_reviews(country: str, number: str, ratings: int | None) -> bool:
    if ratings is not None and ratings >= MANY_RATINGS:
        raise TransientError(
            f"storefront {country} answered no reviews at all for id{number}, which {ratings} people rated: not"
            " believed, what is stored stays",
            retry_after=EMPTY_WAIT_SECONDS,
        )
    return ratings != 0  # who reviews also rates


def _page(session: Session, country: str, number: str, page: int) -> tuple[int, list[Figures]]:
    """How many reviews the page has (0 to 50), and a row for each that can be read. Pages count from 1."""
    path = f"/{country}/rss/customerreviews/page={page}/id={number}/sortby=mostrecent/json"
    answer = session.get_json(path)
    feed = answer.get("feed") if isinstance(answer, dict) else None
    if isinstance(feed, dict) and not isinstance(feed.get("entry"), list):
        feed = {**feed, "entry": [feed["entry"]] if "entry" in feed else []}
    entries = list_of({"feed": feed}, "feed", "entry", where=f"GET {path}", session=session)
    entries = [entry for entry in entries if RATING in entry]
    return len(entries), usable(entries, lambda entry: _Entry(entry, f"GET {path}").figures(country), session)


class _Entry:
    """One entry of the feed. Each of its values is the `label` of an object."""

    def __init__(self, entry: Mapping[str, Any], where: str) -> None:
        self._entry, self._where = entry, where

    def figures(self, country: str) -> Figures:
        extra: dict[str, Any] = {name: self._whole(key) for name, key in NUMBERS.items()}
        extra |= {name: storable(text) for name, path in TEXTS.items() if (text := self._label(*path)) is not None}
        return Figures(self._day(), country=country, dimensions={"review_id": self._review_id()}, extra=extra)

    def _label(self, *path: str) -> str | None:
        value: Any = self._entry
        for key in (*path, "label"):
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) else None

    def _review_id(self) -> str:
        review_id = self._label("id")
        if not review_id or len(review_id) > 190 or not review_id.isprintable():
            raise self._wrong("id", "1 to 190 characters")
        return review_id

    def _day(self) -> date:
        try:
            moment = datetime.fromisoformat(self._label("updated") or "")
            if moment.tzinfo is not None:
                return moment.astimezone(UTC).date()
        except (ValueError, OverflowError):
            pass
        raise self._wrong("updated", "a moment with its zone, as in 2026-01-31T08:00:00-07:00")

    def _whole(self, key: str) -> int | None:
        """A number that the feed writes as text; None when it is missing. Raises UnusableRecord for any other text.

        A rating must not be missing.
        """
        text = self._label(key)
        if text is None and key != RATING:
            return None
        if text is None or not WHOLE.fullmatch(text):
            raise self._wrong(key, "a whole number")
        return int(text)

    def _wrong(self, key: str, expected: str) -> UnusableRecord:
        found = f"got {self._entry.get(key)!s:.80}, id {self._label('id')!s:.40}"
        return UnusableRecord(f"{self._where}: {key} of a review must be {expected} ({found})")
