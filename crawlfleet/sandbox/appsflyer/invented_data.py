"""The invented data of the simulated AppsFlyer: a pure function of account, app, report and day.

So a test can compute the truth. Nothing here is random at run time and nothing is stored: every figure comes from a
hash of what it belongs to. All reports tell of the same traffic: the rows of a geo report, and those of ads, add up
to the row of their campaign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from crawlfleet.core.vendor_data import App, Figures

PARTNERS, DAILY, GEO, MASTER = "partners_by_date_report", "daily_report", "geo_by_date_report", "master_by_ad"
ALL_APPS = "all"
CAMPAIGNS = (
    "US_Prospecting_A",
    "DE, AT, CH Launch",
    'Sommer "Spezial" 2026',
    "two\nlines",
    "retarget_q4",
    '春节, "新年"',
)
WORDS = ("farm", "owl", "rocket", "garden", "chess", "budget", "recipe", "puzzle", "radio", "trail")
ZONES = (("USD", "UTC"), ("EUR", "Europe/Paris"), ("GBP", "Europe/London"), ("CNY", "Asia/Shanghai"))
ODD_IDS = (  # by turns
    "com.sandbox.{word} pro {number}",
    "沙盒.{word}.{number}",
    "com.sandbox.{word}/{number}",
    "{number}",
    "com.sandbox.{word}-channel%2F{number}",
    "é&?#+{word};{number}",
)
COUNTRIES = ("US", "DE", "GB", "BR", None)


def apps_of(username: str, count: int | None = None, odd_ids: bool = False) -> list[App]:
    """The apps of an account, 3 to 8 unless `count` says how many; every third is an iOS app.

    With `odd_ids` the others have ids as vendors list them now and then.
    """
    count = 3 + _number("count", username) % 6 if count is None else count
    return [_app(username, index, odd_ids) for index in range(count)]


def expected_rows(
    username: str,
    app_id: str,
    start: date,
    end: date,
    report: str = PARTNERS,
    apps: int | None = None,
    odd_ids: bool = False,
) -> list[Figures]:
    """What a correct reader of the report yields for these days, in the report's order.

    About one day in forty has no rows at all, as happens to small apps. `apps` and `odd_ids` are those of `apps_of`.
    """
    currencies = {app.app_id: app.currency or "" for app in apps_of(username, apps, odd_ids)}
    app_ids = list(currencies) if app_id == ALL_APPS else [app_id]
    rows_of = {PARTNERS: _partner_rows, DAILY: _daily_rows, GEO: _geo_rows, MASTER: _ad_rows}[report]
    return [
        row
        for each in app_ids
        for day in range((end - start).days + 1)
        for traffic in _traffic_of_day(username, each, start + timedelta(day), currencies.get(each, "USD"))
        for row in rows_of(traffic)
    ]


@dataclass(frozen=True, slots=True)
class _Counts:
    """Figures of some traffic; None is not measured. Amounts are in units of 0.0001, as fine as the vendor's."""

    impressions: int | None
    clicks: int | None
    cost: int | None
    installs: int
    sessions: int
    loyal_users: int
    revenue: int
    buyers: int
    purchases: int
    sales: int

    def split(self, count: int) -> list[_Counts]:
        """So many parts, which add up to the whole."""

        def part(value: int | None, index: int) -> Any:
            return None if value is None else value * (index + 1) // count - value * index // count

        return [_Counts(*(part(value, index) for value in astuple(self))) for index in range(count)]


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What one campaign of one media source brought on one day; `number` decides what is left to invent."""

    number: int
    app_id: str
    day: date
    agency: str | None
    media_source: str
    campaign: str | None
    counts: _Counts
    currency: str


def _traffic_of_day(username: str, app_id: str, day: date, currency: str) -> Iterator[_Traffic]:
    number = _number("day", username, app_id, day)
    if number % 40 == 0:
        return
    first = number % len(CAMPAIGNS)
    for step in range(2 + number % 3):
        campaign = CAMPAIGNS[(first + step) % len(CAMPAIGNS)]
        paid = _number("row", username, app_id, day, campaign)
        agency, media_source = None if step else "exampleagency", ("samplenet_int", "demoads_int")[paid % 2]
        yield _Traffic(paid, app_id, day, agency, media_source, campaign, _paid_counts(paid), currency)
    for media_source in ("restricted", "Organic"):
        unpaid = _number("row", username, app_id, day, media_source)
        yield _Traffic(unpaid, app_id, day, None, media_source, None, _unpaid_counts(unpaid), currency)


def _paid_counts(number: int) -> _Counts:
    impressions = 1000 + number % 50_000
    clicks = impressions * (10 + number % 40) // 1000
    installs = clicks * (number % 13) // 100  # sometimes none
    cost = installs * (10_000 + number % 20_000) + 10_000
    return _counts(number, impressions, clicks, cost, installs, installs * (3 + number % 9), number % 9_000_000)


def _unpaid_counts(number: int) -> _Counts:
    return _counts(number, None, None, None, 5 + number % 400, number % 700, number % 2_000_000)


def _counts(
    number: int,
    impressions: int | None,
    clicks: int | None,
    cost: int | None,
    installs: int,
    sessions: int,
    revenue: int,
) -> _Counts:
    loyal_users = installs * (20 + number % 30) // 100
    buyers = installs * (number % 11) // 100
    purchases, sales = buyers + number % 3, buyers * (number % 90_000)
    return _Counts(impressions, clicks, cost, installs, sessions, loyal_users, revenue, buyers, purchases, sales)


def _partner_rows(traffic: _Traffic) -> list[Figures]:
    return [_full_row(traffic, traffic.counts)]


def _daily_rows(traffic: _Traffic) -> list[Figures]:
    return [Figures(**_plain(traffic, traffic.counts), extra=_ratios(traffic.counts))]


def _geo_rows(traffic: _Traffic) -> list[Figures]:
    first, count = traffic.number % len(COUNTRIES), 1 + traffic.number % 3
    countries = [COUNTRIES[(first + step) % len(COUNTRIES)] for step in range(count)]
    parts = zip(countries, traffic.counts.split(count), strict=True)
    return [_full_row(traffic, counts, country=country) for country, counts in parts]


def _ad_rows(traffic: _Traffic) -> list[Figures]:
    count = 1 if traffic.campaign is None else 1 + traffic.number % 3
    return [
        Figures(
            day=traffic.day,
            media_source=traffic.media_source,
            campaign=traffic.campaign,
            clicks=counts.clicks,
            installs=counts.installs,
            dimensions={"app_id": traffic.app_id, **_ad(traffic, index)},
        )
        for index, counts in enumerate(traffic.counts.split(count))
    ]


def _ad(traffic: _Traffic, index: int) -> dict[str, str | None]:
    """One ad of the campaign; a third one is known by its adset only, unpaid traffic has neither."""
    if traffic.campaign is None:
        return dict.fromkeys(("adset_id", "adset", "ad_id", "ad"))
    adset = 1000 + traffic.number % 7 + index
    ad = None if index == 2 else str(adset % 100)
    return {"adset_id": str(adset), "adset": f'offer "{adset}", new', "ad_id": ad, "ad": ad and f"aff_{ad}"}


def _full_row(traffic: _Traffic, counts: _Counts, **names: str | None) -> Figures:
    revenue = _amount(counts.revenue)
    extra = {
        **_ratios(counts),
        "ROI": None if counts.cost is None else _ratio(counts.revenue - counts.cost, counts.cost),
        "ARPU": _ratio(revenue, counts.installs),
        "af_purchase (Unique users)": counts.buyers,
        "af_purchase (Event counter)": counts.purchases,
        f"af_purchase (Sales in {traffic.currency})": f"{_amount(counts.sales):.4f}",
    }
    return Figures(**_plain(traffic, counts), **names, revenue=revenue, extra=extra)  # type: ignore[arg-type]


def _plain(traffic: _Traffic, counts: _Counts) -> dict[str, Any]:
    """The fields that all aggregate reports share."""
    return {
        "day": traffic.day,
        "agency": traffic.agency,
        "media_source": traffic.media_source,
        "campaign": traffic.campaign,
        "impressions": counts.impressions,
        "clicks": counts.clicks,
        "installs": counts.installs,
        "sessions": counts.sessions,
        "loyal_users": counts.loyal_users,
        "cost": None if counts.cost is None else _amount(counts.cost),
    }


def _ratios(counts: _Counts) -> dict[str, Any]:
    return {
        "CTR": _ratio(counts.clicks, counts.impressions),
        "Conversion Rate": _ratio(None if counts.clicks is None else counts.installs, counts.clicks),
        "Loyal Users/Installs": _ratio(counts.loyal_users, counts.installs),
        "Average eCPI": None if counts.cost is None else _ratio(_amount(counts.cost), counts.installs),
    }


def _amount(units: int) -> Decimal:
    return Decimal(units) / 10_000


def _ratio(part: int | Decimal | None, whole: int | None) -> str | None:
    return f"{Decimal(part) / Decimal(whole):.4f}" if part is not None and whole else None


def _number(*key: object) -> int:
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _app(username: str, index: int, odd_ids: bool) -> App:
    number = _number("app", username, index)
    word = WORDS[number % len(WORDS)]
    currency, time_zone = ZONES[number % len(ZONES)]
    # Only iOS ids are short; index in the id keeps them distinct within an account.
    app_id = f"id99{number % 10**5:05d}{index:03d}" if index % 3 == 2 else f"com.sandbox.{word}.a{number:x}x{index}"
    if odd_ids and index % 3 < 2:
        app_id = ODD_IDS[(2 * (index // 3) + index % 3) % len(ODD_IDS)].format(
            word=word, number=f"{number % 10**7}{index}"
        )
    extra = {} if number % 2 else {"enable_retargetting": number % 4 == 0}
    return App(
        app_id, f"{word.title()} {index + 1}", "ios" if index % 3 == 2 else "android", currency, time_zone, extra
    )
