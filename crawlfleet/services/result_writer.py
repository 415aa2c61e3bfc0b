"""ResultWriter: the second writer of a node, for results that are too large for a turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from crawlfleet.core.db import Database
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.service import Service
from crawlfleet.core.transaction import Transaction
from crawlfleet.model.budget import LimitOf
from crawlfleet.model.ending import Ending
from crawlfleet.model.gate import Ended, RetryPolicy, end_runs
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.services.uncommitted import UncommittedEnding


class ResultWriter(Service):
    """Commits large results, each in a transaction of its own, so that they hold up neither the pump nor a beat."""

    def __init__(
        self,
        db: Database,
        retry: RetryPolicy,
        defaults: TaskDefaults,
        limit_of: LimitOf,
        report: Callable[[UncommittedEnding, Ended], None],
    ) -> None:
        super().__init__("result_writer", 5.0)
        self.db = db
        self._retry = retry
        self._defaults = defaults
        self._limit_of = limit_of
        self._report = report
        self._queue: deque[UncommittedEnding] = deque()

    @property
    def pending(self) -> int:
        """How many are on their way."""
        return len(self._queue)

    def put(self, decided: UncommittedEnding) -> None:
        """Commit it soon; `report` is called then."""
        self._queue.append(decided)
        self.wake()

    def next_wait(self) -> float:
        return 0.0 if self._queue else self.interval

    def run_once(self) -> int:
        """Commit the oldest result; how many are left."""
        if self._queue:
            decided = self._queue[0]
            try:
                ended = self._write(decided)
            except (SQLAlchemyError, ValueError) as error:
                message = (
                    f"the database refused the result: {' '.join(str(getattr(error, 'orig', error)).split())[:300]}"
                )
                key, task_id = decided.ending.assignment_id, decided.ending.task_id
                bare = Ending(key, task_id, EndingKind.PERMANENT, message=message)
                ended = self._write(replace(decided, ending=bare))
            self._queue.popleft()
            self._report(decided, ended)
        return len(self._queue)

    def _write(self, decided: UncommittedEnding) -> Ended:
        def work(transaction: Transaction) -> Ended:
            ledger = Ledger(transaction, self._limit_of)
            ending = decided.dated(transaction.reading)
            [ended] = end_runs(ledger, [ending], self._retry, self._defaults)
            ledger.close()
            return ended

        return self.db.write(work)
