"""AppsFlyer: the App List API, the aggregate Pull API and the Master API, with version 2 tokens.

Shapes and limits follow the vendor's own documentation (devhub: app_list_ad_nets_api.yaml, aggregate_pull_api_v2.yaml,
master_api.yaml; help centre 207034366 for quotas). docs/sources.md describes the source for its users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from urllib.parse import quote

from crawlfleet.core.account import Account
from crawlfleet.core.errors import PermanentError, TaskError, UsageError
from crawlfleet.core.vendor_data import App, Figures
from crawlfleet.sources.appsflyer.apps import read_app_list
from crawlfleet.sources.appsflyer.errors import app_list_error, master_error, pull_error, without_refusal
from crawlfleet.sources.appsflyer.master import master_rows
from crawlfleet.sources.appsflyer.report import GEO_CAPTIONS, PULL_CAPTIONS, ReportText
from crawlfleet.sources.contract import ALL_APPS, Cancellable, Limit, Report, Shape, SourceSettings
from crawlfleet.sources.http.refusals import Refusal
from crawlfleet.sources.http.transport import Transport

BASE_URL = "https://hq1.appsflyer.com"
REDIRECT_HOSTS = ("*.appsflyer.com",)  # exports are answered with the address of a file at rawdata.appsflyer.com
MAX_APP_ID_CHARS = 190
SHORT_RANGE_DAYS = 2  # up to here a call counts against the minute, beyond it against the day
ROW_CAP = 200_000  # the Pull API drops further rows silently, the Master API refuses

BAD_TEXT = ("fail", "replace")  # what becomes of a report whose text is damaged

LIMITS = (
    Limit("aggregate_short_range", 1, 60, ("account", "app", "report")),
    Limit("aggregate_long_range_app", 24, 86_400, ("account", "app")),
    Limit("aggregate_long_range_account", 120, 86_400, ("account",)),
    Limit("master", None, 86_400, ("account",)),  # documented as unlimited
    Limit("app_list_minute", 20, 60, ("account",)),
    Limit("app_list_day", 100, 86_400, ("account",)),
)
APP_LIST = Shape(("app_list_minute", "app_list_day"), calls=2)
BY_DATE = (
    Shape(("aggregate_short_range",), max_days=SHORT_RANGE_DAYS),
    Shape(("aggregate_long_range_app", "aggregate_long_range_account"), min_days=SHORT_RANGE_DAYS + 1, max_days=1000),
)
MASTER = "master_by_ad"
PULL_REPORTS = {  # each is a path of the Pull API, with the captions that it must have
    "partners_by_date_report": PULL_CAPTIONS,
    "daily_report": PULL_CAPTIONS,
    "geo_by_date_report": GEO_CAPTIONS,
}
REPORTS = {
    **{name: Report(name, BY_DATE, settle_days=2, row_cap=ROW_CAP) for name in PULL_REPORTS},
    MASTER: Report(
        MASTER, (Shape(("master",), calls=2, max_days=31),), settle_days=2, row_cap=ROW_CAP, account_wide=True
    ),
}


class AppsFlyer:
    """The source `appsflyer`. Days are UTC, since we send no `timezone`. Amounts are in the app's own currency."""

    name = "appsflyer"
    needs_token = True
    limits: Sequence[Limit] = LIMITS
    reports: Mapping[str, Report] = REPORTS
    app_list = APP_LIST

    def __init__(self, settings: SourceSettings) -> None:
        settings.only_options("redirect_hosts", "bad_text")
        more = settings.options.get("redirect_hosts", [])
        if not isinstance(more, list):
            raise UsageError(f"redirect_hosts must be a list of hosts (got {more!r:.200})")
        bad_text = settings.options.get("bad_text", BAD_TEXT[0])
        if bad_text not in BAD_TEXT:
            raise UsageError(f"bad_text must be one of {', '.join(BAD_TEXT)} (got {bad_text!r:.80})")
        self._replace_bad_text = bad_text == "replace"
        self._transport = Transport(
            settings.base_url or BASE_URL, settings.proxy, settings.timeout_seconds, (*REDIRECT_HOSTS, *more)
        )

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def list_apps(self, account: Account, context: Cancellable) -> list[App]:
        """All apps that the account sees, each once, in the vendor's order.

        Raises AppListUnavailable when the vendor has no list for this account (403, 404), else what `read_app_list`
        raises.
        """
        return read_app_list(self._transport.session_of(account, context, app_list_error))

    def fetch_app_data(
        self, account: Account, app_id: str, report: str, start: date, end: date, context: Cancellable
    ) -> Iterator[Figures]:
        """All rows of the report for these days, both included; reads them while the response arrives.

        Checks parameters at the call and raises PermanentError for wrong ones. Sends the first request at the first
        row. Only `master_by_ad` takes the app id "all", too.

        Raises NotPermitted when the account may not have this app or report, RangeTooLarge when the vendor refuses the
        range for its many rows.
        """
        if report not in self.reports:
            raise PermanentError(f"report must be one of {', '.join(sorted(self.reports))} (got {report!r:.80})")
        # The vendor lists ids with blanks, '/', letters of any script and of digits only: the path has them encoded.
        if not 1 <= len(app_id) <= MAX_APP_ID_CHARS or not app_id.isprintable() or app_id in (".", ".."):
            raise PermanentError(
                f"app_id must be 1 to {MAX_APP_ID_CHARS} characters that can be shown, and not '.' or '..'"
                f" (got {app_id!r:.80})"
            )
        self.reports[report].shape_of((end - start).days + 1)
        if report == MASTER:
            session = self._transport.session_of(account, context, master_error)
            return master_rows(session, app_id, start, end, self._replace_bad_text)
        if app_id == ALL_APPS:
            raise PermanentError(f"app_id {ALL_APPS!r} is for report {MASTER}: {report} needs the id of one app")
        return self._pull(account, app_id, report, start, end, context)

    def _pull(
        self, account: Account, app_id: str, report: str, start: date, end: date, context: Cancellable
    ) -> Iterator[Figures]:
        is_short = (end - start).days + 1 <= SHORT_RANGE_DAYS

        def classify(refusal: Refusal) -> TaskError | None:
            return pull_error(refusal, is_short)

        session = self._transport.session_of(account, context, classify)
        path = f"/api/agg-data/export/app/{quote(app_id, safe='')}/{report}/v5"
        lines = session.stream_lines(path, {"from": start.isoformat(), "to": end.isoformat()}, keep_bad_bytes=True)
        where = f"report {report} of {app_id}"
        lines = without_refusal(lines, where, session, classify)
        yield from ReportText(
            lines, where, session.quote, PULL_REPORTS[report], session.remark, self._replace_bad_text
        ).rows(start, end)
