"""The contract of a source: one vendor whose token API gives app lists and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

from crawlfleet.core.account import Account
from crawlfleet.core.errors import PermanentError
from crawlfleet.core.figures import App, Figures


@dataclass(frozen=True, slots=True)
class Limit:
    """One quota of a vendor: at most `calls` in `seconds`, counted for each distinct value of `scope`."""

    name: str
    calls: int
    seconds: int
    scope: tuple[str, ...] = ("account",)


@dataclass(frozen=True, slots=True)
class Report:
    """What a report can do; days are calendar days of the account's data."""

    name: str
    max_range_days: int | None = None
    lookback_days: int | None = None
    settle_days: int = 2
    row_cap: int | None = None


class Cancellable(Protocol):
    """The part of a task context that a source needs."""

    def check(self) -> None: ...


class AppListUnavailable(PermanentError):
    """The vendor lists no apps for this account; apps named by hand (`Account.app_ids`) still work."""


class Source(Protocol):
    """One vendor. Implementations are cheap to make and hold no token.

    Both calls raise the typed errors of `core.errors` (AuthError, QuotaError, TransientError, PermanentError)
    and call `context.check()` between requests.
    """

    name: str
    limits: Sequence[Limit]
    reports: Mapping[str, Report]

    def list_apps(self, account: Account, context: Cancellable) -> Iterable[App]:
        """All apps that the account sees, each once."""
        ...

    def fetch_app_data(
        self, account: Account, app_id: str, report: str, start: date, end: date, context: Cancellable
    ) -> Iterable[Figures]:
        """All rows of the report for these days, both ends included, read while the response arrives.

        A response that breaks off raises; it never looks like a short report.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """The `[sources.NAME]` table of the settings file."""

    base_url: str | None = None
    proxy: str | None = None
    timeout_seconds: float = 300.0
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
