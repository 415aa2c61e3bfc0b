"""How a run ended: what the gate is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.vendor_data import Scope
from crawlfleet.model.task_spec import TaskSpec


@dataclass
class Ending:
    """One run that ended. `kind` has a rule in `lifecycle.ENDINGS`.

    Moments are the database's clock; `retry_after` seconds is the earliest retry that the vendor named. `calls` are the
    moments by which the vendor saw the run's calls, None when nobody can tell. `quota_scope` names the limit that was
    hit, `quota_daily` says that it holds until the UTC day ends. An unpaid run lacked calls: its task needs
    `calls_wanted` (None: as many as before, but later) and moves to the lane `lane_id`. `denied` is the
    (app id, report) that the vendor says the account may not have.
    """

    assignment_id: int
    task_id: int
    kind: EndingKind
    started_at: datetime | None = None
    completed_at: datetime | None = None
    message: str | None = None
    retry_after: float | None = None
    summary: str | None = None
    rows: Any = ()
    replaces: Scope | None = None
    follow_ups: Sequence[TaskSpec] = field(default_factory=tuple)
    calls: Sequence[datetime] | None = ()
    quota_scope: str | None = None
    quota_daily: bool = False
    calls_wanted: int | None = None
    lane_id: int | None = None
    denied: tuple[str, str] | None = None

    @property
    def writes_data(self) -> bool:
        return self.replaces is not None or bool(self.follow_ups)


def cause_of(error: Exception) -> str:
    """Why the database refused something, in its own words: one line of at most 300 characters."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300]


def result_refused(error: Exception) -> str:
    """The message of a run whose result the database does not take."""
    return f"the database refused the result: {cause_of(error)}"
