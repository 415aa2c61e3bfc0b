"""Questions about the fleet, read-only, for every door: command line, API, dashboard and the node itself."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.sql import day, json_value, sql, stamp, utc
from crawlfleet.insights.budgets import budgets
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model import fleet_state, migrations, queue_depth, schema
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.claims import probe_strategy
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO, takes
from crawlfleet.model.device_heartbeat import DeviceHeartbeatDAO
from crawlfleet.model.lifecycle import AccountStatus, DeviceStatus, TaskStatus
from crawlfleet.model.task_assignment import TaskAssignmentDAO

PAGE_ROWS = 5000  # of one look at the figures
FEED_NAMES = ("source", "username", "app_id", "report")


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
    online = _online(DeviceDAO(db).find()) if any(each.label for each in lanes) else []
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


def task_detail(db: Database, task_id: int) -> dict[str, Any] | None:
    """A task with its `assignments` (every run, oldest first) and its `events`; None when there is no such task."""
    task = CrawlTaskDAO(db).get(task_id)
    if task is None:
        return None
    table = schema.task_event
    with db.read() as reader:
        events = [dict(row) for row in reader.execute(sa.select(table).where(table.c.task_id == task_id)).mappings()]
    for event in events:
        event["created_at"] = utc(event["created_at"])
    return {**task, "assignments": TaskAssignmentDAO(db).of_task(task_id), "events": events}


def devices(db: Database) -> list[dict[str, Any]]:
    """All devices as dicts of their columns, with `current_tasks` and their latest beat as `heartbeat` (or None).

    `is_outdated`: it is online, and another that is runs a newer version of this program.
    """
    found = DeviceDAO(db).find()
    beats = DeviceHeartbeatDAO(db)
    newest = max((_version(each) for each in _online(found)), default=[])
    for device in found:
        device["heartbeat"] = beats.latest(device["device_id"])
        device["is_outdated"] = device["status"] == DeviceStatus.ONLINE and _version(device) < newest
    return found


def _online(devices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for each in devices if each["status"] == DeviceStatus.ONLINE]


def _version(device: Mapping[str, Any]) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", device["version"])]


def database_state(db: Database) -> dict[str, Any]:
    """What kind of database this is.

    `migration` is None without our tables; `claims` is None unless `migration` is the `expected` one.
    """
    migration = migrations.current(db)
    return {
        "database": db.name,
        "server": db.product,
        "version": db.version,
        "migration": migration,
        "expected": schema.HEAD,
        "claims": probe_strategy(db).value if migration == schema.HEAD else None,
    }


def fleet_status(db: Database) -> dict[str, Any]:
    """Devices with their latest beat, tasks by state, budgets that allow no call now, and one sentence on all."""
    found = devices(db)
    tasks = CrawlTaskDAO(db).stats()
    open_work = backlog(db)
    return {
        "devices": found,
        "tasks": tasks,
        "success_rate": _success_rate(tasks),
        "blocked": open_work.blocked,
        "budgets": budgets(db, blocked_only=True),
        "verdict": _verdict(found, open_work, tasks),
    }


def task_stats(db: Database) -> dict[str, Any]:
    """How many tasks are in each state, their `total`, `success_rate` of those that ended (None: none did), and
    `avg_execution_time` in seconds of the newest 500 runs that ended, as far as they completed (None: none did)."""
    counts = CrawlTaskDAO(db).stats()
    with db.read() as reader:
        runs = queue_depth.newest_runs(reader)
    seconds = [run.seconds for run in runs if run.completed and run.seconds is not None]
    average = round(sum(seconds) / len(seconds), 3) if seconds else None
    return {**counts, "success_rate": _success_rate(counts), "avg_execution_time": average}


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
    found = DeviceDAO(db).find()
    online = len(_online(found))
    return {
        "task_stats": tasks,
        "device_stats": {"total": len(found), "online": online, "offline": len(found) - online},
        "system_overview": {"verdict": _verdict(found, open_work, tasks), "blocked": open_work.blocked},
    }


def check_lease(db: Database, device_id: str, epoch: int) -> None:
    """Raise LeaseLost when that registration no longer is the device, DatabaseUnreachable when nobody can tell."""
    with db.read() as reader:
        DeviceDAO(db).state(reader, device_id, epoch)


def _success_rate(tasks: Mapping[str, int]) -> float | None:
    ended = tasks["completed"] + tasks["failed"]
    return round(tasks["completed"] / ended, 4) if ended else None


def _verdict(devices: Sequence[Mapping[str, Any]], open_work: Backlog, tasks: Mapping[str, int]) -> str:
    """How the fleet stands, what is wrong first."""
    online = _online(devices)
    running = [each for each in online if each["device_type"] != "master" and not each["draining"]]
    said = []
    if open_work.open_tasks and not online:
        said.append(f"stopped: {open_work.open_tasks} tasks are open and no device is online")
    elif open_work.open_tasks and not running:
        said.append(
            f"nothing begins: {open_work.open_tasks} tasks are open, and the devices online drain or are masters"
        )
    if open_work.blocked:
        said.append(f"waits for a person: {'; '.join(open_work.blocked)}")
    versions = sorted({each["version"] for each in online}, key=lambda text: _version({"version": text}))
    if len(versions) > 1:
        said.append(f"versions differ: devices run {', '.join(versions)}; bring all to {versions[-1]}")
    if open_work.open_tasks and running:
        said.append(f"working: {open_work.open_tasks} tasks are open, {len(online)} devices are online")
    if not said:
        failed = f"; {tasks['failed']} tasks failed" if tasks["failed"] else ", nothing failed"
        said.append(f"idle: nothing is open{failed}")
    return "; ".join(said)


def apps(db: Database, source: str | None = None, username: str | None = None) -> list[dict[str, Any]]:
    """The apps that accounts see, as dicts of the columns of cl_user_app without its id."""
    table = schema.user_app
    query = sa.select(table).order_by(table.c.source, table.c.username, table.c.app_id)
    for column, value in ((table.c.source, source), (table.c.username, username)):
        if value is not None:
            query = query.where(column == value)
    with db.read() as reader:
        rows = [dict(row) for row in reader.execute(query).mappings()]
    for row in rows:
        del row["id"]
        row["extra"] = json_value(row["extra"])
        row["first_seen_at"], row["fetched_at"] = utc(row["first_seen_at"]), utc(row["fetched_at"])
    return rows


def data_rows(
    db: Database,
    source: str | None = None,
    username: str | None = None,
    app_id: str | None = None,
    report: str | None = None,
    start: date | None = None,
    end: date | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Stored figures, by feed and day. A missing dimension or figure is None; revenue and cost are Decimals.

    They are read page by page along the primary key: a reader may take its time, since between two pages nothing
    is held at the server. What is written meanwhile may or may not be seen.
    """
    period = days_between(db, start, end)
    wanted = FeedFilter(source, username, app_id, report)
    rows = (
        {name: feed[name] for name in FEED_NAMES} | figures(row)
        for feed in feeds_with_rows(db, wanted, period)
        for row in feed_rows(db, feed["id"], period)
    )
    return itertools.islice(rows, limit)


