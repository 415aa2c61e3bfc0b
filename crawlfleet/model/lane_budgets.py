"""Lanes with their budgets, read together: what a claim, a forecast and an explanation go by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from crawlfleet.core.sql import MANY_ROWS, SqlDialect, json_rows, sql, utc
from crawlfleet.core.transaction import Result, Statements, Transaction
from crawlfleet.model.budget import BUDGET_COLUMNS, Budget, Call, LimitOf, as_stored, budget_from


@dataclass
class LaneBudgets:
    """A lane whose budgets this transaction has locked, narrowest first; `calls` is what each of its tasks needs."""

    id: int
    calls: int
    budgets: list[Budget] = field(default_factory=list)

    def need(self, now: datetime) -> int:
        """Calls that each of its tasks holds: no more than one window allows, or it could never be claimed."""
        return min([self.calls, *(n for n in (budget.allowed(now) for budget in self.budgets) if n is not None)])

    def room(self, now: datetime, horizon: datetime, most: int, taken: Mapping[int, int]) -> int:
        """How many of its tasks could be claimed, up to `most`, whose calls open until `horizon`.

        `taken` says how many calls of which budget other lanes are about to hold.
        """
        need, count = max(1, self.need(now)), most
        for budget in self.budgets:
            room = budget.room(now, horizon)
            if room is not None:
                count = min(count, (room - taken.get(budget.id, 0)) // need)
        return max(0, count)

    def opens_at(self, now: datetime) -> datetime:
        """When one of its tasks can be claimed, as far as that is known."""
        return max([now, *(self.opening_of(budget, now) for budget in self.budgets)])

    def opening_of(self, budget: Budget, now: datetime) -> datetime:
        """When this one of its budgets has room for a whole task."""
        moment, allowed = budget.next_opening(now), budget.allowed(now)
        if allowed is not None and (in_the_way := len(budget.busy) - (allowed - self.need(now))) > 0:
            moment = max(moment, sorted(call.busy_until for call in budget.busy)[in_the_way - 1])
        return moment


class LaneBudgetReader:
    """Lanes and their budgets as they are. `limit_of` tells this node's settings, which prevail over stored limits."""

    def __init__(self, reader: Statements, limit_of: LimitOf = as_stored) -> None:
        self.reader = reader
        self._limit_of = limit_of
        self._lanes: dict[int, LaneBudgets] = {}
        self._budgets: dict[int, Budget] = {}
        self._stored: dict[int, tuple[Any, ...]] = {}  # the budgets' columns as they were read
        self._gone: list[tuple[int, int, int]] = []  # stored calls that count no longer

    @property
    def now(self) -> datetime:
        """The moment at which they are looked at, by the database's clock."""
        return self.reader.now

    def _lock(self, skip_locked: bool = False) -> str:
        """How a budget's row is locked: not at all by one that only looks."""
        return ""

    def load(self, lane_ids: Collection[int], skip_locked: bool = False) -> dict[int, LaneBudgets]:
        """These lanes with their budgets; `skip_locked` leaves out those of which another holds a budget."""
        if missing := set(lane_ids) - set(self._lanes):
            self.take(_ask(self.reader, self.reader.dialect.rows(id="int"), missing, self._lock(skip_locked)))
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
        wanted = self.reader.dialect.rows(id="int")
        self._take_budgets(*_ask_budgets(self.reader, wanted, rows, self._lock()))
        return [self._budgets[each] for each in sorted(ids) if each in self._budgets]

    def _take_budgets(self, budgets: Result, calls: Result) -> None:
        """Those that are here already may have changed since they were read: they stay as they are."""
        new: set[int] = set()
        for row in budgets.mappings():
            if row["id"] in self._budgets:
                continue
            new.add(row["id"])
            budget = self._budgets[row["id"]] = budget_from(row)
            self._stored[row["id"]] = columns_of(budget)
            limit = self._limit_of(budget.source, budget.limit_name)
            if limit is not None:
                budget.calls, budget.seconds = limit
        for budget_id, assignment_id, number, called_at, free_at in calls:
            if budget_id not in new:
                continue
            call, budget = Call(assignment_id, number, utc(called_at), utc(free_at)), self._budgets[budget_id]
            if call.busy_until > self.now:
                budget.busy.append(call)
            elif not budget.is_daily and call.busy_until + timedelta(seconds=budget.seconds) > self.now:
                budget.recent.append(call)
            else:
                self._gone.append((budget_id, assignment_id, number))


