"""A simulated App Store: lookup, customer reviews and charts in Apple's shapes, under Apple's limit."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from typing import Any

from crawlfleet.sandbox.answer import Answer
from crawlfleet.sandbox.apple.invented_data import (
    CHART_LENGTH,
    STOREFRONTS,
    Review,
    StoreApp,
    app_of,
    apps_of,
    chart_of,
    expected_details,
    newest_reviews,
)
from crawlfleet.sandbox.quota import Quotas

LOOKUP_PATH = "/lookup"
REVIEWS_PATH = re.compile(r"/([a-z]{2})/rss/customerreviews/page=(\d{1,4})/id=(\d{1,18})/sortby=mostrecent/json")
CHART_PATH = re.compile(r"/api/v2/([a-z]{2})/apps/(top-free|top-paid)/(\d{1,4})/apps\.json")
CALLS_A_MINUTE = 20
MAX_IDS = 200
MAX_PAGES = 10
REVIEWS_PER_PAGE = 50
CUPERTINO = timezone(timedelta(hours=-7))
PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"


class AppleStore:
    """Both of Apple's hosts in one. It takes all callers for one address: 20 calls a minute, then 403 without a body.

    `quotas` counts its calls. A refusal names its time only where `minute_is_real` is false: no client could know a
    minute other than the vendor's. `failure` may answer in its place, before the quota. `clock` gives seconds of the
    Unix epoch; what Apple shows is of that moment.
    """

    def __init__(
        self,
        quotas: Quotas,
        minute_is_real: bool = True,
        failure: Callable[[], Answer | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._quotas, self._minute_is_real, self._failure, self._clock = quotas, minute_is_real, failure, clock

    def answer(self, path: str, query: Mapping[str, str]) -> Answer | None:
        """The answer to a GET; None when the path is none of Apple's."""
        reviews, chart = REVIEWS_PATH.fullmatch(path), CHART_PATH.fullmatch(path)
        if path != LOOKUP_PATH and reviews is None and chart is None:
            return None
        endpoint = "apple_reviews" if reviews else "apple_charts" if chart else "apple_lookup"
        return replace(self._answer(query, reviews, chart), endpoint=endpoint, account="(no token)")

    def _answer(self, query: Mapping[str, str], reviews: re.Match[str] | None, chart: re.Match[str] | None) -> Answer:
        if (failure := self._failure()) is not None:
            return failure
        if (full := self._quotas.take([(("apple",), CALLS_A_MINUTE, False)])) is not None:
            return Answer(403, "", "text/plain", None if self._minute_is_real else full.wait, mood=full.mood)
        now = datetime.fromtimestamp(self._clock(), UTC)
        if reviews is not None:
            return _reviews(reviews[1], int(reviews[2]), reviews[3], now)
        if chart is not None:
            return _chart(chart[1], chart[2], int(chart[3]), now)
        return _lookup(query, now)


def _lookup(query: Mapping[str, str], now: datetime) -> Answer:
    country, ids = query.get("country", "us"), query.get("id", "").split(",")
    if country not in STOREFRONTS or not all(each.isascii() and each.isdigit() for each in ids):
        return _page(400, "Bad Request")
    if len(ids) > MAX_IDS:
        return _page(502, "Bad Gateway")
    results: list[dict[str, Any]] = []
    for each in ids:
        app = app_of(each)
        if app is not None:
            found = [app]
        else:
            results.append(_developer(each))
            found = apps_of(each) if query.get("entity") == "software" else []
        results += [_record(app, country, now) for app in found if app.is_sold_in(country)]
    results = results[: int(query.get("limit", "50")) + 1]
    return _script({"resultCount": len(results), "results": results})


def _reviews(country: str, page: int, number: str, now: datetime) -> Answer:
    if country not in STOREFRONTS or not 1 <= page <= MAX_PAGES:
        return _page(400, "Bad Request")
    app = app_of(number)
    newest = newest_reviews(app, country, now) if app else iter(())
    entries = [_entry(each) for each in islice(newest, (page - 1) * REVIEWS_PER_PAGE, page * REVIEWS_PER_PAGE)]
    feed: dict[str, Any] = {"author": {"name": {"label": "iTunes Store"}}, "updated": {"label": now.isoformat()}}
    if entries:
        feed["entry"] = entries if len(entries) > 1 else entries[0]
    return _script({"feed": feed})


def _chart(country: str, chart: str, length: int, now: datetime) -> Answer:
    if country not in STOREFRONTS:
        return _page(404, "Not Found")
    if not 1 <= length <= CHART_LENGTH:
        return _page(500, "Internal Server Error")
    results = [
        {"artistName": f"Studio {number[:7]}", "id": number, "name": f"App {number}", "kind": "apps", "genres": []}
        for number in chart_of(country, chart, now.date())[:length]
    ]
    return Answer(200, json.dumps({"feed": {"title": chart, "country": country, "results": results}}))


def _developer(number: str) -> dict[str, Any]:
    kind = {"wrapperType": "artist", "artistType": "Software Artist"}
    return {**kind, "artistName": f"Studio {number}", "artistId": int(number)}


def _record(app: StoreApp, country: str, now: datetime) -> dict[str, Any]:
    said = expected_details(app, country, now.date()).extra
    record = {
        "wrapperType": "software",
        "kind": "mac-software" if app.is_mac else "software",
        "trackId": int(app.number),
        "trackName": said["name"],
        "bundleId": f"com.sandbox.a{app.number}",
        "artistId": int(app.developer),
        "artistName": f"Studio {app.developer}",
        "trackViewUrl": f"https://apps.apple.com/us/app/id{app.number}",
        "version": said["version"],
        "averageUserRating": said["average_user_rating"],
        "userRatingCount": said["user_rating_count"],
        "price": said["price"],
        "currency": said["currency"],
        "primaryGenreName": said["genre"],
        "primaryGenreId": app.genre[1],
        "genres": said["genres"],
        "contentAdvisoryRating": said["content_rating"],
        "fileSizeBytes": str(said["size_bytes"]),
        "releaseDate": said["released_at"],
        "description": "An invented app.",
    }
    if not app.is_mac:
        record |= {"minimumOsVersion": said["minimum_os"], "languageCodesISO2A": said["languages"]}
    return record


def _entry(review: Review) -> dict[str, Any]:
    # Apple writes moments in its own zone, so the local day is often the one before.
    moment = review.moment.astimezone(CUPERTINO).isoformat()
    labels = {
        "updated": moment,
        "im:rating": str(review.rating),
        "im:version": review.version,
        "id": review.review_id,
        "title": review.title,
        "content": review.content,
        "im:voteSum": str(review.votes),
        "im:voteCount": str(review.votes + 1),
    }
    author = {"name": {"label": review.author}, "label": ""}
    return {"author": author, **{name: {"label": text} for name, text in labels.items()}}


def _script(value: object) -> Answer:
    return Answer(200, json.dumps(value, ensure_ascii=False), "text/javascript")


def _page(status: int, title: str) -> Answer:
    return Answer(status, PAGE.format(title), "text/html")
