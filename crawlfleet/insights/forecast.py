"""When the backlog is done, for each account and in all, and what limits it.

It reckons with what is open now, in the order in which it stands: what is added later comes later. A task that adds
others counts as one until they are there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.transaction import Reader
from crawlfleet.insights.budgets import budget_facts
from crawlfleet.insights.forecast_arithmetic import OpenTasks, calls_per_day, run_at, sent_at, usual
from crawlfleet.model import fleet_state, queue_depth
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import Budget
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_abilities import lack_of_token, takes
from crawlfleet.model.lane_budgets import LaneBudgetReader, LaneBudgets
from crawlfleet.model.lifecycle import AccountStatus, DeviceStatus
from crawlfleet.model.queue_depth import EndedRun, OpenLane

HABIT_DAYS = 3  # whose median tells how much is added on a usual day
FAILING_RUNS = 5  # an account whose newest runs, at least so many, all failed

AccountKey = tuple[str | None, str | None]  # (source, username)


class Bottleneck(StrEnum):
    """What decides when an account's backlog is done; the first six: that it never is, as things stand."""

    PAUSED = "paused"
    PARKED = AccountStatus.PARKED.value
    NO_DEVICE = "no_device"
    NO_TOKEN = "no_token"  # no device that could take its tasks has the account's token
    FAILING = "failing"
    INFLOW = "inflow"  # more is added than a quota allows
    QUOTA = "quota"
    DEVICES = "devices"
    DUE = "due"  # its last task is not due before


@dataclass(frozen=True)
class AccountForecast:
    """An account's open tasks and when they are done; `done_at` None: never, unless `limit` changes.

    `budget` is the one that decides, when one does.
    """

    source: str | None
    username: str | None
    open_tasks: int
    not_due: int
    limit: Bottleneck
    done_at: datetime | None
    why: str
    budget: Mapping[str, Any] | None


@dataclass(frozen=True)
class Forecast:
    """`done_at` of all accounts, None when one is never done. `budgets`: those on which tasks wait, the last one to be
    done first: `budget_facts` with `tasks`, calls `owed`, `calls_per_day`, `added_per_day` (null: not known yet) and
    `done_at`. `work` is what the devices have to do with their `slots`."""

    now: datetime
    open_tasks: int
    done_at: datetime | None
    accounts: list[AccountForecast]
    budgets: list[dict[str, Any]]
    slots: int
    work: list[OpenTasks]


def forecast(db: Database, username: str | None = None, now: datetime | None = None) -> Forecast:
    """The forecast of one account name, or of all; other accounts' tasks still take part of the slots."""
    return picture(db, now).forecast(username)


def picture(db: Database, now: datetime | None = None) -> Picture:
    """All that forecasts look at, read once: for those of several accounts."""
    with db.read(now) as reader:
        return Picture(reader, AccountDAO(db).find(), DeviceDAO(db).find())


@dataclass
class _Load:
    """What waits for one budget."""

    budget: Budget
    tasks: int = 0
    owed: int = 0
    added: int = 0
    owners: set[AccountKey] = field(default_factory=set)


