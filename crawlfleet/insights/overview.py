"""How the fleet stands, and one sentence on it: the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, stamp
from crawlfleet.insights.budgets import budgets
from crawlfleet.insights.devices import devices, online_of, version_of
from crawlfleet.insights.tasks import success_rate, task_stats
from crawlfleet.model import fleet_state, queue_depth
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO, takes
from crawlfleet.model.lifecycle import AccountStatus, DeviceStatus, TaskStatus


@dataclass(frozen=True)
class Backlog:
    """What is open. `blocked` says, in words, what waits for a person; `open_tasks` counts all the rest."""

    open_tasks: int
    blocked: list[str]


def backlog(db: Database) -> Backlog:
    """How many tasks are open, and which of them cannot run without a person."""
    with db.read() as reader:
        lanes = queue_depth.open_lanes(reader)
        pause = fleet_state.pause_of(reader)
    stopped = {(a["source"], a["username"]): a for a in AccountDAO(db).find() if a["status"] != AccountStatus.HEALTHY}
    online = online_of(DeviceDAO(db).find()) if any(each.label for each in lanes) else []
    parked, unlabelled, tokenless = Counter[str](), Counter[str](), Counter[str]()
    pending = 0
    for lane in lanes:
        account = stopped.get((lane.source, lane.username))
        waiting = lane.due + lane.later
        if account is not None:
            why = f"account {lane.username} at {lane.source}, parked: {account['status_reason']}"
            parked[why] += waiting
        elif lane.label is not None and not any(takes(each, lane.task_type, lane.label) for each in online):
            what = f"type {lane.task_type}: no online device that knows it has the label {lane.label}"
            unlabelled[what] += waiting
        else:
            if lane.no_token is not None:
                tokenless[lane.no_token] += lane.without_token
            pending += waiting - lane.without_token
    blocked = [f"{count} tasks of {each}" for found in (parked, unlabelled) for each, count in found.items() if count]
    blocked += [f"{count} tasks, {why}" for why, count in tokenless.items()]
    if pause.paused and pending:
        blocked.append(f"{pending} tasks: the queue is paused" + (f" ({pause.note})" if pause.note else ""))
        pending = 0
    return Backlog(pending + sum(each.live for each in lanes), blocked)


def failed_since(db: Database, moment: datetime) -> int:
    """How many tasks ended as failed since that moment."""
    query = sql(f"SELECT COUNT(*) FROM cl_crawl_task WHERE status = '{TaskStatus.FAILED}' AND completed_at >= :since")
    with db.read() as reader:
        return int(reader.execute(query, {"since": stamp(moment)}).scalar_one())


def fleet_status(db: Database) -> dict[str, Any]:
    """Devices with their latest beat, tasks by state, budgets that allow no call now, and one sentence on all."""
    found = devices(db)
    tasks = CrawlTaskDAO(db).stats()
    open_work = backlog(db)
    return {
        "devices": found,
        "tasks": tasks,
        "success_rate": success_rate(tasks),
        "blocked": open_work.blocked,
        "budgets": budgets(db, blocked_only=True),
        "verdict": _verdict(found, open_work, tasks),
    }


def scheduler_status(db: Database) -> dict[str, Any]:
    """Whether the queue is `paused`, the `reason` and `since` when; how many devices claim, and their slots."""
    with db.read() as reader:
        pause = fleet_state.pause_of(reader)
    found = DeviceDAO(db).find()
    claiming = [each for each in found if each["status"] == DeviceStatus.ONLINE and not each["draining"]]
    return {
        "paused": pause.paused,
        "reason": pause.note,
        "since": pause.since if pause.paused else None,
        "devices_claiming": len(claiming),
        "slots": sum(each["max_concurrent_tasks"] for each in claiming),
        "slots_busy": sum(each["current_tasks"] for each in claiming),
    }


def overview(db: Database) -> dict[str, Any]:
    """The fleet in numbers, and one sentence on how it stands; for the devices one by one see `devices`."""
    tasks = task_stats(db)
    open_work = backlog(db)
    found = devices(db)
    online = len(online_of(found))
    return {
        "task_stats": tasks,
        "device_stats": {"total": len(found), "online": online, "offline": len(found) - online},
        "system_overview": {"verdict": _verdict(found, open_work, tasks), "blocked": open_work.blocked},
    }


def _verdict(devices: Sequence[Mapping[str, Any]], open_work: Backlog, tasks: Mapping[str, int]) -> str:
    """How the fleet stands, what is wrong first."""
    online = online_of(devices)
    running = [each for each in online if each["device_type"] != "master" and not each["draining"]]
    said = []
    if open_work.open_tasks and not online:
        said.append(f"stopped: {open_work.open_tasks} tasks are open and no device is online")
    elif open_work.open_tasks and not running:
        said.append(
            f"nothing begins: {open_work.open_tasks} tasks are open, and the devices online drain or are masters"
        )
    for each in online:
        if obstacle := ((each.get("heartbeat") or {}).get("status_info") or {}).get("obstacle"):
            said.append(f"device {each['device_id']} is stuck: {obstacle}")
    if open_work.blocked:
        said.append(f"waits for a person: {'; '.join(open_work.blocked)}")
    versions = sorted({each["version"] for each in online}, key=lambda text: version_of({"version": text}))
    if len(versions) > 1:
        said.append(f"versions differ: devices run {', '.join(versions)}; bring all to {versions[-1]}")
    if open_work.open_tasks and running:
        said.append(f"working: {open_work.open_tasks} tasks are open, {len(online)} devices are online")
    if not said:
        failed = f"; {tasks[TaskStatus.FAILED]} tasks failed" if tasks[TaskStatus.FAILED] else ", nothing failed"
        said.append(f"idle: nothing is open{failed}")
    return "; ".join(said)
