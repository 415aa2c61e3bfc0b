"""Asking a vendor by hand, from outside any run: such calls take part in the account's budgets like all others."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from crawlfleet.core.account import Account
from crawlfleet.core.clock import ClockReading
from crawlfleet.core.db import Database
from crawlfleet.core.errors import CallRefused, CrawlfleetError, QuotaError
from crawlfleet.core.transaction import Transaction
from crawlfleet.executors.permit import RunPermit, SendWindow
from crawlfleet.insights.budgets import budget_facts, budget_name, calls_used
from crawlfleet.model import fleet_state, lanes
from crawlfleet.model.budget import MAX_CALLS, Window
from crawlfleet.model.claims import AssignmentIds
from crawlfleet.model.lane_budgets import LaneBudgets
from crawlfleet.model.lanes import Lane
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.planning.tariff import Tariff

SEND_SECONDS = 30.0  # a call that was not sent so long after it was held is sent no more


def count_apps(db: Database, tariff: Tariff, account: Account, when: Callable[[datetime], str]) -> int:
    """How many apps the vendor lists for the account.

    Raises CrawlfleetError while its budgets have no room, with the moment until when (written by `when`); else what
    `Source.list_apps` raises. A list of more pages than usual is asked for again with as many calls as it needs.
    """
    check = _Check(db, tariff, account, when)
    lane = lanes.lane_of(TaskSpec("user_apps", source=account.source, username=account.username), tariff.cost_of)
    while True:
        try:
            return check.ask(lane)
        except CallRefused as error:
            wanted = error.calls_wanted or 0
            if not lane.cost.calls < wanted <= MAX_CALLS:
                raise
            lane = lane._replace(cost=lane.cost._replace(calls=wanted))


class _Check:
    def __init__(self, db: Database, tariff: Tariff, account: Account, when: Callable[[datetime], str]) -> None:
        self.db, self.tariff, self.account, self.when = db, tariff, account, when

    def ask(self, lane: Lane) -> int:
        """One list of apps with the calls of this lane, which are booked whatever comes of it."""
        lane_id, assignment_id, reading, windows = self.db.write(lambda transaction: self._hold(transaction, lane))
        clock = self.db.clock
        permit = RunPermit(_send_windows(windows, reading), lambda: math.inf, lambda _seen: None, clock)
        error: BaseException | None = None
        try:
            source = self.tariff.source(self.account.source)
            return len(list(source.list_apps(self.account, _Caller(permit))))
        except BaseException as raised:  # Ctrl-C is no praise for the budget, either
            error = raised
            raise
        finally:
            sent = permit.revoke()
            self.db.write(lambda connection: self._book(connection, lane_id, assignment_id, sent, error))

    def _hold(self, transaction: Transaction, lane: Lane) -> tuple[int, int, ClockReading, tuple[Window, ...] | None]:
        """Hold the calls under a number that no run has, and book them at once as sent as late as they may be: when
        this process dies, they come free by themselves."""
        [assignment_id] = AssignmentIds(fleet_state.next_epoch(transaction).read()).take(1)
        now = transaction.now
        ledger = Ledger(transaction, self.tariff.limit_of)
        [lane_id] = lanes.ensure_lanes(transaction, {lane}).read().values()
        budgets = ledger.load([lane_id])[lane_id]
        if budgets.room(now, now, 1, {}) == 0:
            raise CrawlfleetError(self._no_room(budgets, now))
        windows = ledger.hold(budgets, assignment_id)
        latest = [now + timedelta(seconds=SEND_SECONDS + window.way_seconds) for window in windows or ()]
        ledger.book(budgets, assignment_id, latest, is_over=False)
        ledger.close()
        return lane_id, assignment_id, transaction.reading, windows

    def _no_room(self, lane: LaneBudgets, now: datetime) -> str:
        opening, budget = max(((lane.opening_of(each, now), each) for each in lane.budgets), key=lambda pair: pair[0])
        facts = budget_facts(budget, now, opening)
        until = "a running task gives calls back" if facts["opens_at"] is None else self.when(opening)
        why = facts["reason"] or calls_used(facts)
        return f"{budget_name(facts)} has no room for a test until {until}: {why}"

    def _book(
        self,
        transaction: Transaction,
        lane_id: int,
        assignment_id: int,
        sent: tuple[float, ...],
        error: BaseException | None,
    ) -> None:
        ledger = Ledger(transaction, self.tariff.limit_of)
        budgets = ledger.load([lane_id])[lane_id]
        moments = [transaction.reading.latest_date(each) for each in sent]
        ledger.book(budgets, assignment_id, moments, is_over=True)
        if error is None:
            ledger.praise(budgets)
        elif isinstance(error, QuotaError):
            ledger.refuse(budgets, error.scope, str(error), error.retry_after, error.daily)
        ledger.close()


def _send_windows(windows: tuple[Window, ...] | None, reading: ClockReading) -> list[SendWindow] | None:
    """The windows on the monotonic clock, on the safe side; there was room at once."""
    if windows is None:
        return None
    give_up_at = reading.asked_at + SEND_SECONDS
    return [
        (reading.asked_at, min(give_up_at, reading.surely_before(each.not_after)), each.way_seconds) for each in windows
    ]


class _Caller:
    """The context of calls that nobody cancels but Ctrl-C."""

    def __init__(self, permit: RunPermit) -> None:
        self._permit = permit
        self._never = threading.Event()

    def check(self) -> None:
        """Go on."""

    def before_call(self) -> None:
        """Count the call; raises CallRefused for one that is not held."""
        self._permit.take(self._never)

    def after_answer(self) -> None:
        """The vendor has seen it."""
        self._permit.answered()

    def remark(self, name: str, text: str) -> None:
        """The task that syncs the apps will tell."""
