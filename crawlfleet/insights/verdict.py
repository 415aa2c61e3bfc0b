"""The verdict: what a colleague would say of the fleet in one sentence, with what is wrong first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from crawlfleet.core.wording import counted
from crawlfleet.insights.devices import online_of, version_of
from crawlfleet.insights.explain import When, utc_text
from crawlfleet.insights.yesterday import AccountKey, Yesterday
from crawlfleet.model.device_abilities import lacking_of
from crawlfleet.model.queue_depth import OpenLane
from crawlfleet.sources.contract import ALL_APPS

SHOWN_NAMES = 3  # accounts, or things that wait for a person; the others are counted
SHOWN_REASON = 120  # characters of an error within the sentence


@dataclass(frozen=True)
class Backlog:
    """What is open. `blocked` says, in words, what waits for a person; `open_tasks` counts all the rest. `lanes` are
    those of both. `pause`: that the queue is paused, and why; empty when it is not."""

    open_tasks: int
    blocked: list[str]
    lanes: list[OpenLane] = field(default_factory=list, compare=False)
    pause: str = field(default="", compare=False)


@dataclass(frozen=True)
class Standing:
    """What the verdict is made of. `failed` counts tasks that failed in the last 24 hours."""

    now: datetime
    devices: Sequence[Mapping[str, Any]]
    backlog: Backlog
    yesterday: Yesterday
    failed: int


def verdict(fleet: Standing, when: When = utc_text) -> str:
    """How the fleet stands. `healthy` only when nothing is wrong and yesterday's figures are there."""
    wrong = [*_devices(fleet), *_people(fleet), *_killers(fleet), *_figures(fleet)]
    work = _work(fleet, when) if _running(fleet) else []
    if not wrong and fleet.yesterday.apps:
        there = f"yesterday's figures ({fleet.yesterday.day}, UTC) are there for {_all(fleet.yesterday.apps)}"
        work = work or ["nothing is open"]
        return "; ".join([f"healthy: {there}", *work])
    return "; ".join([*wrong, *work]) or "idle: nothing is open, nothing failed"


def _all(apps: int) -> str:
    return "the app" if apps == 1 else f"all {apps} apps"


def _running(fleet: Standing) -> list[Mapping[str, Any]]:
    """The devices that take tasks."""
    return [
        device for device in online_of(fleet.devices) if device["device_type"] != "master" and not device["draining"]
    ]


def _devices(fleet: Standing) -> Iterable[str]:
    online, open_tasks = online_of(fleet.devices), fleet.backlog.open_tasks
    are_open = f"{counted(open_tasks, 'task')} {'is' if open_tasks == 1 else 'are'} open"
    if open_tasks and not online:
        yield f"stopped: {are_open} and no device is online"
    elif open_tasks and not _running(fleet):
        yield f"nothing begins: {are_open}, and the devices online drain or are masters"
    told = {(lane.source or "", lane.username or "") for lane in fleet.backlog.lanes if lane.is_blocked}
    for device in online:
        if device["silent_seconds"] is not None:
            runs = f", and {counted(device['current_tasks'], 'task')} assigned to it" if device["current_tasks"] else ""
            yield f"device {device['device_id']} is silent for {device['silent_seconds']:.0f} s{runs}"
        lacking = {account: why for account, why in lacking_of(device).items() if account not in told}
        if lacking:
            names, why = _names(name for _, name in lacking), next(iter(lacking.values()))
            yield f"device {device['device_id']} takes no tasks of {names}, whose token it lacks ({why})"
        if obstacle := ((device.get("heartbeat") or {}).get("status_info") or {}).get("obstacle"):
            yield f"device {device['device_id']} is stuck: {obstacle}"


def _people(fleet: Standing) -> Iterable[str]:
    if fleet.backlog.pause and not any(fleet.backlog.pause in each for each in fleet.backlog.blocked):
        yield f"{fleet.backlog.pause}: nothing begins before `tasks resume`"
    if fleet.backlog.blocked:
        yield f"waits for a person: {_names(fleet.backlog.blocked, '; ')}"
    online = online_of(fleet.devices)
    versions = sorted({device["version"] for device in online}, key=lambda text: version_of({"version": text}))
    if len(versions) > 1:
        yield f"versions differ: devices run {', '.join(versions)}; bring all to {versions[-1]}"


