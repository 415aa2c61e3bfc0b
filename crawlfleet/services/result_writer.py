"""ResultWriter: the second writer of a node, for results that are too large for a turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from crawlfleet.core.db import Database
from crawlfleet.core.service import Service
from crawlfleet.core.transaction import Transaction
from crawlfleet.model.gate import Ended, end_runs
from crawlfleet.model.ledger import Ledger
from crawlfleet.services.scheduler_options import SchedulerOptions
from crawlfleet.services.uncommitted import UncommittedEnding


class ResultWriter(Service):
    """Commits large results, each in a transaction of its own, so that they hold up neither the pump nor a beat."""

    def __init__(
        self, db: Database, options: SchedulerOptions, report: Callable[[UncommittedEnding, Ended], None]
    ) -> None:
        super().__init__("result_writer", 5.0)
        self.db = db
        self._options = options
        self._report = report
        self._queue: deque[UncommittedEnding] = deque()

    @property
    def pending(self) -> int:
        """How many are on their way."""
        return len(self._queue)

    def put(self, ending: UncommittedEnding) -> None:
        """Commit it soon; `report` is called then."""
        self._queue.append(ending)
        self.wake()

    def next_wait(self) -> float:
        return 0.0 if self._queue else self.interval

    def run_once(self) -> int:
        """Commit the oldest result; how many are left."""
        if self._queue:
            ending = self._queue[0]
            try:
                ended = self._write(ending)
            except (SQLAlchemyError, ValueError) as error:  # ValueError: text that is no UTF-8
                ended = self._write(ending.refused(error))
            self._queue.popleft()
            self._report(ending, ended)
        return len(self._queue)

    def _write(self, uncommitted: UncommittedEnding) -> Ended:
        def work(transaction: Transaction) -> Ended:
            ledger = Ledger(transaction, self._options.limit_of)
            ending = uncommitted.undated()
            uncommitted.date(ending, transaction.reading)
            [ended] = end_runs(ledger, [ending], self._options.retry, self._options.defaults)
            ledger.close()
            return ended

        return self.db.write(work)
