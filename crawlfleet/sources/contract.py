"""The contract of a source: one vendor whose token API gives app lists and figures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

from crawlfleet.core.account import Account
from crawlfleet.core.errors import PermanentError, UsageError
from crawlfleet.core.vendor_data import ALL_APPS as ALL_APPS  # noqa: PLC0414  (offered here, too)
from crawlfleet.core.vendor_data import App, Figures

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """One quota of a vendor: at most `calls` in `seconds`, counted for each distinct value of `scope`.

    `scope` is made of "account", "app" and "report"; empty, all calls of the fleet count together. `seconds` of 86,400
    mean the UTC calendar day, anything else a sliding window. `calls` is None where the vendor documents no number:
    then only its own refusals close the budget.
    """

    name: str
    calls: int | None
    seconds: int
    scope: tuple[str, ...] = ("account",)


@dataclass(frozen=True, slots=True)
class Shape:
    """One way of asking: what it costs, and which ranges of days it takes.

    Each HTTP request of a task counts as one call against every one of `limits`; `calls` is how many a task is
    expected to make at most (pages). Ranges have `min_days` to `max_days` days.
    """

    limits: tuple[str, ...] = ()
    calls: int = 1
    min_days: int = 1
    max_days: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What a report can do; days are calendar days of the account's data.

    `shapes` are the ways of asking for it, shortest ranges first, without gaps between them. Figures of a day change
    for `settle_days` after it. The vendor answers days up to `lookback_days` ago (None: without end; 0: a snapshot
    of today, UTC), and at most `row_cap` rows, silently dropping the rest. `account_wide`: the app id `ALL_APPS` asks
    for all apps in one call. `rows_may_vanish`: days that had rows and have none now are believed; of other reports
    that is more often a hiccup of the vendor's.
    """

    name: str
    shapes: tuple[Shape, ...]
    lookback_days: int | None = None
    settle_days: int = 2
    row_cap: int | None = None
    account_wide: bool = False
    rows_may_vanish: bool = False

    @property
    def is_snapshot(self) -> bool:
        """True when only today, in UTC, can be asked for."""
        return self.lookback_days == 0

    @property
    def max_range_days(self) -> int:
        """The longest range of one call."""
        return self.shapes[-1].max_days

    def shape_of(self, days: int) -> Shape:
        """How a range of so many days is asked for; raises PermanentError for one that is too long."""
        for shape in self.shapes:
            if days <= shape.max_days:
                return shape
        raise PermanentError(f"report {self.name} takes at most {self.max_range_days} days at once (got {days})")


class Cancellable(Protocol):
    """The part of a task context that a source needs.

    `check` raises when nobody waits for the run any more. The other two are the transport's: `before_call` waits until
    the budgets of the run allow one more request, `after_answer` tells that its answer begins to arrive. `remark` is
    told of what was left out or mended of an answer: how often under which name goes into the task's result, the first
    texts go into its result and log.
    """

    def check(self) -> None: ...

    def before_call(self) -> None: ...

    def after_answer(self) -> None: ...

    def remark(self, name: str, text: str) -> None: ...


class Uncancelled:
    """The context of calls outside a task, as in a test of a source: nobody cancels them, no budget counts them."""

    def check(self) -> None:
        """Go on."""

    def before_call(self) -> None:
        """Go on."""

    def after_answer(self) -> None:
        """Go on."""

    def remark(self, name: str, text: str) -> None:
        """Log it."""
        log.warning("%s: %s", name, text)


class AppListUnavailable(PermanentError):
    """The vendor lists no apps for this account; apps named by hand (`Account.app_ids`) still work."""


class Source(Protocol):
    """One vendor. Implementations are cheap to make and hold no token.

    Both calls raise the typed errors of `core.errors` (AuthError, QuotaError, TransientError, PermanentError)
    and call `context.check()` between requests.
    """

    name: str
    needs_token: bool = True  # False: an account is stored without the place of a token
    limits: Sequence[Limit]
    reports: Mapping[str, Report]  # the first one is the default
    app_list: Shape  # what one list_apps costs

    def list_apps(self, account: Account, context: Cancellable) -> Iterable[App]:
        """All apps that the account sees, each once."""
        ...

    def fetch_app_data(
        self, account: Account, app_id: str, report: str, start: date, end: date, context: Cancellable
    ) -> Iterable[Figures]:
        """All rows of the report for these days, both ends included, read while the response arrives.

        A response that breaks off raises; it never looks like a short report. Raises NotPermitted when the vendor says
        that this account may not have this app or report, RangeTooLarge when fewer days could be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """The `[sources.NAME]` table of the settings file."""

    base_url: str | None = None
    proxy: str | None = None
    timeout_seconds: float = 300.0
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # every other key; each source knows its own

    def only_options(self, *known: str) -> None:
        """Raise UsageError for a key of the table that this source does not read: most likely a slip."""
        for name in self.options:
            if name not in known:
                own = ", ".join((*known, "base_url", "proxy", "timeout_seconds", "limits"))
                raise UsageError(f"{name} is unknown: known are {own}")
