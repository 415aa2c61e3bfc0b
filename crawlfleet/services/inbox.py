"""What engines and other services tell a scheduler between two passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from crawlfleet.engines.contract import Run
from crawlfleet.model.ending import Outcome
from crawlfleet.model.gate import Ended
from crawlfleet.services.uncommitted import SentCalls, UncommittedEnding


class Inbox:
    """Any thread may put something in; the scheduler's thread takes it out, and `wake` makes that soon.

    `reports` are of engines: a run and its outcome, None when its body began. `calls` were sent by runs, `written` was
    committed by the ResultWriter. `news`: the queue changed, so no look need come first. `reconcile`: what is in memory
    is to be compared with the database.
    """

    def __init__(self) -> None:
        self.reports: deque[tuple[Run, Outcome | None]] = deque()
        self.calls: deque[SentCalls] = deque()
        self.written: deque[tuple[UncommittedEnding, Ended]] = deque()
        self.news = False
        self.reconcile = False
        self.wake: Callable[[], None] = lambda: None  # the scheduler's, once there is one

    def run_began(self, run: Run) -> None:
        """A body began; recorded with the next turn, which this does not hasten."""
        self.reports.append((run, None))

    def run_ended(self, run: Run, outcome: Outcome) -> None:
        """A body ended; committed with the next turn."""
        self.reports.append((run, outcome))
        self.wake()

    def run_called(self, calls: SentCalls) -> None:
        """A call was answered; booked with the next turn."""
        self.calls.append(calls)
        self.wake()

    def result_written(self, ending: UncommittedEnding, ended: Ended) -> None:
        """A large result is committed."""
        self.written.append((ending, ended))
        self.wake()

    def queue_changed(self, surely: bool) -> None:
        """The watcher noticed it; `surely` when it was the queue, and not any commit."""
        self.news = surely
        self.wake()

    def request_reconcile(self) -> None:
        """Compare what is held here with what the database says, in the next turn."""
        self.reconcile = True
        self.wake()