def days_between(db: Database, start: date | None, end: date | None) -> list[sa.ColumnElement[bool]]:
    """The condition that figures are of these days."""
    column, period = schema.app_data.c.date, []
    if start is not None:
        period.append(column >= (start.isoformat() if db.family == "sqlite" else start))
    if end is not None:
        period.append(column <= (end.isoformat() if db.family == "sqlite" else end))
    return period


def feeds_with_rows(
    db: Database, wanted: FeedFilter, period: list[sa.ColumnElement[bool]], since: tuple[str, ...] | None = None
) -> Sequence[sa.RowMapping]:
    """The feeds that have figures of these days, by their FEED_NAMES; only from `since` on, which is such names."""
    feed, data = schema.feed, schema.app_data
    names = [feed.c[name] for name in FEED_NAMES]
    # a row of each feed rather than EXISTS, for which MariaDB would read the figures of all feeds
    a_row = sa.select(data.c.feed_id).where(data.c.feed_id == feed.c.id, *period).limit(1).scalar_subquery()
    query = sa.select(feed).where(a_row.is_not(None)).order_by(*names)
    for name in FEED_NAMES:
        if getattr(wanted, name) is not None:
            query = query.where(feed.c[name] == getattr(wanted, name))
    if since is not None:
        query = query.where(sa.tuple_(*names) >= since)
    with db.read() as reader:
        return reader.execute(query).mappings().all()


def feed_rows(
    db: Database,
    feed_id: int,
    period: list[sa.ColumnElement[bool]],
    after: tuple[Any, Any] | None = None,
    page_rows: int | None = None,
) -> Iterator[sa.RowMapping]:
    """The rows of a feed as they are stored, by day and hash, from behind `after`, which is such a pair."""
    data, most = schema.app_data, page_rows or PAGE_ROWS
    query = sa.select(data).where(data.c.feed_id == feed_id, *period).order_by(data.c.date, data.c.row_hash).limit(most)
    while True:
        behind = query
        if after is not None:
            same_day = sa.and_(data.c.date == after[0], data.c.row_hash > after[1])
            # the first condition says nothing new, but it alone lets every database enter the key there
            behind = query.where(data.c.date >= after[0], sa.or_(data.c.date > after[0], same_day))
        page = _page(db, behind)
        yield from page
        if len(page) < most:
            return
        after = page[-1]["date"], page[-1]["row_hash"]


def _page(db: Database, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
    with db.read() as reader:
        return reader.execute(query).mappings().all()


def figures(row: sa.RowMapping) -> dict[str, Any]:
    """A row of figures with days, JSON and amounts as Python values, without its keys."""
    values = {name: value for name, value in row.items() if name not in {"feed_id", "row_hash"}}
    values["date"] = day(values["date"])
    values["extra"] = json_value(values["extra"])
    for name in ("revenue", "cost"):
        if isinstance(values[name], float):  # SQLite has no decimals
            values[name] = Decimal(str(round(values[name], 6)))
    return values
