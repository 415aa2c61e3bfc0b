"""Endings that are decided and not committed yet: their moments are still those of this machine's monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from crawlfleet.core.clock import ClockReading
from crawlfleet.engines.contract import Run
from crawlfleet.executors.outcome import Outcome
from crawlfleet.executors.permit import RunPermit
from crawlfleet.model.ending import Ending
from crawlfleet.model.gate import RunCalls
from crawlfleet.model.lifecycle import ENDINGS


@dataclass
class UncommittedEnding:
    """An ending that is not committed yet; its moments are still those of the monotonic clock."""

    ending: Ending
    began_at: float | None
    ended_at: float
    calls: tuple[float, ...] = ()

    def dated(self, reading: ClockReading) -> Ending:
        """The ending with its moments on the database's clock."""
        return replace(
            self.ending,
            started_at=None if self.began_at is None else reading.earliest_date(self.began_at),
            completed_at=reading.earliest_date(self.ended_at),
            calls=[reading.latest_date(seen_at) for seen_at in self.calls],
        )


@dataclass
class SentCalls:
    """By when the vendor saw the calls of a run (monotonic clock), not booked yet; `is_over`: it sends no more."""

    assignment_id: int
    task_id: int
    moments: tuple[float, ...]
    is_over: bool = False

    def dated(self, reading: ClockReading) -> RunCalls:
        """The same on the database's clock."""
        calls = [reading.latest_date(seen_at) for seen_at in self.moments]
        return RunCalls(self.assignment_id, self.task_id, calls, self.is_over)


def ending_of(run: Run, outcome: Outcome) -> Ending:
    """How the gate is told of a body's outcome."""
    return Ending(
        run.assignment_id,
        run.task.id,
        ENDINGS[outcome.kind].written_as or outcome.kind,
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


def close_rows(rows: Any) -> None:
    """Give up the file of a spooled result."""
    close = getattr(rows, "close", None)
    if close is not None:
        close()
