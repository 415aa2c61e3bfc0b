"""The ledger of calls: what one transaction holds, books and gives back, and the lanes that open or close with it.

A transaction makes one `Ledger`, uses it, and closes it as its last step. Budgets are locked when they are loaded:
in one order, or, by a claim, only those that nobody else holds. Lanes are locked by `close`, after everything else,
so transactions never wait for each other crosswise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from crawlfleet.core.sql import json_rows, sql, stamp
from crawlfleet.core.transaction import Transaction
from crawlfleet.model import lanes
from crawlfleet.model.budget import Budget, Call, LimitOf, Window, as_stored
from crawlfleet.model.lane_budgets import CHANGING_COLUMNS, LaneBudgetReader, LaneBudgets, columns_of, lock_of


class Ledger(LaneBudgetReader):
    """The budgets of one transaction, locked as they are loaded.

    `lease_ends_at` is the latest moment at which runs that were lost can have sent a call: now, unless it is given.
    """

    def __init__(
        self, transaction: Transaction, limit_of: LimitOf = as_stored, lease_ends_at: datetime | None = None
    ) -> None:
        super().__init__(transaction, limit_of)
        self.transaction = transaction
        self._lease_ends_at = lease_ends_at
        self._changed: dict[tuple[int, int, int], tuple[int, Call]] = {}
        self._booked: set[int] = set()
        self._touched: set[int] = set()
        self._postponed: dict[int, datetime] = {}

    def _lock(self, skip_locked: bool = False) -> str:
        return lock_of(self.transaction.dialect, skip_locked)

    def touch(self, lane_ids: Iterable[int]) -> None:
        """Something changed in the queue of these lanes of a source."""
        self._touched.update(lane_ids)

    def touch_account(self, source: str, username: str) -> None:
        """The account was parked or resumed."""
        self._touched.update(lanes.of_account(self.transaction, source, username))

    def postpone(self, lane: LaneBudgets) -> None:
        """The lane looks open, but has too little room for a whole task."""
        self._touched.add(lane.id)
        self._postponed[lane.id] = lane.opens_at(self.now)

    def hold(self, lane: LaneBudgets, assignment_id: int) -> tuple[Window, ...] | None:
        """Hold the calls of one task; when each may be sent. None where any number may be sent at any time."""
        counted = [budget for budget in lane.budgets if budget.allowed(self.now) is not None]
        if not counted and lane.calls:
            return None
        windows = []
        for number in range(lane.need(self.now)):
            window = Window(self.now)
            for budget in counted:
                window = window.within(budget.hold(assignment_id, number, self.now))
                self._note(budget, budget.busy[-1])
            windows.append(window)
        return tuple(windows)

    def book(self, lane: LaneBudgets, assignment_id: int, calls: Sequence[datetime], is_over: bool) -> None:
        """The vendor saw these calls of a run by these moments; when it is over, the others never will be sent."""
        for budget in lane.budgets:
            held = [call for call in budget.busy if call.assignment_id == assignment_id]
            for call in [*held, *self._late(budget, assignment_id, calls, held)]:
                if call.number < len(calls):
                    self._mark_sent(budget, call, calls[call.number])
                elif is_over:
                    budget.busy.remove(call)
                    self._booked.add(budget.id)
                    self._changed.pop((budget.id, assignment_id, call.number), None)
                    if not call.is_new:
                        self._gone.append((budget.id, assignment_id, call.number))

    def forfeit(self, lane: LaneBudgets, assignment_id: int) -> None:
        """Nobody can tell whether the run sent its calls: count them as late as the vendor may have seen them."""
        for budget in lane.budgets:
            for call in budget.busy:
                if call.assignment_id == assignment_id and call.called_at is None:
                    sent_by = self._lease_ends_at or self.now
                    self._mark_sent(budget, call, sent_by + timedelta(seconds=budget.way_seconds))

    def _late(self, budget: Budget, assignment_id: int, calls: Sequence[datetime], held: Sequence[Call]) -> list[Call]:
        """Calls of a run that count anew: its lease ended, they came free, and the vendor saw them later than that."""
        if budget.allowed(self.now) is None:
            return []
        missing = set(range(len(calls))) - {each.number for each in held}
        late = [Call(assignment_id, n) for n in sorted(missing) if budget.free_after(calls[n]) > self.now]
        budget.busy += late
        return late

    def _mark_sent(self, budget: Budget, call: Call, moment: datetime) -> None:
        call.called_at, call.free_at = moment, budget.free_after(moment)
        self._booked.add(budget.id)
        self._note(budget, call)

    def _note(self, budget: Budget, call: Call) -> None:
        key = (budget.id, call.assignment_id, call.number)
        self._changed[key] = (budget.id, call)
        if key in self._gone:  # given back and held anew
            self._gone.remove(key)

    def refuse(
        self, lane: LaneBudgets, limit_name: str | None, reason: str, retry_after: float | None, daily: bool
    ) -> datetime | None:
        """The vendor refused a call: teach the budget of that limit, or the narrowest. Until when it is closed.

        None when the lane has no budget to close.
        """
        named = [budget for budget in lane.budgets if budget.limit_name == limit_name] or lane.budgets
        if not named:
            return None
        named[0].refuse(self.now, reason, retry_after, daily)
        return named[0].closed_until

    def praise(self, lane: LaneBudgets) -> None:
        """The vendor answered: its refusals no longer stand in a row."""
        for budget in lane.budgets:
            budget.refusals = 0

    # -- writing back

    def close(self) -> None:
        """Write what changed and compute the state of all lanes that it concerns. The transaction's last step."""
        moved = self._write_budgets()
        self._write_calls()
        # A booked call of a budget that was open, and is, only matters to lanes whose tasks need several at once.
        concerned = {**dict.fromkeys(self._booked, 1), **dict.fromkeys(moved, -1)}
        lanes.refresh(self.transaction, self._touched, self._postponed, concerned)

    def _write_budgets(self) -> set[int]:
        """Store changed budgets; the ids of those that opened, closed, or open at another moment than before."""
        dialect = self.transaction.dialect
        rows: list[tuple[Any, ...]] = []
        moved: set[int] = set()
        for budget in self._budgets.values():
            opens_at = budget.next_opening(self.now)
            if opens_at > self.now or budget.open_at > self.now:  # open before and after is no news
                if opens_at != budget.open_at:
                    moved.add(budget.id)
                budget.open_at = opens_at
            values = columns_of(budget)
            if values != self._stored[budget.id]:
                rows.append((budget.id, *values))
        if rows:
            moment = dialect.moment("now")
            statement = dialect.update_from(
                "cl_budget",
                {**{name: f"v.{name}" for name in CHANGING_COLUMNS}, "updated_at": moment},
                dialect.rows(id="int", **CHANGING_COLUMNS),
                "t.id = v.id",
            )
            self.transaction.execute(sql(statement), {"rows": json_rows(rows), "now": stamp(self.now)})
        return moved

    def _write_calls(self) -> None:
        dialect = self.transaction.dialect
        columns = {"called_at": "moment", "free_at": "moment"}
        key = {"budget_id": "int", "assignment_id": "int", "number": "int"}
        if self._changed:
            names = ", ".join((*key, *columns))
            insert = f"INSERT INTO cl_budget_call ({names}) SELECT {names} FROM {dialect.rows(**key, **columns)}"
            statement = dialect.upsert(insert, ", ".join(key), list(columns))
            rows = [(*key_of, call.called_at, call.free_at) for key_of, (_, call) in sorted(self._changed.items())]
            self.transaction.execute(sql(statement), {"rows": json_rows(rows)})
        if self._gone:
            match = " AND ".join(f"t.{name} = v.{name}" for name in key)
            statement = dialect.delete_from("cl_budget_call", dialect.rows(**key), match)
            self.transaction.execute(sql(statement), {"rows": json_rows(sorted(self._gone))})
