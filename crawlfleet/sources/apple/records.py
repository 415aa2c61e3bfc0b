"""Reads what Apple's lookup says of an app: an `App` of an account, or the details of one day.

The answer is JSON, although it comes as text/javascript. Many fields are optional; of an app only the number is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from crawlfleet.core.errors import PermanentError
from crawlfleet.core.vendor_data import App, Figures
from crawlfleet.sources.http.transport import Session
from crawlfleet.sources.records import UnusableRecord, usable
from crawlfleet.sources.values import plain

LOOKUP_PATH = "/lookup"
PLATFORMS = {"software": "ios", "mac-software": "mac"}
OF_APP = {
    "bundle_id": "bundleId",
    "developer": "artistName",
    "developer_id": "artistId",
    "seller": "sellerName",
    "genre": "primaryGenreName",
    "url": "trackViewUrl",
    "released_at": "releaseDate",
}
OF_DAY = {
    "name": "trackName",
    "version": "version",
    "average_user_rating": "averageUserRating",
    "user_rating_count": "userRatingCount",
    "average_user_rating_of_version": "averageUserRatingForCurrentVersion",
    "user_rating_count_of_version": "userRatingCountForCurrentVersion",
    "price": "price",
    "currency": "currency",
    "genre": "primaryGenreName",
    "genres": "genres",
    "content_rating": "contentAdvisoryRating",
    "size_bytes": "fileSizeBytes",
    "minimum_os": "minimumOsVersion",
    "languages": "languageCodesISO2A",
    "released_at": "releaseDate",
    "version_released_at": "currentVersionReleaseDate",
}


def look_up(session: Session, country: str, asked: Mapping[str, str]) -> list[dict[str, Any]]:
    """The records, as JSON objects, that a storefront has for these ids; empty when it has none.

    `country` is the storefront's two letters; `asked` are parameters of the query. Records are apps; for a developer's
    id the developer comes first. An app without a usable number is left out, with a remark. Raises PermanentError for
    an answer of another shape.
    """
    answer = session.get_json(LOOKUP_PATH, {**asked, "country": country})
    records = list_of(answer, "results", where=f"GET {LOOKUP_PATH} in {country}", session=session)
    return usable(records, _with_number, session)


def _with_number(record: dict[str, Any]) -> dict[str, Any]:
    if record.get("wrapperType") == "software":
        number_of(record)
    return record


def list_of(answer: Any, *path: str, where: str, session: Session) -> list[dict[str, Any]]:
    """The objects in the list at the end of these keys; may be empty.

    Leaves out what is no object among others, with a remark. Raises PermanentError when there is no list, or when the
    list holds no object at all. `where` names the request in messages.
    """
    value = answer
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list) or (value and not any(isinstance(item, dict) for item in value)):
        raise PermanentError(f"{where}: the answer has no list {'.'.join(path)}: {session.quote(str(answer))}")

    def as_object(item: Any) -> dict[str, Any]:
        if isinstance(item, dict):
            return item
        raise UnusableRecord(f"{where}: {'.'.join(path)} holds something else than objects: {item!s:.80}")

    return usable(value, as_object, session)


def number_of(record: Mapping[str, Any]) -> str:
    """The app's number in digits, without `id`; every app of `look_up` has one. Raises UnusableRecord."""
    number = record.get("trackId")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 10**18:
        raise UnusableRecord(f"GET {LOOKUP_PATH}: an app without a usable trackId (got {number!r:.80})")
    return str(number)


def as_app(record: Mapping[str, Any]) -> App:
    """The app as an account sees it. Raises UnusableRecord."""
    name, currency = (_value(record, key) for key in ("trackName", "currency"))
    return App(
        f"id{number_of(record)}",
        name if isinstance(name, str) else None,
        PLATFORMS.get(str(record.get("kind"))),
        currency if isinstance(currency, str) else None,
        extra=_values(record, OF_APP),
    )


def as_details(record: Mapping[str, Any], country: str, day: date) -> Figures:
    """One row: what the storefront says of the app on this day. Raises UnusableRecord.

    The row lacks what the record lacks.
    """
    details = _values(record, OF_DAY)
    size = details.get("size_bytes")
    if isinstance(size, str) and size.isascii() and size.isdigit() and len(size) <= 18:
        details["size_bytes"] = int(size)  # Apple writes this number as text
    return Figures(day, country=country, extra=details)


def _values(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found = {name: _value(record, key) for name, key in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _value(record: Mapping[str, Any], key: str) -> Any:
    try:
        return plain(record.get(key))
    except ValueError as error:
        raise UnusableRecord(f"GET {LOOKUP_PATH}: {key} of app id{number_of(record)} cannot be read: {error}") from None
