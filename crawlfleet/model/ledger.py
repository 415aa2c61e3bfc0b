"""The ledger of calls: what one transaction holds, books and gives back, and the lanes that open or close with it.

A transaction makes one `Ledger`, uses it, and closes it as its last step. Budgets are locked when they are loaded:
in one order, or, by a claim, only those that nobody else holds. Lanes are locked by `close`, after everything else,
so transactions never wait for each other crosswise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.engine import CursorResult

from crawlfleet.core.db import Database
from crawlfleet.core.sql import MANY_ROWS, json_rows, sql, stamp, utc
from crawlfleet.core.transaction import Answer, AnyConnection, Transaction
from crawlfleet.model import lanes
from crawlfleet.model.budget import BUDGET_COLUMNS, Budget, Call, LimitOf, Window, as_stored, budget_from

Result = Answer | CursorResult[Any]


@dataclass
class LaneBudgets:
    """A lane whose budgets this transaction has locked, narrowest first; `calls` is what each of its tasks needs."""

    id: int
    calls: int
    budgets: list[Budget] = field(default_factory=list)

    def need(self, now: datetime) -> int:
        """Calls that each of its tasks holds: no more than one window allows, or it could never be claimed."""
        return min([self.calls, *(n for n in (each.allowed(now) for each in self.budgets) if n is not None)])

    def room(self, now: datetime, horizon: datetime, most: int, taken: Mapping[int, int]) -> int:
        """How many of its tasks could be claimed, up to `most`, whose calls open until `horizon`.

        `taken` says how many calls of which budget other lanes are about to hold.
        """
        need, found = max(1, self.need(now)), most
        for budget in self.budgets:
            room = budget.room(now, horizon)
            if room is not None:
                found = min(found, (room - taken.get(budget.id, 0)) // need)
        return max(0, found)

    def opens_at(self, now: datetime) -> datetime:
        """When one of its tasks can be claimed, as far as that is known."""
        return max([now, *(self.opening_of(budget, now) for budget in self.budgets)])

    def opening_of(self, budget: Budget, now: datetime) -> datetime:
        """When this one of its budgets has room for a whole task."""
        moment, allowed = budget.next_opening(now), budget.allowed(now)
        if allowed is not None and (in_the_way := len(budget.busy) - (allowed - self.need(now))) > 0:
            moment = max(moment, sorted(call.busy_until for call in budget.busy)[in_the_way - 1])
        return moment


class Ledger:
    """The budgets of one transaction. `limit_of` tells the settings of this node, which prevail over stored limits.

    `lease_ends_at` is the latest moment at which runs that were lost can have sent a call: now, unless it is given.
    One that only looks (`locks` False) needs no transaction, and is never closed.
    """

    def __init__(
        self,
        db: Database,
        connection: AnyConnection,
        now: datetime,
        limit_of: LimitOf = as_stored,
        lease_ends_at: datetime | None = None,
        locks: bool = True,
    ) -> None:
        self.db = db
        self.now = now
        self._lease_ends_at = lease_ends_at or now
        self._connection = connection
        self._limit_of = limit_of
        self._locks = locks
        self._lanes: dict[int, LaneBudgets] = {}
        self._budgets: dict[int, Budget] = {}
        self._before: dict[int, tuple[Any, ...]] = {}
        self._changed: dict[tuple[int, int, int], tuple[int, Call]] = {}
        self._gone: list[tuple[int, int, int]] = []
        self._booked: set[int] = set()
        self._touched: set[int] = set()
        self._postponed: dict[int, datetime] = {}

    def touch(self, lane_ids: Iterable[int]) -> None:
        """Something changed in the queue of these lanes of a source."""
        self._touched.update(lane_ids)

    def touch_account(self, source: str, username: str) -> None:
        """The account was parked or resumed."""
        self._touched.update(lanes.of_account(self._connection, source, username))

    def postpone(self, lane: LaneBudgets) -> None:
        """The lane looks open, but has too little room for a whole task."""
        self._touched.add(lane.id)
        self._postponed[lane.id] = lane.opens_at(self.now)

    # -- loading

    def load(self, lane_ids: Collection[int], skip_locked: bool = False) -> dict[int, LaneBudgets]:
        """These lanes with their budgets, locked; `skip_locked` leaves out lanes of which another holds a budget."""
        if missing := set(lane_ids) - set(self._lanes):
            lock = _lock(self.db, skip_locked) if self._locks else ""
            self.take(_ask(self.db, self._connection, self.db.dialect.rows(id="int"), missing, lock))
        return {each: self._lanes[each] for each in lane_ids if each in self._lanes}

    def take(self, asked: Asked) -> None:
        """Load the lanes that were asked for, but none of which another holds a budget."""
        self._take_budgets(asked.budgets, asked.calls)
        loaded: dict[int, LaneBudgets] = {}
        counts: dict[int, int] = {}
        for lane_id, calls, count, budget_id in asked.lanes:
            lane = loaded.setdefault(lane_id, LaneBudgets(lane_id, calls))
            counts[lane_id] = count
            if budget_id in self._budgets:
                lane.budgets.append(self._budgets[budget_id])
        self._lanes |= {key: lane for key, lane in loaded.items() if len(lane.budgets) == counts[key]}

    def budgets(self, ids: Collection[int]) -> list[Budget]:
        """These budgets by themselves, in the order of their ids."""
        rows = json_rows([each] for each in sorted(ids))
        lock = _lock(self.db) if self._locks else ""
        self._take_budgets(*_ask_budgets(self.db, self._connection, self.db.dialect.rows(id="int"), rows, lock))
        return [self._budgets[each] for each in sorted(ids) if each in self._budgets]

    def _take_budgets(self, budgets: Result, calls: Result) -> None:
        """Those that are here already may have changed since they were read: they stay as they are."""
        new: set[int] = set()
        for row in budgets.mappings():
            if row["id"] in self._budgets:
                continue
            new.add(row["id"])
            budget = self._budgets[row["id"]] = budget_from(row)
            self._before[row["id"]] = tuple(getattr(budget, name) for name in _BUDGET_COLUMNS)
            limit = self._limit_of(budget.source, budget.limit_name)
            if limit is not None:
                budget.calls, budget.seconds = limit
        for budget_id, assignment_id, number, called_at, free_at in calls:
            if budget_id not in new:
                continue
            call = Call(assignment_id, number, utc(called_at), utc(free_at))
            if call.busy_until > self.now:
                self._budgets[budget_id].busy.append(call)
            else:
                self._gone.append((budget_id, assignment_id, number))

    # -- changing

    def hold(self, lane: LaneBudgets, assignment_id: int) -> tuple[Window, ...] | None:
        """Hold the calls of one task; when each may be sent. None where any number may be sent at any time."""
        counted = [each for each in lane.budgets if each.allowed(self.now) is not None]
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
            for call in [each for each in budget.busy if each.assignment_id == assignment_id]:
                if call.number < len(calls):
                    self._mark_sent(budget, call, calls[call.number])
                elif is_over:
                    budget.busy.remove(call)
                    self._booked.add(budget.id)
                    self._changed.pop((budget.id, assignment_id, call.number), None)
                    if not call.is_new:
                        self._gone.append((budget.id, assignment_id, call.number))

    def forfeit(self, lane: LaneBudgets, assignment_id: int) -> None:
        """Nobody can tell whether the run sent its calls: count them as sent as late as it may have sent them."""
        for budget in lane.budgets:
            for call in budget.busy:
                if call.assignment_id == assignment_id and call.called_at is None:
                    self._mark_sent(budget, call, self._lease_ends_at)

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
        named = [each for each in lane.budgets if each.limit_name == limit_name] or lane.budgets
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
        lanes.refresh(self.db, self._connection, self._touched, self.now, self._postponed, concerned)

    def _write_budgets(self) -> set[int]:
        """Store changed budgets; the ids of those that opened, closed, or open at another moment than before."""
        rows: list[tuple[Any, ...]] = []
        moved: set[int] = set()
        for budget in self._budgets.values():
            opens_at = budget.next_opening(self.now)
            if opens_at > self.now or budget.open_at > self.now:  # open before and after is no news
                if opens_at != budget.open_at:
                    moved.add(budget.id)
                budget.open_at = opens_at
            values = tuple(getattr(budget, name) for name in _BUDGET_COLUMNS)
            if values != self._before[budget.id]:
                rows.append((budget.id, *values))
        if rows:
            moment = self.db.dialect.moment("now")
            statement = self.db.dialect.update_from(
                "cl_budget",
                {**{name: f"v.{name}" for name in _BUDGET_COLUMNS}, "updated_at": moment},
                self.db.dialect.rows(id="int", **_BUDGET_COLUMNS),
                "t.id = v.id",
            )
            self._connection.execute(sql(statement), {"rows": json_rows(rows), "now": stamp(self.now)})
        return moved

    def _write_calls(self) -> None:
        columns = {"called_at": "moment", "free_at": "moment"}
        key = {"budget_id": "int", "assignment_id": "int", "number": "int"}
        if self._changed:
            names = ", ".join((*key, *columns))
            insert = (
                f"INSERT INTO cl_budget_call ({names}) SELECT {names} FROM {self.db.dialect.rows(**key, **columns)}"
            )
            if self.db.family == "sqlite":
                insert += " WHERE 1 = 1"
            statement = self.db.dialect.upsert(insert, ", ".join(key), list(columns))
            rows = [(*key_of, call.called_at, call.free_at) for key_of, (_, call) in sorted(self._changed.items())]
            self._connection.execute(sql(statement), {"rows": json_rows(rows)})
        if self._gone:
            match = " AND ".join(f"t.{name} = v.{name}" for name in key)
            statement = self.db.dialect.delete_from("cl_budget_call", self.db.dialect.rows(**key), match)
            self._connection.execute(sql(statement), {"rows": json_rows(sorted(self._gone))})


class Asked(NamedTuple):
    """The answers to a question for lanes and all their budgets, for `Ledger.take`."""

    lanes: Result
    budgets: Result
    calls: Result


def ask_lanes_of_tasks(db: Database, connection: Transaction, task_ids: Collection[int]) -> Asked:
    """Ask for the lanes of these tasks, as far as they have a source, and lock their budgets."""
    tasks = f"{db.dialect.rows(id='int')} JOIN cl_crawl_task t ON t.id = v.id WHERE t.source IS NOT NULL"
    return _ask(db, connection, f"(SELECT DISTINCT t.lane_id AS id FROM {tasks}) AS v", task_ids, _lock(db))


def _ask(db: Database, connection: AnyConnection, wanted: str, ids: Collection[int], lock: str) -> Asked:
    """Ask for lanes; `wanted` is a table expression `v` of their ids that is made from these ids."""
    rows = json_rows([each] for each in sorted(ids))
    links = f"{wanted} JOIN cl_lane l ON l.id = v.id LEFT JOIN cl_lane_budget lb ON lb.lane_id = l.id"
    columns = "l.id, l.calls, l.budget_count, lb.budget_id"
    lanes_of = sql(f"SELECT {columns} FROM {links} ORDER BY l.id, lb.position")
    found = connection.execute(lanes_of, {"rows": rows})
    # in one order everywhere, which MariaDB only keeps with a LIMIT: two transactions must not lock crosswise
    order = f"ORDER BY lb.budget_id LIMIT {MANY_ROWS}"
    ids_of = f"SELECT DISTINCT lb.budget_id AS id FROM {wanted} JOIN cl_lane_budget lb ON lb.lane_id = v.id {order}"
    return Asked(found, *_ask_budgets(db, connection, f"({ids_of}) AS v", rows, lock))


def _ask_budgets(db: Database, connection: AnyConnection, wanted: str, rows: str, lock: str) -> tuple[Result, Result]:
    """Ask for budgets and their calls; `wanted` is a table expression `v` of their ids, in order, made from `rows`."""
    join = f"{db.dialect.by_key(wanted, 'cl_budget')} ON t.id = v.id"
    budgets = connection.execute(sql(f"SELECT {BUDGET_COLUMNS} FROM {join} ORDER BY t.id{lock}"), {"rows": rows})
    # A statement of its own: it sees what was committed before the lock was ours.
    columns = "t.budget_id, t.assignment_id, t.number, t.called_at, t.free_at"
    calls = sql(f"SELECT {columns} FROM {wanted} JOIN cl_budget_call t ON t.budget_id = v.id")
    return budgets, connection.execute(calls, {"rows": rows})


def _lock(db: Database, skip_locked: bool = False) -> str:
    return db.dialect.for_update_of_t + (db.dialect.skip_locked if skip_locked else "")


_BUDGET_COLUMNS = {
    "calls": "int",
    "seconds": "real",
    "learned_calls": "int",
    "learned_until": "moment",
    "refusals": "int",
    "closed_until": "moment",
    "closed_reason": "text",
    "open_at": "moment",
}
