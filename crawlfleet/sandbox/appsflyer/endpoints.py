"""The simulated AppsFlyer: app list, aggregate Pull reports and Master API in the documented shapes, with their quotas.

A token is `sandbox-<username>`; it belongs to the account <username>, and any username has apps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import unquote

from crawlfleet.core.vendor_data import App, Figures
from crawlfleet.sandbox.answer import Answer
from crawlfleet.sandbox.appsflyer.csv_reports import report_csv
from crawlfleet.sandbox.appsflyer.invented_data import ALL_APPS, DAILY, GEO, MASTER, PARTNERS, apps_of, expected_rows
from crawlfleet.sandbox.moods import Moods
from crawlfleet.sandbox.quota import Check, Quotas

APPS_PATH = "/api/mng/apps"
LAST_UPDATE_PATH = "/api/master-agg-data/lastupdate"
PULL_PATH = re.compile(rf"/api/agg-data/export/app/([^/]+)/({PARTNERS}|{DAILY}|{GEO})/v5")
MASTER_PATH = re.compile(r"/api/master-agg-data/v4/app/([^/]+)")
TOKEN = re.compile(r"Bearer sandbox-(\S{1,190})")
NAMES_IN_QUOTA_ERRORS = {PARTNERS: "partners-daily-report", DAILY: "daily-report", GEO: "geo-daily-report"}
EXPORTS = {*NAMES_IN_QUOTA_ERRORS, MASTER}  # endpoints that answer with a file
GROUPINGS = {"app_id", "install_time", "pid", "c", "af_adset_id", "af_adset", "af_ad", "af_ad_id"}
KPIS = {"clicks", "installs"}
MAX_APPS_PER_PAGE = 1000
MAX_MASTER_DAYS = 31
MASTER_DELAY_DAYS = 2  # documented: ready in 24 to 48 hours
ROW_CAP = 200_000
NOT_FOUND_PAGE = "<!DOCTYPE html><html><head><title>404</title></head><body><h1>Page not found</h1></body></html>"
GO_NARROWER = (
    "Something went wrong. Please re-try to download in a minute, choose a narrower time range,"
    " or contact AppsFlyer support."
)

Permits = Callable[[str, str], bool]


def permits_by_name(username: str, report: str) -> bool:
    """What accounts have by default: all reports, but the Master API only without `noplan` in their name."""
    return report != MASTER or "noplan" not in username


class AppsFlyerVendor:
    """Answers for AppsFlyer, for the `Sandbox` that serves it; see there for the options.

    `failure` may answer in its place, before any quota. `quota_is_real` tells whether the (minute, day) are the
    vendor's: only then does a refusal keep silent about its end. Links to further pages lead to `base_url()`.
    """

    def __init__(
        self,
        quotas: Quotas,
        quota_is_real: tuple[bool, bool],
        failure: Callable[[], Answer | None],
        clock: Callable[[], float],
        base_url: Callable[[], str],
        apps: int | None = None,
        row_cap: int = ROW_CAP,
        permits: Permits = permits_by_name,
        moods: Moods | None = None,
    ) -> None:
        self._moods = moods or Moods((), 0)
        self._odd_ids = self._moods.has("odd-ids")
        self._answered: set[tuple[str, str, str, date]] = (
            set()
        )  # days that had rows in an answer, by account, app, report
        self._quotas, self._failure, self._clock, self._base_url = quotas, failure, clock, base_url
        self._minute_is_real, self._day_is_real = quota_is_real
        self._apps, self._row_cap, self._permits = apps, row_cap, permits

    def apps_of(self, username: str) -> list[App]:
        """The apps that this vendor gives the account."""
        return apps_of(username, self._apps, self._odd_ids)

    def expected_rows(
        self, username: str, app_id: str, start: date, end: date, report: str = PARTNERS
    ) -> list[Figures]:
        """What a correct reader of the report yields, when no row cap is in the way."""
        return expected_rows(username, app_id, start, end, report, self._apps, self._odd_ids)

    def answer(self, path: str, query: Mapping[str, str], authorization: str) -> Answer | None:
        """The answer to a GET; None when the path is none of AppsFlyer's."""
        match = TOKEN.fullmatch(authorization)
        username = match[1] if match else ""
        respond: Callable[[], Answer]
        if path == APPS_PATH:
            endpoint, app_id, respond = "app_list", "", partial(self._app_list, username, query)
        elif path == LAST_UPDATE_PATH:
            endpoint, app_id = "master_last_update", ""
            respond = partial(_text, 200, self._last_update().isoformat())
        elif pull := PULL_PATH.fullmatch(path):
            endpoint, app_id = pull[2], unquote(pull[1])
            respond = partial(self._pull, username, app_id, endpoint, query)
        elif master := MASTER_PATH.fullmatch(path):
            endpoint, app_id = MASTER, unquote(master[1])
            respond = partial(self._master, username, app_id, query)
        else:
            return None
        account = username or "(wrong token)"
        call = (account, endpoint, app_id, query.get("from", ""), query.get("to", ""))
        answer = self._failure() or self._refusal(call) or (respond() if username else _unauthorized(path))
        return replace(answer, endpoint=endpoint, account=account, call=call)

    def _refusal(self, call: tuple[str, ...]) -> Answer | None:
        struck = self._moods.refusal(call)
        return None if struck is None else replace(struck[1], mood=struck[0])

    def _app_list(self, username: str, query: Mapping[str, str]) -> Answer:
        try:
            limit, offset = int(query.get("limit", MAX_APPS_PER_PAGE)), int(query.get("offset", 0))
        except ValueError:
            return Answer(400, json.dumps("Bad request"))
        if not 1 <= limit <= MAX_APPS_PER_PAGE or offset < 0:
            return Answer(400, json.dumps("Bad request"))
        full = self._quotas.take([(("apps", username), 20, False), (("apps-day", username), 100, True)])
        if full is not None:
            return Answer(429, json.dumps("Too many requests"), retry_after=full.wait, mood=full.mood)
        apps = self.apps_of(username)

        def link(first: int) -> str:
            return f"{self._base_url()}{APPS_PATH}?offset={first}&limit={limit}"

        links = {"self": link(offset)}
        if offset > 0:
            links["prev"] = link(max(0, offset - limit))
        if offset + limit < len(apps):
            links["next"] = link(offset + limit)
        page = [_app_record(app) for app in apps[offset : offset + limit]]
        return Answer(200, json.dumps({"data": page, "meta": {"total_items": len(apps)}, "links": links}))

    def _pull(self, username: str, app_id: str, report: str, query: Mapping[str, str]) -> Answer:
        if app_id not in {app.app_id for app in self.apps_of(username)}:
            return Answer(404, NOT_FOUND_PAGE, "text/html")
        if not self._permits(username, report):
            return _text(403, "Your current subscription package does not include this report")
        try:
            start, end = date.fromisoformat(query["from"]), date.fromisoformat(query["to"])
        except (KeyError, ValueError):
            return Answer(400, json.dumps({"message": "from and to must be dates like 2026-01-31"}))
        days = (end - start).days + 1
        if days < 1:
            return Answer(400, json.dumps({"message": "from must not be after to"}))
        checks: list[Check] = [(("short", username, app_id, report), 1, False)]
        is_short = days <= 2
        if not is_short:
            checks = [(("long", username, app_id), 24, True), (("long-account", username), 120, True)]
        full = self._quotas.take(checks)
        if full is not None:
            is_real = self._minute_is_real if is_short else self._day_is_real
            refusal = _text(403, f"Limit reached for {NAMES_IN_QUOTA_ERRORS[report]}", None if is_real else full.wait)
            return replace(refusal, mood=full.mood)
        rows = self.expected_rows(username, app_id, start, end, report)
        known = {(username, app_id, report, row.day) for row in rows}
        call = (username, report, app_id, query["from"], query["to"])
        is_empty = bool(rows) and known <= self._answered and self._moods.strikes("empty", call)
        shown = [] if is_empty else rows[: self._row_cap]
        text = report_csv(report, shown, self._currency_of(username, app_id))
        mood = "empty" if is_empty else ""
        # whom an earlier answer never reached cannot tell that an empty one is untrue
        return Answer(200, text, "text/csv", mood=mood, when_sent=partial(self._answered.update, known))

    def _currency_of(self, username: str, app_id: str) -> str:
        return next(app.currency or "" for app in self.apps_of(username) if app.app_id == app_id)

    def _master(self, username: str, app_ids: str, query: Mapping[str, str]) -> Answer:
        if not self._permits(username, MASTER):
            return _text(404, "Not found")
        own = [app.app_id for app in self.apps_of(username)]
        asked = own if app_ids == ALL_APPS else app_ids.split(",")
        foreign = [app_id for app_id in asked if app_id not in own]
        if foreign:
            return _text(403, f"Not authorized app-ids: {','.join(foreign)}")
        try:
            start, end = date.fromisoformat(query["from"]), date.fromisoformat(query["to"])
        except (KeyError, ValueError):
            return _text(403, "Unrecognized date format.")
        if start > end:
            return _text(403, "From date can't be after To date.")
        if "kpis" not in query:
            return _text(403, "No KPIs provided.")
        if "groupings" not in query:
            return _text(416, "No Groupings Selected")
        if set(query["groupings"].split(",")) != GROUPINGS or set(query["kpis"].split(",")) != KPIS:
            return _text(416, "Wrong API Fields")  # the sandbox knows one selection
        if (end - start).days >= MAX_MASTER_DAYS:
            return _text(416, GO_NARROWER)
        last = min(end, self._last_update())
        rows = [row for app_id in asked for row in self.expected_rows(username, app_id, start, last, MASTER)]
        if len(rows) > self._row_cap:
            return _text(416, "Other reason")
        return Answer(200, report_csv(MASTER, rows), "text/csv")

    def _last_update(self) -> date:
        return datetime.fromtimestamp(self._clock(), UTC).date() - timedelta(MASTER_DELAY_DAYS)


def _unauthorized(path: str) -> Answer:
    return Answer(
        401, json.dumps("Unauthorized" if path == APPS_PATH else {"message": "Supplied API token is invalid"})
    )


def _text(status: int, body: str, retry_after: float | None = None) -> Answer:
    return Answer(status, body, "text/plain", retry_after)


def _app_record(app: App) -> dict[str, Any]:
    attributes = {"name": app.name, "platform": app.platform, "currency": app.currency, "time_zone": app.time_zone}
    return {"id": app.app_id, "type": "app", "attributes": {**attributes, **app.extra}}
