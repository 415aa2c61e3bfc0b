"""The invented data of the sandbox: a pure function of account, app and day, so that a test can compute the truth.

Nothing here is random at run time and nothing is stored: every figure comes from a hash of what it belongs to.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal

from crawlfleet.core.figures import App, Figures

HEADER = [
    "Date",
    "Agency/PMD (af_prt)",
    "Media Source (pid)",
    "Campaign (c)",
    "Impressions",
    "Clicks",
    "CTR",
    "Installs",
    "Conversion Rate",
    "Sessions",
    "Loyal Users",
    "Loyal Users/Installs",
    "Total Revenue",
    "Total Cost",
    "ROI",
    "ARPU",
    "Average eCPI",
    "af_purchase (Unique users)",
    "af_purchase (Event counter)",
    "af_purchase (Sales in USD)",
]
RATIOS = ("CTR", "Conversion Rate", "Loyal Users/Installs", "ROI", "ARPU", "Average eCPI")
EVENTS = HEADER[-3:]
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


def apps_of(username: str, count: int | None = None) -> list[App]:
    """The apps of an account, 3 to 8 unless `count` says how many; every third is an iOS app."""
    count = 3 + _number("count", username) % 6 if count is None else count
    return [_app(username, index) for index in range(count)]


def expected_rows(username: str, app_id: str, start: date, end: date) -> list[Figures]:
    """What a correct reader of partners_by_date_report yields for these days, in the report's order.

    About one day in forty has no rows at all, as happens to small apps.
    """
    return [
        row for day in range((end - start).days + 1) for row in _rows_of_day(username, app_id, start + timedelta(day))
    ]


def report_csv(username: str, app_id: str, start: date, end: date) -> str:
    """The same rows as the vendor writes them: `None` and `N/A` for what is missing, four decimals, quoted names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for row in expected_rows(username, app_id, start, end):
        writer.writerow(_cells(row))
    return text.getvalue()


def _number(*key: object) -> int:
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _app(username: str, index: int) -> App:
    number = _number("app", username, index)
    word = WORDS[number % len(WORDS)]
    currency, time_zone = ZONES[number % len(ZONES)]
    # Only iOS ids are short; index in the id keeps them distinct within an account.
    app_id = f"id99{number % 10**5:05d}{index:03d}" if index % 3 == 2 else f"com.sandbox.{word}.a{number:x}x{index}"
    extra = {} if number % 2 else {"enable_retargetting": number % 4 == 0}
    return App(
        app_id, f"{word.title()} {index + 1}", "ios" if index % 3 == 2 else "android", currency, time_zone, extra
    )


def _rows_of_day(username: str, app_id: str, day: date) -> Iterator[Figures]:
    number = _number("day", username, app_id, day)
    if number % 40 == 0:
        return
    first = number % len(CAMPAIGNS)
    for step in range(2 + number % 3):
        yield _paid_row(username, app_id, day, CAMPAIGNS[(first + step) % len(CAMPAIGNS)], step)
    yield _unpaid_row(username, app_id, day, "restricted")
    yield _unpaid_row(username, app_id, day, "Organic")


def _paid_row(username: str, app_id: str, day: date, campaign: str, step: int) -> Figures:
    number = _number("row", username, app_id, day, campaign)
    impressions = 1000 + number % 50_000
    clicks = impressions * (10 + number % 40) // 1000
    installs = clicks * (number % 13) // 100  # sometimes none
    loyal_users = installs * (20 + number % 30) // 100
    revenue = Decimal(number % 9_000_000) / 10_000
    cost = Decimal(installs * (10_000 + number % 20_000) + 10_000) / 10_000
    return Figures(
        day=day,
        agency=None if step else "exampleagency",
        media_source=("samplenet_int", "demoads_int")[number % 2],
        campaign=campaign,
        impressions=impressions,
        clicks=clicks,
        installs=installs,
        sessions=installs * (3 + number % 9),
        loyal_users=loyal_users,
        revenue=revenue,
        cost=cost,
        extra={
            "CTR": _ratio(clicks, impressions),
            "Conversion Rate": _ratio(installs, clicks),
            "Loyal Users/Installs": _ratio(loyal_users, installs),
            "ROI": _ratio(revenue - cost, cost),
            "ARPU": _ratio(revenue, installs),
            "Average eCPI": _ratio(cost, installs),
            **_events(number, installs),
        },
    )


def _unpaid_row(username: str, app_id: str, day: date, media_source: str) -> Figures:
    number = _number("row", username, app_id, day, media_source)
    installs = 5 + number % 400
    loyal_users = installs * (20 + number % 30) // 100
    revenue = Decimal(number % 2_000_000) / 10_000
    return Figures(
        day=day,
        media_source=media_source,
        installs=installs,
        sessions=number % 700,
        loyal_users=loyal_users,
        revenue=revenue,
        extra={
            **dict.fromkeys(RATIOS),
            "Loyal Users/Installs": _ratio(loyal_users, installs),
            "ARPU": _ratio(revenue, installs),
            **_events(number, installs),
        },
    )


def _events(number: int, installs: int) -> dict[str, int | str]:
    buyers = installs * (number % 11) // 100
    return dict(
        zip(EVENTS, (buyers, buyers + number % 3, f"{Decimal(buyers * (number % 90_000)) / 10_000:.4f}"), strict=True)
    )


def _ratio(part: int | Decimal, whole: int | Decimal) -> str | None:
    return f"{Decimal(part) / Decimal(whole):.4f}" if whole else None


def _cells(row: Figures) -> list[str]:
    dimensions = {HEADER[1]: row.agency, HEADER[2]: row.media_source, HEADER[3]: row.campaign}
    metrics = {
        "Impressions": row.impressions,
        "Clicks": row.clicks,
        "Installs": row.installs,
        "Sessions": row.sessions,
        "Loyal Users": row.loyal_users,
        "Total Revenue": None if row.revenue is None else f"{row.revenue:.4f}",
        "Total Cost": None if row.cost is None else f"{row.cost:.4f}",
        **row.extra,
    }
    cells = [row.day.isoformat()]
    for caption in HEADER[1:]:
        if caption in dimensions:
            cells.append(dimensions[caption] or "None")
        else:
            value = metrics[caption]
            cells.append("N/A" if value is None else str(value))
    return cells
