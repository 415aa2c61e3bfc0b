"""How the fleet stands in numbers, and what the verdict, one sentence on it, is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, stamp
from crawlfleet.core.wording import counted
from crawlfleet.insights.budgets import budgets
from crawlfleet.insights.devices import devices, online_of
from crawlfleet.insights.explain import When, utc_text
from crawlfleet.insights.feeds import ReportsOf
from crawlfleet.insights.tasks import success_rate, task_stats
from crawlfleet.insights.verdict import Backlog, Standing, verdict
from crawlfleet.insights.yesterday import yesterday
from crawlfleet.model import fleet_state, queue_depth
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_abilities import lack_of_token, takes, types_of
from crawlfleet.model.lifecycle import AccountStatus, DeviceStatus, TaskStatus


def backlog(db: Database) -> Backlog:
    """How many tasks are open, and which of them cannot run without a person."""
    with db.read() as reader:
        lanes = queue_depth.open_lanes(reader)
        pause = fleet_state.pause_of(reader)
    stopped = {(a["source"], a["username"]): a for a in AccountDAO(db).find() if a["status"] != AccountStatus.HEALTHY}
    online = online_of(DeviceDAO(db).find()) if lanes else []
    types = {name for device in online if device["device_type"] != "master" for name in types_of(device)}
    parked, unknown, unlabelled, tokenless = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    pending = 0
    for lane in lanes:
        account = stopped.get((lane.source, lane.username))
        waiting = lane.due + lane.later
        if account is not None:
            why = f"account {lane.username} at {lane.source}, parked: {account['status_reason']}"
            parked[why] += waiting
            lane.is_blocked = True
        elif types and lane.task_type not in types:  # without any worker that is what the verdict says
            unknown[f"type {lane.task_type}: missing executor, no online device knows the type"] += waiting
            lane.is_blocked = True
        elif lane.label is not None and not any(takes(device, lane.task_type, lane.label) for device in online):
            what = f"type {lane.task_type}: no online device that knows it has the label {lane.label}"
            unlabelled[what] += waiting
            lane.is_blocked = True
        elif lack := lack_of_token(online, lane.task_type, lane.label, (lane.source, lane.username)):
            tokenless[f"account {lane.username}, whose token no device has ({lack})"] += waiting
            lane.is_blocked = True
        else:
            pending += waiting
    blocked = [
        f"{counted(count, 'task')} of {reason}"
        for counts in (parked, unknown, unlabelled, tokenless)
        for reason, count in counts.items()
        if count
    ]
    paused = "the queue is paused" + (f" ({pause.note})" if pause.note else "") if pause.paused else ""
    if paused and pending:
        blocked.append(f"{counted(pending, 'task')}: {paused}")
        pending = 0
        for lane in lanes:
            lane.is_blocked = True
    return Backlog(pending + sum(lane.live for lane in lanes), blocked, lanes, paused)


def failed_since(db: Database, moment: datetime) -> int:
    """How many tasks ended as failed since that moment."""
    query = sql(f"SELECT COUNT(*) FROM cl_crawl_task WHERE status = '{TaskStatus.FAILED}' AND completed_at >= :since")
    with db.read() as reader:
        return int(reader.execute(query, {"since": stamp(moment)}).scalar_one())


def fleet_status(db: Database, reports_of: ReportsOf, when: When = utc_text) -> dict[str, Any]:
    """Devices with their latest beat, tasks by state, budgets that allow no call now, and one sentence on all, in which
    `when` writes the moments."""
    device_rows = devices(db)
    tasks = CrawlTaskDAO(db).stats()
    open_work = backlog(db)
    return {
        "devices": device_rows,
        "tasks": tasks,
        "success_rate": success_rate(tasks),
        "blocked": open_work.blocked,
        "budgets": budgets(db, blocked_only=True),
        "verdict": verdict(_standing(db, device_rows, open_work, reports_of), when),
    }


def scheduler_status(db: Database) -> dict[str, Any]:
    """Whether the queue is `paused`, the `reason` and `since` when; how many devices claim, and their slots."""
    with db.read() as reader:
        pause = fleet_state.pause_of(reader)
    device_rows = DeviceDAO(db).find()
    claiming = [device for device in device_rows if device["status"] == DeviceStatus.ONLINE and not device["draining"]]
    return {
        "paused": pause.paused,
        "reason": pause.note,
        "since": pause.since if pause.paused else None,
        "devices_claiming": len(claiming),
        "slots": sum(device["max_concurrent_tasks"] for device in claiming),
        "slots_busy": sum(device["current_tasks"] for device in claiming),
    }


def overview(db: Database, reports_of: ReportsOf) -> dict[str, Any]:
    """The fleet in numbers, and one sentence on how it stands; for the devices one by one see `devices`."""
    tasks = task_stats(db)
    open_work = backlog(db)
    device_rows = devices(db)
    online = len(online_of(device_rows))
    said = verdict(_standing(db, device_rows, open_work, reports_of))
    return {
        "task_stats": tasks,
        "device_stats": {"total": len(device_rows), "online": online, "offline": len(device_rows) - online},
        "system_overview": {"verdict": said, "blocked": open_work.blocked},
    }


def _standing(
    db: Database, devices: Sequence[Mapping[str, Any]], open_work: Backlog, reports_of: ReportsOf
) -> Standing:
    with db.read() as reader:
        now = reader.now
    failed = failed_since(db, now - timedelta(days=1))
    return Standing(now, devices, open_work, yesterday(db, reports_of, now), failed)
