"""What runs leave that is not committed yet; its moments are still those of this machine's monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

from crawlfleet.core.clock import ClockReading
from crawlfleet.core.database_errors import VALUE_ERRORS, condemns
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.engines.contract import Run
from crawlfleet.executors.permit import RunPermit
from crawlfleet.model.ending import Ending, Outcome, result_refused
from crawlfleet.model.gate import RunCalls
from crawlfleet.model.lifecycle import ENDINGS


@dataclass(slots=True)
class UncommittedEnding:
    """How a run ended, when, and by when the vendor has seen each of its calls."""

    run: Run
    outcome: Outcome
    ended_at: float
    calls: tuple[float, ...]
    condemned: bool = False  # the database did not take its result

    @property
    def seconds(self) -> float:
        """How long its body ran, 0 when none did."""
        return self.ended_at - (self.run.began_at or self.ended_at)

    def undated(self) -> Ending:
        """What the gate is told of it, made anew each time; `date` adds the moments."""
        counts = self.run.fetch_counts
        return Ending(self.run.assignment_id, self.run.task.id, self.outcome, fetch_counts=counts)

    def date(self, ending: Ending, reading: ClockReading) -> None:
        """Set the moments, on the database's clock."""
        began_at = self.run.began_at
        ending.started_at = None if began_at is None else reading.earliest_date(began_at)
        ending.completed_at = reading.earliest_date(self.ended_at)
        ending.calls = [reading.latest_date(seen_at) for seen_at in self.calls]

    def refused(self, error: Exception, family: str) -> UncommittedEnding:
        """The same run as a failure: the database does not take its result.

        It may later, when the database refused it for a reason that nobody knows.
        """
        is_known = isinstance(error, DatabaseUnreachable) or condemns(family, error)
        kind = EndingKind.PERMANENT if is_known else EndingKind.TRANSIENT
        return replace(self, outcome=Outcome(kind, result_refused(error)), condemned=True)


@dataclass(slots=True)
class SentCalls:
    """By when the vendor saw the calls of a run, not booked yet; `is_over`: it sends no more."""

    assignment_id: int  # not the run: its permit makes these, and would be a cycle with it
    task_id: int
    moments: tuple[float, ...]
    is_over: bool = False

    def dated(self, reading: ClockReading) -> RunCalls:
        """The same on the database's clock."""
        calls = [reading.latest_date(seen_at) for seen_at in self.moments]
        return RunCalls(self.assignment_id, self.task_id, calls, self.is_over)


@dataclass(frozen=True, slots=True)
class Writes:
    """What one turn is to write: endings, that bodies began, and calls.

    `sourced` are the ids of the tasks of endings and calls that have a source, and so budgets.
    """

    endings: tuple[UncommittedEnding, ...]
    started: tuple[Run, ...]
    calls: tuple[SentCalls, ...]
    sourced: frozenset[int]

    def __bool__(self) -> bool:
        return bool(self.endings or self.started or self.calls)


class Outbox:
    """Endings and calls that wait for the next turn.

    `one_by_one`: the database refused a turn, so each of the next ones has one ending, until the culprit is found.
    """

    def __init__(self) -> None:
        self.endings: list[UncommittedEnding] = []
        self.calls: list[SentCalls] = []
        self.one_by_one = False

    def __bool__(self) -> bool:
        return bool(self.endings or self.calls)

    def batch(self) -> tuple[UncommittedEnding, ...]:
        """The endings of the next turn."""
        return tuple(self.endings[:1] if self.one_by_one else self.endings)

    def committed(self, writes: Writes) -> None:
        """A turn with these, the oldest, is committed."""
        del self.endings[: len(writes.endings)]
        del self.calls[: len(writes.calls)]
        self.one_by_one = self.one_by_one and bool(self.endings)

    def take_heavy(self) -> list[UncommittedEnding]:
        """Take out the endings that bring figures or tasks: they are most likely what a turn failed for."""
        heavy = [each for each in self.endings if each.undated().writes_data]
        self.endings = [each for each in self.endings if not each.undated().writes_data]
        return heavy

    def take_hopeless(self, writes: Writes, error: Exception) -> UncommittedEnding | None:
        """Take out the only ending of a turn, not even whose failure can be written, if the database never saw it."""
        batch = writes.endings
        if not (self.one_by_one and batch and batch[0].condemned and isinstance(error, VALUE_ERRORS)):
            return None
        self.one_by_one = len(self.endings) > 1
        return self.endings.pop(0)

    def find_culprit(self, writes: Writes, error: Exception, family: str) -> bool:
        """The database refused a turn, not because it is away: one ending may be what it cannot take.

        Of several each is tried alone, one alone becomes a failure. True when others are to be tried; raises the error
        when no ending is to blame.
        """
        batch = writes.endings
        if not batch or (self.one_by_one and batch[0].condemned):
            raise error
        are_many = not self.one_by_one
        if not are_many:
            batch[0].outcome.close()
            self.endings[0] = batch[0].refused(error, family)
        self.one_by_one = True
        return are_many


def ending_of(run: Run, outcome: Outcome, ended_at: float) -> UncommittedEnding:
    """The ending of a run by its outcome; it sends no call after this."""
    outcome.kind = ENDINGS[outcome.kind].written_as or outcome.kind
    permit = run.context.permit
    calls = permit.revoke() if isinstance(permit, RunPermit) else ()
    return UncommittedEnding(run, outcome, ended_at, calls)
