"""Why a task waits, or what became of it: one reason, the most decisive one, from what the claim itself goes by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.insights.budgets import budget_facts, budget_name, calls_used
from crawlfleet.insights.devices import silent_seconds
from crawlfleet.insights.forecast_arithmetic import sent_at
from crawlfleet.insights.tasks import task_detail
from crawlfleet.model import fleet_state, queue_depth
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import NEVER, Budget
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_abilities import lack_of_token, takes
from crawlfleet.model.lane_budgets import LaneBudgetReader, LaneBudgets
from crawlfleet.model.lifecycle import ENDED, LIVE, AccountStatus, DeviceStatus, TaskEvent, TaskStatus
from crawlfleet.model.next_move import CRASH_CAP, KILLER_CRASHES

When = Callable[[datetime], str]
SHOWN_MESSAGE = 300  # characters of an error within a sentence


class Reason(StrEnum):
    """Stable codes, the most decisive first; programs may rely on them."""

    COMPLETED = TaskStatus.COMPLETED.value
    FAILED = TaskStatus.FAILED.value
    CANCELLED = TaskStatus.CANCELLED.value
    RUNNING = TaskStatus.RUNNING.value
    ASSIGNED = TaskStatus.ASSIGNED.value
    QUEUE_PAUSED = "queue_paused"
    ACCOUNT_PARKED = "account_parked"
    TOKEN_EXPIRED = AccountStatus.TOKEN_EXPIRED.value
    NO_DEVICE = "no_device"  # none that was seen lately knows the type
    NO_LABEL = "no_label"  # none that is online and knows the type has the task's label
    NO_TOKEN = "no_token"  # no device that could take it has the token of its account
    DEVICES_AWAY = "devices_away"  # those that could take it are offline or draining
    NOT_DUE = "not_due"
    RETRY = "retry"  # not due: it did not succeed before
    BUDGET_CLOSED = "budget_closed"  # by a refusal of the vendor
    BUDGET_USED_UP = "budget_used_up"
    CALLS_HELD = "calls_held"  # by running tasks, which may give them back
    BEHIND = "behind"  # more urgent tasks take the calls or slots that are left
    READY = "ready"


@dataclass(frozen=True)
class Explanation:
    """`until` is when the reason ends, None when that is not known or nobody waits for it; `blocked_by` holds what the
    sentence is made of: `budget`, `account`, `devices`, `ahead`, where they play a part."""

    task_id: int
    reason: Reason
    sentence: str
    until: datetime | None = None
    blocked_by: Mapping[str, Any] = field(default_factory=dict)


def utc_text(moment: datetime) -> str:
    """The moment as a sentence names it where no other zone is asked for."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def explain(
    db: Database, task_id: int, offline_timeout: float, when: When = utc_text, now: datetime | None = None
) -> Explanation | None:
    """Why the task is where it is; None for an id of no task. `when` writes a moment into the sentence.

    A look without a lock: what it says was true a moment ago.
    """
    task = task_detail(db, task_id)
    if task is None:
        return None
    return _Teller(db, task, offline_timeout, when, now).tell()