class Picture:
    """All that a forecast looks at, as it was at one moment."""

    def __init__(
        self, reader: Reader, accounts: Sequence[Mapping[str, Any]], devices: Sequence[Mapping[str, Any]]
    ) -> None:
        self.now = reader.now
        self.paused = fleet_state.pause_of(reader).paused
        self.lanes = queue_depth.open_lanes(reader)
        self.status = {(row["source"], row["username"]): row for row in accounts}
        self.runs = queue_depth.newest_runs(reader)
        online = [device for device in devices if device["status"] == DeviceStatus.ONLINE and not device["draining"]]
        asked = {(lane.task_type, lane.label) for lane in self.lanes}
        self.useful = useful = [device for device in online if any(takes(device, *kind) for kind in asked)]
        self.untaken = {kind for kind in asked if not any(takes(device, *kind) for device in useful)}
        self.slots = sum(device["max_concurrent_tasks"] for device in useful)
        self.added = queue_depth.added_on_days(reader, self.now, HABIT_DAYS)
        sourced = [lane.id for lane in self.lanes if lane.source is not None]
        self.loads = self._loads(LaneBudgetReader(reader).load(sourced))
        self.work = self._work()

    def _loads(self, budgets_of: Mapping[int, LaneBudgets]) -> list[_Load]:
        loads: dict[int, _Load] = {}
        for lane in self.lanes:
            lane_budgets = budgets_of.get(lane.id)
            for budget in lane_budgets.budgets if lane_budgets is not None else ():
                load = loads.setdefault(budget.id, _Load(budget))
                need, waiting = lane_budgets.need(self.now) if lane_budgets is not None else 0, lane.due + lane.later
                load.tasks += waiting
                load.owed += waiting * need
                load.added += usual([day.get(lane.id, 0) for day in self.added]) * need
                load.owners.add((lane.source, lane.username))
        return [load for load in loads.values() if load.owed]

    def _work(self) -> list[OpenTasks]:
        tasks: dict[str, int] = defaultdict(int)
        for lane in self.lanes:
            if self._is_healthy((lane.source, lane.username)) and (lane.task_type, lane.label) not in self.untaken:
                tasks[lane.task_type] += lane.tasks
        return [OpenTasks(name, count, _seconds(self.runs, name)) for name, count in sorted(tasks.items())]

    def _is_healthy(self, owner: AccountKey) -> bool:
        row = self.status.get(owner)
        return row is None or row["status"] == AccountStatus.HEALTHY

    def forecast(self, username: str | None) -> Forecast:
        """The forecast of one account name, or of all."""
        by_owner: dict[AccountKey, list[OpenLane]] = defaultdict(list)
        for lane in self.lanes:
            if username in (None, lane.username):
                by_owner[lane.source, lane.username].append(lane)
        accounts = [self._account(owner, lanes) for owner, lanes in sorted(by_owner.items(), key=str)]
        loads = [load for load in self.loads if load.owners & set(by_owner)]
        moments = [account.done_at for account in accounts]
        return Forecast(
            self.now,
            sum(account.open_tasks for account in accounts),
            None if None in moments else max((each for each in moments if each), default=self.now),
            accounts,
            sorted(map(self._facts, loads), key=lambda each: each["done_at"], reverse=True),
            self.slots,
            self.work,
        )

    def _account(self, owner: AccountKey, lanes: Sequence[OpenLane]) -> AccountForecast:
        limit, done_at, why, budget = self._limit(owner, lanes)
        return AccountForecast(
            *owner, sum(lane.tasks for lane in lanes), sum(lane.later for lane in lanes), limit, done_at, why, budget
        )

    def _limit(
        self, owner: AccountKey, lanes: Sequence[OpenLane]
    ) -> tuple[Bottleneck, datetime | None, str, Mapping[str, Any] | None]:
        row = self.status.get(owner)
        untaken = sorted(
            {_kind(lane.task_type, lane.label) for lane in lanes if (lane.task_type, lane.label) in self.untaken}
        )
        own_runs = [run.completed for run in self.runs if (run.source, run.username) == owner][:FAILING_RUNS]
        lacking = (lack_of_token(self.useful, lane.task_type, lane.label, owner) for lane in lanes)
        no_token = next((why for why in lacking if why), None)
        if self.paused:
            return Bottleneck.PAUSED, None, "the queue is paused", None
        if row is not None and not self._is_healthy(owner):
            return Bottleneck.PARKED, None, f"{row['status']}: {row['status_reason']}", None
        if untaken:
            return (
                Bottleneck.NO_DEVICE,
                None,
                f"no device is online that takes the task type {', '.join(untaken)}",
                None,
            )
        if no_token is not None:
            return Bottleneck.NO_TOKEN, None, no_token, None
        if owner != (None, None) and len(own_runs) == FAILING_RUNS and not any(own_runs):
            return Bottleneck.FAILING, None, f"its newest {FAILING_RUNS} runs all failed", None
        loads = [self._facts(load) for load in self.loads if owner in load.owners]
        slowest = max(loads, key=lambda facts: facts["done_at"], default=None)
        for facts in loads:
            if facts["calls_per_day"] is not None and (facts["added_per_day"] or 0) > facts["calls_per_day"]:
                why = (
                    f"{facts['added_per_day']} calls are added on a usual day and {facts['limit']} allows"
                    f" {facts['calls_per_day']:g}: the backlog grows"
                )
                return Bottleneck.INFLOW, None, why, facts
        moments = [(run_at(self.work, self.slots, self.now), Bottleneck.DEVICES, self._speed_of(lanes))]
        if slowest is not None:
            why = f"{slowest['owed']} calls are owed to {slowest['limit']}"
            if slowest["calls_per_day"] is not None:
                why += f", which allows {slowest['calls_per_day']:g} a day"
            moments.append((slowest["done_at"], Bottleneck.QUOTA, why))
        if due := [lane.last_due_at for lane in lanes if lane.last_due_at is not None]:
            moments.append((max(due), Bottleneck.DUE, "its last task is not due before"))
        done_at, limit, why = max(moments, key=lambda moment: moment[0])
        return limit, done_at, why, slowest if limit is Bottleneck.QUOTA else None

    def _speed_of(self, lanes: Iterable[OpenLane]) -> str:
        unknown = sorted({lane.task_type for lane in lanes if _seconds(self.runs, lane.task_type) is None})
        text = f"{sum(each.tasks for each in self.work)} tasks of the fleet share {self.slots} slots"
        return text + (f"; how long {', '.join(unknown)} takes is not known yet" if unknown else "")

    def _facts(self, load: _Load) -> dict[str, Any]:
        return {
            **budget_facts(load.budget, self.now),
            "tasks": load.tasks,
            "owed": load.owed,
            "calls_per_day": calls_per_day(load.budget, self.now),
            "added_per_day": load.added if self.added else None,
            "done_at": sent_at(load.budget, load.owed, self.now),
        }


def _kind(task_type: str, label: str | None) -> str:
    return task_type if label is None else f"{task_type} with the label {label}"


def _seconds(runs: Iterable[EndedRun], task_type: str) -> float | None:
    """How long a body of this type took on average, of the newest runs."""
    times = [run.seconds for run in runs if run.task_type == task_type and run.seconds is not None]
    return sum(times) / len(times) if times else None
