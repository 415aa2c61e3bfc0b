"""AppsFlyer's Master API v4: clicks and installs down to the ad (devhub: master_api.yaml, master_lastupdate_api.yaml).

The account's plan must include it. It is the only official API with clicks for each adset and ad. One call may cover
all apps of an account. A single KPI that the account lacks makes the whole report fail, so we ask for two only.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from urllib.parse import quote

from crawlfleet.core.errors import TransientError
from crawlfleet.core.vendor_data import Figures
from crawlfleet.sources.appsflyer.errors import master_error, without_refusal
from crawlfleet.sources.appsflyer.report import MASTER_CAPTIONS, ReportText
from crawlfleet.sources.http.refusals import is_page
from crawlfleet.sources.http.transport import Session

LAST_UPDATE_PATH = "/api/master-agg-data/lastupdate"
GROUPINGS = "app_id,install_time,pid,c,af_adset_id,af_adset,af_ad,af_ad_id"
KPIS = "clicks,installs"
DAY_SECONDS = 86_400.0
LOOK_AGAIN_SECONDS = 8 * 3600.0  # the data moves on by one day a day, at no known hour


def master_rows(
    session: Session, app_id: str, start: date, end: date, replace_bad_text: bool = False
) -> Iterator[Figures]:
    """One row for each day, app, media source, campaign, adset and ad. Costs two calls.

    `dimensions` holds app_id, adset_id, adset, ad_id and ad. `app_id` "all" asks for all apps of the account. Days are
    UTC, both included.

    Raises TransientError when the vendor's data do not reach `end` yet; its `retry_after` is in seconds. Raises else
    what `ReportText.rows` and `master_error` name.
    """
    last = _last_update(session)
    if end > last:
        wait = LOOK_AGAIN_SECONDS + ((end - last).days - 1) * DAY_SECONDS
        raise TransientError(f"the Master API's data reach {last}, not yet {end}: not ready yet", retry_after=wait)
    where = f"report master_by_ad of {app_id}"
    query = {"from": start.isoformat(), "to": end.isoformat(), "groupings": GROUPINGS, "kpis": KPIS}
    path = f"/api/master-agg-data/v4/app/{quote(app_id, safe='')}"
    lines = without_refusal(session.stream_lines(path, query, keep_bad_bytes=True), where, session, master_error)
    text = ReportText(lines, where, session.quote, MASTER_CAPTIONS, session.remark, replace_bad_text)
    yield from text.rows(start, end)


def _last_update(session: Session) -> date:
    """The last day that the data reach. The answer is one line like `2026-01-31`.

    Raises TransientError for anything else: that says nothing of what was asked.
    """
    line = next(session.stream_lines(LAST_UPDATE_PATH, accept="text/plain"), "").strip(' "\r\n')
    if is_page(line):
        raise TransientError(f"GET {LAST_UPDATE_PATH}: the answer is a page, not the vendor's: {session.quote(line)}")
    if not line:
        raise TransientError(f"GET {LAST_UPDATE_PATH}: the answer is empty")
    try:
        return date.fromisoformat(line)
    except ValueError:
        raise TransientError(f"GET {LAST_UPDATE_PATH}: the answer is no date: {session.quote(line)}") from None
