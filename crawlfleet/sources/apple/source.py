"""Apple: the App Store's public lookup, customer reviews and charts. They need no account and no token.

Shapes follow Apple's documentation of the Search API. Apple does not document the review feed, so its shape follows
what several public clients agree on. Apple names about 20 calls a minute, subject to change, and counts them by
address.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from crawlfleet.core.account import Account
from crawlfleet.core.errors import PermanentError, QuotaError, TaskError, TransientError, UsageError
from crawlfleet.core.vendor_data import App, Figures
from crawlfleet.sources.apple.records import as_app, as_details, list_of, look_up, number_of
from crawlfleet.sources.apple.reviews import MAX_PAGES, reviews
from crawlfleet.sources.contract import AppListUnavailable, Cancellable, Limit, Report, Shape, SourceSettings
from crawlfleet.sources.http.refusals import Refusal
from crawlfleet.sources.http.transport import Session, Transport
from crawlfleet.sources.records import usable

log = logging.getLogger(__name__)

STORE_URL = "https://itunes.apple.com"
CHARTS_URL = "https://rss.marketingtools.apple.com"
STOREFRONT = re.compile(r"[a-z]{2}")
APP_ID = re.compile(r"id[0-9]{1,18}")
BARE_ID = re.compile(r"(?:id)?([0-9]{1,18})")
IDS_PER_LOOKUP = 200  # more are answered with 502
APPS_PER_LOOKUP = 200  # of one developer; the rest cannot be asked for
CHART_LENGTH = 100  # more are answered with 500
CALLS_A_MINUTE = 19  # one in 3.1 s, just below what Apple names
CHARTS = {"top_free_rank": "top-free", "top_paid_rank": "top-paid"}
SHORT_RANGE_DAYS = 7  # of reviews, for which most apps need a page or two
MAX_RANGE_DAYS = 1000


class NotSold(PermanentError):
    """The storefront does not have the app."""


class Apple:
    """The source `apple`. Days are UTC. An app id is `id` and the number, as other vendors spell iOS apps.

    The setting `countries` lists the storefronts, default `us`. Each row carries its storefront in `country`.

    The whole fleet shares one limit, `store_calls`, since Apple counts by address, which no database knows. A fleet
    with several addresses raises the limit with `[sources.apple.limits]`.
    """

    name = "apple"
    needs_token = False
    limits: Sequence[Limit] = (Limit("store_calls", CALLS_A_MINUTE, 60, ()),)

    def __init__(self, settings: SourceSettings) -> None:
        settings.only_options("countries")
        self.countries = _countries(settings.options.get("countries", ["us"]))
        self._store = Transport(settings.base_url or STORE_URL, settings.proxy, settings.timeout_seconds)
        self._charts = Transport(settings.base_url or CHARTS_URL, settings.proxy, settings.timeout_seconds)
        self.app_list = self._shape(1)
        self.reports: Mapping[str, Report] = {
            "app_details": self._snapshot("app_details"),
            "reviews": Report(
                "reviews",
                (self._shape(2, SHORT_RANGE_DAYS), self._shape(MAX_PAGES, MAX_RANGE_DAYS, SHORT_RANGE_DAYS + 1)),
                rows_may_vanish=True,  # an edited review moves to another day; empty feeds are doubted on reading
            ),
            **{name: self._snapshot(name) for name in CHARTS},
        }

    def _shape(self, calls: int, max_days: int = 1, min_days: int = 1) -> Shape:
        """A shape of `calls` calls in each storefront, for ranges of `min_days` to `max_days` days."""
        return Shape(("store_calls",), calls * len(self.countries), min_days, max_days)

    def _snapshot(self, name: str) -> Report:
        # an app leaves a chart in the course of a day
        return Report(name, (self._shape(1),), lookback_days=0, settle_days=0, rows_may_vanish=name in CHARTS)

    def close(self) -> None:
        """Close idle connections."""
        self._store.close()
        self._charts.close()

    def list_apps(self, account: Account, context: Cancellable) -> list[App]:
        """The apps that the account names, else those of the developer whose id is the username; each once.

        When several storefronts have an app, the first one of the setting describes it. Leaves out ids named by hand
        that no storefront has, and logs them.

        Raises AppListUnavailable for a developer with 200 apps or more, since Apple lists no further. Raises
        PermanentError for a username that is no number, an app's number or an unknown one, and when no storefront has
        any of the named apps.
        """
        session = self._store.session(None, context, _refused, account.proxy)
        if account.app_ids:
            records = self._named(session, account)
        elif account.username.isascii() and account.username.isdigit():
            records = self._of_developer(session, account.username)
        else:
            raise PermanentError(
                f"account {account.username} at apple names no apps: use the developer's id as the username, or"
                " name apps with --app-id"
            )
        apps: dict[str, App] = {}
        for app in usable(records, as_app, session):
            apps.setdefault(app.app_id, app)
        return list(apps.values())

    def _of_developer(self, session: Session, developer: str) -> list[dict[str, Any]]:
        asked = {"id": developer, "entity": "software", "limit": str(APPS_PER_LOOKUP)}
        results = [look_up(session, country, asked) for country in self.countries]
        apps = [[each for each in found if each.get("wrapperType") == "software"] for found in results]
        records = [record for found in apps for record in found]
        for record in records:
            if number_of(record) == developer:
                raise PermanentError(
                    f"username {developer} is the id of an app, not of a developer: its developer is"
                    f" {session.quote(str(record.get('artistId')))}"
                )
        if not any(results):
            raise PermanentError(f"there is no developer {developer} in the storefronts {self._storefronts}")
        if max(map(len, apps)) >= APPS_PER_LOOKUP:
            raise AppListUnavailable(
                f"developer {developer} has {APPS_PER_LOOKUP} apps or more: Apple lists no further"
            )
        return records

    def _named(self, session: Session, account: Account) -> list[dict[str, Any]]:
        numbers = list(dict.fromkeys(map(_number, account.app_ids)))
        chunks = [numbers[at : at + IDS_PER_LOOKUP] for at in range(0, len(numbers), IDS_PER_LOOKUP)]
        records = [
            record
            for country in self.countries
            for chunk in chunks
            for record in look_up(session, country, {"id": ",".join(chunk), "limit": str(IDS_PER_LOOKUP)})
            if record.get("wrapperType") == "software"
        ]
        known = {number_of(record) for record in records}
        unknown = ", ".join(f"id{number}" for number in numbers if number not in known)
        if not known:
            raise PermanentError(f"the storefronts {self._storefronts} have none of {session.quote(unknown)}")
        if unknown:
            log.warning("the storefronts %s do not have %s", self._storefronts, unknown)
        return records

    def fetch_app_data(
        self, account: Account, app_id: str, report: str, start: date, end: date, context: Cancellable
    ) -> Iterator[Figures]:
        """All rows of the report for these days, both included, one storefront after the other.

        `app_details`: one row for each storefront that has the app. `reviews`: one row for each review, newest first.
        `top_free_rank`, `top_paid_rank`: a row where the app is in the chart's first hundred.

        Checks parameters at the call and raises PermanentError for wrong ones; all but `reviews` show today (UTC) only.
        Sends the first request at the first row. Raises PermanentError then when no storefront has the app.
        """
        if report not in self.reports:
            raise PermanentError(f"report must be one of {', '.join(self.reports)} (got {report!r:.80})")
        if not APP_ID.fullmatch(app_id):
            raise PermanentError(f"app_id must be 'id' and the app's number, as in id123456789 (got {app_id!r:.80})")
        today = datetime.now(UTC).date()
        if self.reports[report].is_snapshot and not start == end == today:
            raise PermanentError(
                f"report {report} shows today only, which is {today} in UTC: leave out the days (got {start} to {end})"
            )
        if report in CHARTS:
            charts = self._charts.session(None, context, _refused, account.proxy)
            return self._ranks(charts, app_id, CHARTS[report], today)
        session = self._store.session(None, context, _refused, account.proxy)
        if report == "reviews":
            return self._wherever_sold(
                app_id, lambda country: reviews(session, country, app_id[2:], start, end, self._ratings)
            )

        def details(country: str) -> list[Figures]:
            record = self._record(session, country, app_id[2:])
            return usable([record], lambda each: as_details(each, country, today), session)

        return self._wherever_sold(app_id, details)

    def _wherever_sold(self, app_id: str, rows: Callable[[str], Iterable[Figures]]) -> Iterator[Figures]:
        """The rows of all storefronts. Some may lack the app; when all do, raises PermanentError."""
        without = 0
        for country in self.countries:
            try:
                yield from rows(country)
            except NotSold:
                without += 1
        if without == len(self.countries):
            raise PermanentError(f"the storefronts {self._storefronts} do not have the app {app_id}")

    def _record(self, session: Session, country: str, number: str) -> dict[str, Any]:
        for record in look_up(session, country, {"id": number}):
            if record.get("wrapperType") == "software" and number_of(record) == number:
                return record
        raise NotSold(f"storefront {country} does not have the app id{number}")

    def _ratings(self, session: Session, country: str, number: str) -> int | None:
        """How many people rated the app there; None when the storefront does not say. Raises NotSold."""
        count = self._record(session, country, number).get("userRatingCount")
        return count if isinstance(count, int) else None

    def _ranks(self, session: Session, app_id: str, chart: str, day: date) -> Iterator[Figures]:
        for country in self.countries:
            path = f"/api/v2/{country}/apps/{chart}/{CHART_LENGTH}/apps.json"
            entries = list_of(session.get_json(path), "feed", "results", where=f"GET {path}", session=session)
            if not entries:
                raise TransientError(f"GET {path}: the chart is empty, which no chart is")
            for rank, entry in enumerate(entries, 1):
                if entry.get("id") == app_id[2:]:
                    yield Figures(day, country=country, extra={"rank": rank})
                    break

    @property
    def _storefronts(self) -> str:
        return ", ".join(self.countries)


def _refused(refusal: Refusal) -> TaskError | None:
    if refusal.status == 429 or (refusal.status == 403 and not refusal.body):
        return QuotaError(f"{refusal}: Apple's limit", refusal.retry_after, "store_calls")
    if refusal.status == 400:
        return PermanentError(f"{refusal}: is there such a storefront?")
    return None


def _number(app_id: str) -> str:
    match = BARE_ID.fullmatch(app_id)
    if match is None:
        raise PermanentError(f"an app of Apple's is named by its number, as in id123456789 (got {app_id!r:.80})")
    return match[1]


def _countries(value: Any) -> tuple[str, ...]:
    fits = isinstance(value, list | tuple) and all(
        isinstance(each, str) and STOREFRONT.fullmatch(each) for each in value
    )
    if not fits or not value:
        raise UsageError(
            f"countries must be a list of storefronts in small letters, as in ['us', 'de'] (got {value!r:.80})"
        )
    return tuple(dict.fromkeys(value))
