"""ResultWriter: the second writer of a node, for results that are too large for a turn or that failed one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sqlalchemy.exc import SQLAlchemyError

from crawlfleet.core.backoff import Backoff
from crawlfleet.core.database_errors import VALUE_ERRORS, Trouble, condemns
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.service import Service
from crawlfleet.core.transaction import Transaction
from crawlfleet.core.vendor_data import ReportRange
from crawlfleet.model.gate import Ended, end_runs
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.staged_figures import StagedFigures
from crawlfleet.services import log_lines
from crawlfleet.services.scheduler_options import SchedulerOptions
from crawlfleet.services.uncommitted import UncommittedEnding

# Tries after which a result fails: each broke its connection while another one lived, or the database refused it for a
# reason that is in no table of ours. What is the server's trouble waits for as long as that lasts.
MOST_TRIES = {Trouble.BROKEN: 6, Trouble.UNKNOWN: 8}


@dataclass(slots=True, eq=False)
class _Waiting:
    ending: UncommittedEnding
    not_before: float = 0.0  # monotonic; of the next try
    failed_at: float | None = None  # the first time
    tries: int = 0  # that failed in a way which is counted
    pauses: Backoff = field(default_factory=Backoff)


class ResultWriter(Service):
    """Commits results, each in a transaction of its own, so that they hold up neither the pump nor a beat.

    One that the server cannot take now waits and is tried again, while others pass it. One that breaks its connection
    each time while another one lives fails.
    """

    def __init__(
        self, db: Database, options: SchedulerOptions, report: Callable[[UncommittedEnding, Ended], None]
    ) -> None:
        super().__init__("result_writer", 5.0)
        self.db = db
        self._options = options
        self._report = report
        self._queue: deque[_Waiting] = deque()

    @property
    def pending(self) -> int:
        """How many are on their way."""
        return len(self._queue)

    @property
    def failing_since(self) -> float | None:
        """Since when (monotonic) the database does not take one of the results; None when it takes all."""
        return min((each.failed_at for each in list(self._queue) if each.failed_at is not None), default=None)

    def put(self, ending: UncommittedEnding) -> None:
        """Commit it soon; `report` is called then."""
        self._queue.append(_Waiting(ending))
        self.wake()

    def next_wait(self) -> float:
        waiting = list(self._queue)
        if not waiting:
            return self.interval
        return max(0.0, min(each.not_before for each in waiting) - self.db.clock.monotonic())

    def run_once(self) -> int:
        """Commit the result that may be tried since longest; how many are left."""
        waiting = min(list(self._queue), key=lambda each: each.not_before, default=None)
        if waiting is not None and waiting.not_before <= self.db.clock.monotonic():
            ended = self._try(waiting)
            if ended is not None:
                self._queue.remove(waiting)
                self._report(waiting.ending, ended)
        return len(self._queue)

    def _try(self, waiting: _Waiting) -> Ended | None:
        """What came of it, None when it has to wait."""
        error: Exception
        try:
            if waiting.failed_at is None:
                return self._write(waiting.ending)
            with self.db.read() as witness:
                witness.ask_clock().read()
                try:
                    return self._write(waiting.ending)
                except DatabaseUnreachable as broken:
                    if broken.trouble is Trouble.BROKEN:
                        witness.ask_clock().read()  # raises, too, when it was not this statement that broke it
                        waiting.tries += 1
                    raise
        except DatabaseUnreachable as unreachable:
            if unreachable.trouble is None:  # no connection, which the scheduler tells
                waiting.not_before = self.db.clock.monotonic() + waiting.pauses.next()
                return None
            error, trouble = unreachable, unreachable.trouble
        except (SQLAlchemyError, *VALUE_ERRORS) as refused:
            if condemns(self.db.family, refused):
                return self._fail(waiting, refused)
            error, trouble = refused, Trouble.UNKNOWN
            waiting.tries += 1
        here = self.db.clock.monotonic()
        if waiting.failed_at is None:
            waiting.failed_at = here
            log_lines.result_waits(waiting.ending.run, error)
        if waiting.tries >= MOST_TRIES.get(trouble, waiting.tries + 1):
            return self._fail(waiting, error)
        waiting.not_before = here + waiting.pauses.next()
        return None

    def _fail(self, waiting: _Waiting, error: Exception) -> Ended:
        waiting.ending.outcome.close()
        waiting.ending = waiting.ending.refused(error, self.db.family)
        return self._write(waiting.ending)

    def _write(self, uncommitted: UncommittedEnding) -> Ended:
        def work(transaction: Transaction) -> Ended:
            ending = uncommitted.undated()
            outcome = ending.outcome
            if self.db.family == "sqlite" and outcome.is_spooled and isinstance(outcome.replaces, ReportRange):
                ending.outcome = replace(outcome, rows=StagedFigures(transaction, outcome.rows))
            ledger = Ledger(transaction, self._options.limit_of)
            uncommitted.date(ending, transaction.reading)
            [ended] = end_runs(ledger, [ending], self._options.retry, self._options.defaults)
            ledger.close()
            return ended

        return self.db.write(work)