class Asked(NamedTuple):
    """The answers to a question for lanes and all their budgets, for `Ledger.take`."""

    lanes: Result
    budgets: Result
    calls: Result


def ask_lanes_of_tasks(transaction: Transaction, task_ids: Collection[int]) -> Asked:
    """Ask for the lanes of these tasks, as far as they have a source, and lock their budgets."""
    tasks = f"{transaction.dialect.rows(id='int')} JOIN cl_crawl_task t ON t.id = v.id WHERE t.source IS NOT NULL"
    return _ask(
        transaction, f"(SELECT DISTINCT t.lane_id AS id FROM {tasks}) AS v", task_ids, lock_of(transaction.dialect)
    )


def _ask(reader: Statements, wanted: str, ids: Collection[int], lock: str) -> Asked:
    """Ask for lanes; `wanted` is a table expression `v` of their ids that is made from these ids."""
    rows = json_rows([each] for each in sorted(ids))
    links = f"{wanted} JOIN cl_lane l ON l.id = v.id LEFT JOIN cl_lane_budget lb ON lb.lane_id = l.id"
    columns = "l.id, l.calls, l.budget_count, lb.budget_id"
    lanes_of = sql(f"SELECT {columns} FROM {links} ORDER BY l.id, lb.position")
    reply = reader.execute(lanes_of, {"rows": rows})
    # in one order everywhere, which MariaDB only keeps with a LIMIT: two transactions must not lock crosswise
    order = f"ORDER BY lb.budget_id LIMIT {MANY_ROWS}"
    ids_of = f"SELECT DISTINCT lb.budget_id AS id FROM {wanted} JOIN cl_lane_budget lb ON lb.lane_id = v.id {order}"
    return Asked(reply, *_ask_budgets(reader, f"({ids_of}) AS v", rows, lock))


def _ask_budgets(reader: Statements, wanted: str, rows: str, lock: str) -> tuple[Result, Result]:
    """Ask for budgets and their calls; `wanted` is a table expression `v` of their ids, in order, made from `rows`."""
    join = f"{reader.dialect.by_key(wanted, 'cl_budget')} ON t.id = v.id"
    budgets = reader.execute(sql(f"SELECT {BUDGET_COLUMNS} FROM {join} ORDER BY t.id{lock}"), {"rows": rows})
    # A statement of its own: it sees what was committed before the lock was ours.
    columns = "t.budget_id, t.assignment_id, t.number, t.called_at, t.free_at"
    calls = sql(f"SELECT {columns} FROM {wanted} JOIN cl_budget_call t ON t.budget_id = v.id")
    return budgets, reader.execute(calls, {"rows": rows})


def lock_of(dialect: SqlDialect, skip_locked: bool = False) -> str:
    """How rows of budgets are locked."""
    return dialect.for_update_of_t + (dialect.skip_locked if skip_locked else "")


def columns_of(budget: Budget) -> tuple[Any, ...]:
    """What may change of a budget, in the order of CHANGING_COLUMNS."""
    return tuple(getattr(budget, name) for name in CHANGING_COLUMNS)


CHANGING_COLUMNS = {
    "calls": "int",
    "seconds": "real",
    "learned_calls": "int",
    "learned_until": "moment",
    "learned_seconds": "real",
    "refusals": "int",
    "closed_until": "moment",
    "closed_reason": "text",
    "open_at": "moment",
}