class _Teller:
    """The checks for one task, each of which gives its explanation or None."""

    def __init__(
        self,
        db: Database,
        task: dict[str, Any],
        offline_timeout: float,
        when: When,
        now: datetime | None,
    ) -> None:
        self.db, self.task = db, task
        self.offline_timeout, self.when, self._now = offline_timeout, when, now

    def tell(self) -> Explanation:
        with self.db.read(self._now) as self.reader:
            self.now = self.reader.now
            explanation = self._tell()
        crashes = self.task["crash_count"]
        if self.task["status"] in ENDED or crashes < KILLER_CRASHES:
            return explanation
        warning = f"it kills its runner: {crashes} runs died under it, and after {CRASH_CAP + 1} it fails"
        return replace(explanation, sentence=f"{explanation.sentence}; {warning}")

    def _tell(self) -> Explanation:
        if self.task["status"] in ENDED:
            return self._ended()
        if self.task["status"] in LIVE:
            return self._live()
        for check in (self._pause, self._account, self._device, self._due, self._budget):
            explanation = check()
            if explanation is not None:
                return explanation
        return self._place()

    def _because(self, reason: Reason, sentence: str, until: datetime | None = None, **blocked_by: Any) -> Explanation:
        return Explanation(self.task["id"], reason, sentence, until, blocked_by)

    def _ended(self) -> Explanation:
        task, at = self.task, self.when(self.task["completed_at"])
        if task["status"] == TaskStatus.COMPLETED:
            runs = len(task["assignments"])
            return self._because(Reason.COMPLETED, f"completed at {at}, after {_count(runs, 'run')}")
        if task["status"] == TaskStatus.FAILED:
            return self._because(Reason.FAILED, f"failed at {at} ({task['error_kind']}): {_short(task)}")
        by = next((event["actor"] for event in reversed(task["events"]) if event["event"] == TaskEvent.CANCELLED), None)
        return self._because(Reason.CANCELLED, f"cancelled at {at}" + (f" by {by}" if by else ""))

    def _live(self) -> Explanation:
        device, since = self.task["assigned_device_id"], self.when(self.task["assigned_at"])
        holders = [device_row for device_row in DeviceDAO(self.db).find() if device_row["device_id"] == device]
        devices = [_device_facts(device_row) for device_row in holders]
        silence = silent_seconds(holders[0], self.now) if holders else None
        silent = "" if silence is None else f"; {device} is silent for {silence:.0f} s"
        run = next(
            (assignment for assignment in self.task["assignments"] if assignment["id"] == self.task["assignment_id"]),
            None,
        )
        if run is None or run["started_at"] is None:
            return self._because(
                Reason.ASSIGNED,
                f"assigned to {device} since {since}: it begins when a slot there is free and its call may be sent"
                f"{silent}",
                devices=devices,
            )
        until = run["started_at"] + timedelta(seconds=self.task["execution_timeout"])
        return self._because(
            Reason.RUNNING,
            f"running on {device} since {self.when(run['started_at'])}; its execution_timeout ends it at"
            f" {self.when(until)}{silent}",
            until,
            devices=devices,
        )

    def _pause(self) -> Explanation | None:
        pause = fleet_state.pause_of(self.reader)
        if not pause.paused:
            return None
        note = f" ({pause.note})" if pause.note else ""
        since = "" if pause.since is None else f" since {self.when(pause.since)}"
        return self._because(Reason.QUEUE_PAUSED, f"the queue is paused{since}{note}: `tasks resume` opens it")

    def _account(self) -> Explanation | None:
        if self.task["source"] is None or self.task["username"] is None:
            return None
        accounts = AccountDAO(self.db).find(self.task["username"], self.task["source"])
        if not accounts or accounts[0]["status"] == AccountStatus.HEALTHY:
            return None
        [account] = accounts
        name, since, why = account["username"], self.when(account["status_since"]), account["status_reason"]
        facts = {key: account[key] for key in ("source", "username", "status", "status_since", "status_reason")}
        if account["status"] == AccountStatus.PARKED:
            sentence = f"account {name} is parked since {since} ({why}): `accounts resume {name}` lets it go on"
            return self._because(Reason.ACCOUNT_PARKED, sentence, account=facts)
        sentence = (
            f"the token of account {name} does not work since {since} ({why}): renew it, then `accounts resume {name}`"
        )
        return self._because(Reason.TOKEN_EXPIRED, sentence, account=facts)

    def _knowing(self) -> list[dict[str, Any]]:
        """The devices that know the task's type, whenever they were last seen."""
        devices = DeviceDAO(self.db).find()
        return [
            device for device in devices if self.task["task_type"] in device["capabilities"].get("supported_tasks", ())
        ]

    def _fitting(self, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [device for device in devices if takes(device, self.task["task_type"], self.task["label"])]

    def _device(self) -> Explanation | None:
        knowing, task_type, label = self._knowing(), self.task["task_type"], self.task["label"]
        fitting = self._fitting(knowing)
        claiming = [device for device in fitting if _claims(device)]
        account = (self.task["source"], self.task["username"])
        if claiming and (why := lack_of_token(claiming, task_type, label, account)):
            sentence = f"no device that could take it has the token of account {account[1]}: {why}"
            return self._because(Reason.NO_TOKEN, sentence, devices=[*map(_device_facts, claiming)])
        if claiming:
            return None
        facts = [_device_facts(device) for device in knowing]
        if task_type not in DeviceDAO(self.db).known_types(self.offline_timeout, self.now):
            last = max((device["last_heartbeat"] for device in knowing), default=None)
            if last is not None:
                sentence = (
                    f"missing executor: no device seen lately knows the task type {task_type}; one that did was last"
                    f" seen at {self.when(last)}: start it again"
                )
            elif DeviceDAO(self.db).find():
                sentence = (
                    f"missing executor: no device has known the task type {task_type} yet; it waits for a node that"
                    " does (--executors for types of your own)"
                )
            else:
                sentence = "no device has registered yet: start a node"
            return self._because(Reason.NO_DEVICE, sentence, devices=facts)
        if label is not None and not any(device["status"] == DeviceStatus.ONLINE for device in fitting):
            offline = ", ".join(device["device_id"] for device in fitting)
            sentence = f"no online device has the label {label} and knows the task type {task_type}" + (
                f"; {offline} is offline" if offline else f": start one with --label {label}"
            )
            return self._because(Reason.NO_LABEL, sentence, devices=[*map(_device_facts, fitting)])
        states = ", ".join(f"{device['device_id']} is {_obstacle(device)}" for device in fitting)
        what = f"task type {task_type}" + ("" if label is None else f" with the label {label}")
        return self._because(
            Reason.DEVICES_AWAY,
            f"no device takes the {what} now: {states}",
            devices=[*map(_device_facts, fitting)],
        )

    def _due(self) -> Explanation | None:
        due = self.task["wake_at"]
        if due is None or due <= self.now:
            return None
        if not self.task["error_kind"]:
            return self._because(Reason.NOT_DUE, f"not due before {self.when(due)}", due)
        tried = f", {self.task['retry']} of {self.task['max_retry_count'] + 1} attempts are spent"
        sentence = f"tried again at {self.when(due)}{tried if self.task['retry'] else ''}: {_short(self.task)}"
        return self._because(Reason.RETRY, sentence, due)

    def _lane(self) -> LaneBudgets | None:
        if self.task["source"] is None:
            return None
        ledger = LaneBudgetReader(self.reader)
        return ledger.load([self.task["lane_id"]]).get(self.task["lane_id"])

    def _budget(self) -> Explanation | None:
        """The budget that opens last."""
        lane = self._lane()
        if lane is None or not lane.budgets:
            return None
        opening, budget = max(
            ((lane.opening_of(budget, self.now), budget) for budget in lane.budgets), key=lambda pair: pair[0]
        )
        if opening <= self.now:
            return None
        ahead = self._ahead_in(budget)
        facts = budget_facts(budget, self.now, opening)
        turn = self.when(self._turn(budget, ahead, lane))
        behind = f"; {_count(ahead, 'more urgent task')} first, so its turn is about {turn}" if ahead else ""
        reason, until = Reason.BUDGET_USED_UP, facts["opens_at"]
        name = budget_name(facts)
        if facts["closed_until"] is not None and facts["closed_until"] >= opening:
            reason = Reason.BUDGET_CLOSED
            sentence = f"{name} is closed until {self.when(opening)} ({facts['reason']}){behind}"
        elif opening >= NEVER:
            reason = Reason.CALLS_HELD
            sentence = f"running tasks hold {name} ({calls_used(facts)}); it goes on when they end{behind}"
        elif facts["allowed"] is None or facts["used"] + lane.need(self.now) <= facts["allowed"]:
            sentence = f"{name} waits for the UTC day that begins at {self.when(opening)}{behind}"
        else:
            sentence = f"{name} is used up until {self.when(opening)} ({calls_used(facts)}){behind}"
        return self._because(reason, sentence, until, budget=facts, ahead=ahead)

    def _ahead_in(self, budget: Budget) -> int:
        return queue_depth.ahead_in_budget(self.reader, budget.id, self._key(), self.task["id"])

    def _turn(self, budget: Budget, ahead: int, lane: LaneBudgets) -> datetime:
        """When the budget has room for it after so many others like it."""
        return sent_at(budget, (ahead + 1) * max(1, lane.need(self.now)), self.now)

    def _key(self) -> int:
        return int(self.task["ready_key"] or self.task["order_key"])

    def _place(self) -> Explanation:
        """Nothing is in its way but tasks that are more urgent."""
        lane = self._lane()
        for budget in lane.budgets if lane is not None else ():
            room = budget.room(self.now, self.now)
            ahead = 0 if room is None else self._ahead_in(budget)
            if lane is not None and room is not None and (ahead + 1) * lane.need(self.now) > room:
                facts, turn = budget_facts(budget, self.now), self._turn(budget, ahead, lane)
                sentence = (
                    f"behind {_count(ahead, 'more urgent task')} that need {budget_name(facts)} too"
                    f" ({calls_used(facts)}): its turn is about {self.when(turn)}"
                )
                return self._because(Reason.BEHIND, sentence, turn, budget=facts, ahead=ahead)
        devices = [device for device in self._fitting(self._knowing()) if _claims(device)]
        free = sum(max(0, device["max_concurrent_tasks"] - device["current_tasks"]) for device in devices)
        types = {name for device in devices for name in device["capabilities"]["supported_tasks"]}
        labels = {name for device in devices for name in device["capabilities"].get("labels", ())}
        ahead = queue_depth.ahead_of_slots(self.reader, types, labels, self._key(), self.task["id"])
        if ahead and ahead >= free:
            names = ", ".join(device["device_id"] for device in devices)
            sentence = f"behind {_count(ahead, 'more urgent task')}; {_count(free, 'slot')} free on {names}"
            return self._because(Reason.BEHIND, sentence, ahead=ahead, devices=[*map(_device_facts, devices)])
        return self._because(Reason.READY, "ready: the next free slot takes it", ahead=ahead)


def _claims(device: Mapping[str, Any]) -> bool:
    return not _obstacle(device)


def _obstacle(device: Mapping[str, Any]) -> str:
    """What keeps a device from running further tasks, or nothing."""
    if device["status"] != DeviceStatus.ONLINE:
        return DeviceStatus.OFFLINE
    if device["device_type"] == "master":
        return "a master, which runs none"
    return "draining" if device["draining"] else ""


def _device_facts(device: Mapping[str, Any]) -> dict[str, Any]:
    return {name: device[name] for name in ("device_id", "status", "draining", "last_heartbeat")}


def _count(number: int, noun: str) -> str:
    text = f"at least {queue_depth.COUNT_CAP:,}" if number >= queue_depth.COUNT_CAP else str(number)
    return f"{text} {noun}" + ("" if number == 1 else "s")


def _short(task: Mapping[str, Any]) -> str:
    message = task["error_message"] or "no reason is known"
    return message if len(message) <= SHOWN_MESSAGE else f"{message[: SHOWN_MESSAGE - 1]}…"