def _killers(fleet: Standing) -> Iterable[str]:
    lanes = [lane for lane in fleet.backlog.lanes if lane.killers]
    if lanes:
        more = sum(lane.killers for lane in lanes) - 1
        others = f", and so do {more} more" if more > 1 else ", and so does 1 more" if more else ""
        yield f"task {lanes[0].killer} of type {lanes[0].task_type} kills its runner each time{others}"


def _figures(fleet: Standing) -> Iterable[str]:
    yesterday = fleet.yesterday
    unsynced = [name for source, name in yesterday.unsynced if (source, name) not in _accounts_at_work(fleet)]
    if unsynced:
        yield f"no app is known of {_names(unsynced)}: `tasks add --type user_apps`"
    if yesterday.missing:
        accounts = Counter((source, username) for source, username, _ in yesterday.missing)
        apps = sum(app_id != ALL_APPS for _, _, app_id in yesterday.missing)
        whole = ["all apps at once"] if apps < len(yesterday.missing) else []
        what = " and ".join([counted(apps, "app")] * bool(apps) + whole)
        sentence = f"yesterday ({yesterday.day}, UTC) is missing for {what} of {_names(name for _, name in accounts)}"
        newest = max((each for each in yesterday.missing.values() if each is not None), default=None)
        if newest is None:
            sentence += ", which were never fetched" if len(yesterday.missing) > 1 else ", which was never fetched"
        elif newest < yesterday.day - timedelta(1):
            sentence += f"; the last day there is {newest}"
        idle = sorted(accounts.keys() - _accounts_at_work(fleet))
        if idle:
            every = "them" if len(yesterday.missing) > 1 else "it"
            of = every if len(idle) == len(accounts) else _names(name for _, name in idle)
            sentence += f"; nothing is queued for {of}"
        yield sentence
    if fleet.failed:
        yield f"{counted(fleet.failed, 'task')} failed in the last 24 hours"


def _accounts_at_work(fleet: Standing) -> set[AccountKey]:
    """The accounts that have open tasks, those included that wait for a person."""
    return {(lane.source or "", lane.username or "") for lane in fleet.backlog.lanes}


def _work(fleet: Standing, when: When) -> list[str]:
    """What is open and can go on by itself: what runs, and until when the rest waits for what."""
    lanes = [lane for lane in fleet.backlog.lanes if not lane.is_blocked]
    closed = [lane for lane in lanes if lane.due and lane.is_closed and not _has_opened(lane, fleet.now)]
    waiting = sum(lane.due for lane in closed)
    live = sum(lane.live for lane in fleet.backlog.lanes)
    active = live + sum(lane.due for lane in lanes) - waiting
    said = []
    if active:
        online = len(online_of(fleet.devices))
        open_tasks = fleet.backlog.open_tasks
        said.append(
            f"working: {counted(open_tasks, 'task')} {'is' if open_tasks == 1 else 'are'} open, {live} in hand,"
            f" {counted(online, 'device')} {'is' if online == 1 else 'are'} online"
        )
    if closed:
        openings = sorted(lane.opens_at for lane in closed if lane.opens_at is not None)
        until = "running tasks end"
        if openings:
            until = when(openings[0]) + (f" to {when(openings[-1])}" if openings[-1] > openings[0] else "")
        names = _names(lane.username or lane.source or "" for lane in closed)
        said.append(f"waiting for quota until {until}: {counted(waiting, 'task')} of {names}")
    retrying = [lane for lane in lanes if lane.retrying]
    if retrying:
        first = min(retrying, key=lambda lane: lane.next_retry_at or fleet.now)
        at = when(first.next_retry_at or fleet.now)
        reason = first.retry_reason or "no reason is known"
        short = reason if len(reason) <= SHOWN_REASON else f"{reason[: SHOWN_REASON - 1]}…"
        said.append(f"retrying: {counted(sum(lane.retrying for lane in lanes), 'task')}, the next at {at} ({short})")
    later = sum(lane.later - lane.retrying for lane in lanes)
    due = [lane.next_due_at for lane in lanes if lane.next_due_at is not None]
    if later > 0 and due:
        said.append(f"{counted(later, 'task')} {'is' if later == 1 else 'are'} not due before {when(min(due))}")
    return said


def _has_opened(lane: OpenLane, now: datetime) -> bool:
    return lane.opens_at is not None and lane.opens_at <= now


def _names(names: Iterable[str], between: str = ", ") -> str:
    """The first names, and how many more there are."""
    every = list(dict.fromkeys(names))
    more = f"{between}and {len(every) - SHOWN_NAMES} more" if len(every) > SHOWN_NAMES else ""
    return between.join(every[:SHOWN_NAMES]) + more
