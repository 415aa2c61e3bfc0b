"""Endings that are decided and not committed yet: their moments are still those of this machine's monotonic clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from crawlfleet.engines.contract import Run
from crawlfleet.executors.outcome import Outcome
from crawlfleet.executors.permit import RunPermit
from crawlfleet.model.ending import Ending
from crawlfleet.model.gate import RunCalls


@dataclass
class UncommittedEnding:
    """An ending that is not committed yet; its moments are still those of the monotonic clock."""

    ending: Ending
    began_at: float | None
    ended_at: float
    calls: tuple[float, ...] = ()

    def dated(self, now: datetime, asked_at: float, here: float) -> Ending:
        """The ending with its moments on the database's clock: it read `now` between `asked_at` and `here`."""
        return replace(
            self.ending,
            started_at=moment(self.began_at, now, here),
            completed_at=moment(self.ended_at, now, here),
            calls=latest(self.calls, now, asked_at),
        )


@dataclass
class SentCalls:
    """By when the vendor saw the calls of a run (monotonic clock), not booked yet; `is_over`: it sends no more."""

    assignment_id: int
    task_id: int
    moments: tuple[float, ...]
    is_over: bool = False

    def dated(self, now: datetime, asked_at: float) -> RunCalls:
        """The same on the database's clock."""
        return RunCalls(self.assignment_id, self.task_id, latest(self.moments, now, asked_at), self.is_over)


def ending_of(run: Run, outcome: Outcome) -> Ending:
    """How the gate is told of a body's outcome."""
    kind = outcome.kind if outcome.kind != "cancelled" else "transient"  # nobody cancelled it: it did so itself
    return Ending(
        run.assignment_id,
        run.task.id,
        kind,
        message=outcome.message,
        retry_after=outcome.retry_after,
        summary=outcome.summary,
        rows=outcome.rows,
        replaces=outcome.replaces,
        follow_ups=outcome.follow_ups,
        quota_scope=outcome.quota_scope,
        quota_daily=outcome.quota_daily,
        calls_wanted=outcome.calls_wanted,
        denied=outcome.denied,
    )


def final_calls(run: Run) -> tuple[float, ...]:
    """When the run sent its calls; it sends none after this."""
    permit = run.context.permit
    return permit.revoke() if isinstance(permit, RunPermit) else ()


def moment(monotonic: float | None, now: datetime, here: float) -> Any:
    """A moment of the monotonic clock, which reads `here`, on the database's clock, which reads `now`."""
    return None if monotonic is None else now - timedelta(seconds=here - monotonic)


def latest(moments: Sequence[float], now: datetime, asked_at: float) -> list[datetime]:
    """Moments of the monotonic clock on the database's, which read `now` after `asked_at`: none is dated too early,
    since a budget must not reopen before the vendor's does."""
    return [now - timedelta(seconds=asked_at - moment) for moment in moments]


def close_rows(rows: Any) -> None:
    """Give up the file of a spooled result."""
    close = getattr(rows, "close", None)
    if close is not None:
        close()
