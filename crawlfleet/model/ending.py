"""How a body ended, and what the gate is told of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import DatabaseUnreachable, cause_of
from crawlfleet.core.vendor_data import Scope
from crawlfleet.model.lifecycle import AccountStatus
from crawlfleet.model.task_spec import TaskSpec

if TYPE_CHECKING:
    from crawlfleet.model.feed import FetchCounts


@dataclass(slots=True)
class Outcome:
    """How a body ended: the one thing that an engine reports. `kind` has a rule in `lifecycle.ENDINGS`.

    `rows` is a list or a `Spool` (iterable, with len and close); whoever takes the outcome closes it. `summary` is
    JSON text. `retry_after` is seconds; `quota_scope`, `quota_daily` and `calls_wanted` are those of QuotaError and
    CallRefused. `denied` is the feed of NotPermitted, and `denied_in_words` tells how sure that is.
    Picklable unless its rows are a Spool.
    """

    kind: EndingKind = EndingKind.OK
    message: str | None = None
    retry_after: float | None = None
    quota_scope: str | None = None
    quota_daily: bool = False
    calls_wanted: int | None = None
    summary: str | None = None
    rows: Any = ()
    replaces: Scope | None = None
    follow_ups: Sequence[TaskSpec] = ()
    denied: tuple[str, str] | None = None
    denied_in_words: bool = True

    @property
    def is_spooled(self) -> bool:
        """Whether its rows are too many to be held in memory."""
        return hasattr(self.rows, "close")

    def close(self) -> None:
        """Give up the file of a spooled result."""
        close = getattr(self.rows, "close", None)
        if close is not None:
            close()


@dataclass(slots=True)
class Ending:
    """One run that ended, as the gate is told. Moments are the database's clock.

    `calls` are the moments by which the vendor saw the run's calls, None when nobody can tell. A task whose run lacked
    calls moves to the lane `lane_id`. `fetch_counts` are its claim's. An ending that waits for a person parks the
    account as `parks_as`.
    """

    assignment_id: int
    task_id: int
    outcome: Outcome
    started_at: datetime | None = None
    completed_at: datetime | None = None
    calls: Sequence[datetime] | None = ()
    lane_id: int | None = None
    fetch_counts: FetchCounts = field(default_factory=dict)
    parks_as: AccountStatus = AccountStatus.TOKEN_EXPIRED

    @property
    def kind(self) -> EndingKind:
        return self.outcome.kind

    @property
    def message(self) -> str | None:
        return self.outcome.message

    @property
    def writes_data(self) -> bool:
        return self.outcome.replaces is not None or bool(self.outcome.follow_ups)

    def doubted(self) -> Ending:
        """The same run, whose failure may pass: its task tries again while it has attempts left."""
        return replace(self, outcome=replace(self.outcome, kind=EndingKind.TRANSIENT, denied=None))

    def failed(self, message: str | None) -> Ending:
        """The same run with nothing but this message: its task fails."""
        return replace(self, outcome=Outcome(EndingKind.PERMANENT, message))

    def parked(self, message: str) -> Ending:
        """The same run with nothing but this message: its account waits for a person, and the task with it."""
        return replace(self, outcome=Outcome(EndingKind.AUTH, message), parks_as=AccountStatus.PARKED)


def replaced_by(endings: Sequence[Ending]) -> list[Scope]:
    """The ranges that these endings replace."""
    return [each.outcome.replaces for each in endings if each.outcome.replaces is not None]


def result_refused(error: Exception) -> str:
    """The message of a run whose result the database does not take."""
    if isinstance(error, DatabaseUnreachable):
        return f"the result breaks each connection on which it is written, while others live: {cause_of(error)}"
    name = "" if hasattr(error, "orig") else f"{type(error).__name__}: "  # a KeyError says no more than the key
    return f"the database refused the result: {name}{cause_of(error)}"
