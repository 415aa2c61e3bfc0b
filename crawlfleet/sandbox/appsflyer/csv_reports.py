"""Reports as AppsFlyer writes them: `None` and `N/A` for what is missing, four decimals, quoted names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from decimal import Decimal

from crawlfleet.core.vendor_data import Figures
from crawlfleet.sandbox.appsflyer.invented_data import DAILY, GEO, MASTER, PARTNERS

NOT_IN_DAILY = ("Total Revenue", "ROI", "ARPU", "af_purchase")
COLUMNS = [
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
    "af_purchase (Sales in {currency})",
]
MASTER_DIMENSIONS = {
    "App ID": "app_id",
    "Adset (af_adset)": "adset",
    "Adset ID (af_adset_id)": "adset_id",
    "Ad (af_ad)": "ad",
    "Ad ID (af_ad_id)": "ad_id",
}
HEADERS = {
    PARTNERS: COLUMNS,
    DAILY: [caption for caption in COLUMNS if not caption.startswith(NOT_IN_DAILY)],
    GEO: ["Date", "Country", *COLUMNS[1:]],
    MASTER: [
        "App ID",
        "Install Time",
        "Media Source (pid)",
        "Campaign (c)",
        *list(MASTER_DIMENSIONS)[1:],
        "Clicks",
        "Installs",
    ],
}
NAMES = {
    "Agency/PMD (af_prt)": "agency",
    "Media Source (pid)": "media_source",
    "Campaign (c)": "campaign",
    "Country": "country",
}
FIGURES = {
    "Impressions": "impressions",
    "Clicks": "clicks",
    "Installs": "installs",
    "Sessions": "sessions",
    "Loyal Users": "loyal_users",
    "Total Revenue": "revenue",
    "Total Cost": "cost",
}


def report_csv(report: str, rows: Iterable[Figures], currency: str = "") -> str:
    """The report with these rows; amounts are in the app's currency, which a caption names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [caption.format(currency=currency) for caption in HEADERS[report]]
    writer.writerow(header)
    writer.writerows([_cell(row, caption) for caption in header] for row in rows)
    return text.getvalue()


def _cell(row: Figures, caption: str) -> str:
    if caption in ("Date", "Install Time"):
        return row.day.isoformat()
    if caption in MASTER_DIMENSIONS:
        return row.dimensions[MASTER_DIMENSIONS[caption]] or "None"
    if caption in NAMES:
        return getattr(row, NAMES[caption]) or "None"
    value = getattr(row, FIGURES[caption]) if caption in FIGURES else row.extra[caption]
    if value is None:
        return "N/A"
    return f"{value:.4f}" if isinstance(value, Decimal) else str(value)
