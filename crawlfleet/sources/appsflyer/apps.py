"""Reads AppsFlyer's App List API, page by page (devhub: app_list_ad_nets_api.yaml)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from crawlfleet.core.errors import PermanentError, TransientError
from crawlfleet.core.vendor_data import App
from crawlfleet.sources.http.transport import Session
from crawlfleet.sources.records import UnusableRecord, usable
from crawlfleet.sources.values import storable

APPS_PATH = "/api/mng/apps"
APPS_PER_PAGE = 1000  # the vendor's maximum
MAX_PAGES = 100  # the vendor allows 100 calls a day


def read_app_list(session: Session) -> list[App]:
    """All apps, each once, in the vendor's order; empty when the vendor lists none.

    Leaves out a record without a usable id among good ones, with a remark. Reads at most 100 pages of 1,000 apps.

    Raises PermanentError for pages without end and for a list without a usable app. Raises TransientError when fewer
    apps come than the answer announces, and for an answer that is no list: that says nothing of what was asked.
    """
    apps: dict[str, App] = {}
    seen_records = 0
    visited: set[str] = set()
    page = session.get_json(APPS_PATH, {"limit": str(APPS_PER_PAGE)})
    while True:
        records = _records(page, session)
        before = len(apps)
        for app in usable(records, _app, session):
            apps.setdefault(app.app_id, app)
        seen_records += len(records)
        query = _next_page(page, session)
        if query is None:
            break
        if query in visited or len(visited) >= MAX_PAGES - 1 or len(apps) == before:
            raise PermanentError(
                f"GET {APPS_PATH}: the list has no end (page {len(visited) + 1} with {len(records)} apps,"
                f" {len(apps)} in all, leads to ?{session.quote(query)})"
            )
        visited.add(query)
        page = session.get_json(f"{APPS_PATH}?{query}")
    announced = _total_items(page)
    if announced is not None and seen_records < announced:
        raise TransientError(f"GET {APPS_PATH}: {seen_records} apps came, {announced} were announced")
    return list(apps.values())


def _records(page: Any, session: Session) -> list[Any]:
    records = page.get("data") if isinstance(page, dict) else None
    if not isinstance(records, list):
        raise TransientError(f"GET {APPS_PATH}: the answer is no app list: {session.quote(str(page))}")
    return records


def _app(record: Any) -> App:
    app_id = record.get("id") if isinstance(record, dict) else None
    if not isinstance(app_id, str) or not 1 <= len(app_id) <= 190 or not app_id.isprintable():
        raise UnusableRecord(f"GET {APPS_PATH}: an app without a usable id: {record}")
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


def _next_page(page: Any, session: Session) -> str | None:
    """The query of the link to the next page; None on the last. Raises PermanentError for any other link.

    We do not use the rest of the link. A vendor behind a gateway writes its own address there. We may not reach that
    address, or it must not get the token.
    """
    links = page.get("links")
    link = links.get("next") if isinstance(links, dict) else None
    if link is None or link == "":
        return None
    try:
        parts = urlsplit(link) if isinstance(link, str) else None
    except ValueError:
        parts = None
    if parts is None or not parts.query or not parts.path.endswith(APPS_PATH):
        raise PermanentError(
            f"GET {APPS_PATH}: links.next must be an address of the list's next page (got {session.quote(str(link))})"
        )
    return parts.query


def _total_items(page: Any) -> int | None:
    meta = page.get("meta")
    total = meta.get("total_items") if isinstance(meta, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) else None
