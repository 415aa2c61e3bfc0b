"""Source `tally`: apps and daily figures from the JSON API of Tally, a vendor invented for this example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import crawlfleet
from crawlfleet import Account, App, Cancellable, Figures, Limit, Report, Shape, Source, SourceSettings


class Tally(Source):
    name = "tally"
    limits = (Limit("calls", 10, 60, ("account",)), Limit("app_calls", 24, 86_400, ("account", "app")))
    app_list = Shape(("calls",))
    daily = Report("daily", (Shape(("calls", "app_calls"), max_days=31),), settle_days=3)
    reports: Mapping[str, Report] = {"daily": daily}

    def __init__(self, settings: SourceSettings) -> None:
        base_url = settings.base_url or "https://api.tally.example"
        self._transport = crawlfleet.Transport(base_url, settings.proxy, settings.timeout_seconds)

    def list_apps(self, account: Account, context: Cancellable) -> Iterable[App]:
        return self._get(account, context, "/v1/apps", {}, _app)

    def fetch_app_data(
        self, account: Account, app_id: str, report: str, start: date, end: date, context: Cancellable
    ) -> Iterable[Figures]:
        path = f"/v1/apps/{quote(app_id, safe='')}/{report}"
        return self._get(account, context, path, {"from": f"{start}", "to": f"{end}"}, _figures)

    def _get(
        self, account: Account, context: Cancellable, path: str, params: dict[str, str], read: Callable[[Any], Any]
    ) -> list[Any]:
        session = self._transport.session_of(account, context, _meaning)
        answer = session.get_json(path, params)
        try:
            return [read(record) for record in answer["rows"]]
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise crawlfleet.PermanentError(f"GET {path}: {error!r} in {session.quote(str(answer))}") from None


def _app(record: Any) -> App:
    return App(record["id"], record["name"], record["os"])


def _figures(record: Any) -> Figures:
    cost = None if record["cost"] is None else Decimal(record["cost"])  # not told is not 0
    return Figures(date.fromisoformat(record["date"]), None, record["network"], installs=record["installs"], cost=cost)


def _meaning(refusal: crawlfleet.Refusal) -> crawlfleet.TaskError | None:
    if refusal.status == 429:
        return crawlfleet.QuotaError(str(refusal), refusal.retry_after, "calls")
    if refusal.status in (403, 404) and refusal.body and not refusal.is_page:
        return crawlfleet.NotPermitted(str(refusal))
    return None
