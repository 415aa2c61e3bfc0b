"""Questions about devices, read-only: how one stands, what its newest runs tell, and how it did over hours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, stamp, utc
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import DeviceHeartbeatDAO
from crawlfleet.model.lifecycle import AssignmentStatus, DeviceStatus
from crawlfleet.settings.definitions import FIELDS

NEWEST_RUNS = 1000  # of a device, that its figures are made of
POINTS = 120  # of a curve
SHORTEST_SPAN = 30  # seconds between two of them; beats are no closer by default
MISSED_BEATS = 3  # after so many a device is called silent, long before it counts as gone
HASHED = ("machine", "boot")  # of a process: the first is said to be confidential, see machine-id(5)
DEFAULT_INTERVAL: Any = FIELDS["heartbeat_interval"].default  # seconds, of a device that does not tell its own
MEASURED = ("cpu_usage", "memory_usage", "disk_usage", "system_load", "delay_seconds", "running_tasks")


def devices(db: Database) -> list[dict[str, Any]]:
    """All devices as dicts of their columns, with `current_tasks` and their latest beat as `heartbeat` (or None).

    `is_outdated`: it is online, and another that is runs a newer version of this program. `silent_seconds`: for how
    long it has missed its beats, three or more, although it counts as online; else None.
    """
    rows = DeviceDAO(db).find()
    beats = DeviceHeartbeatDAO(db)
    newest = max((version_of(each) for each in online_of(rows)), default=[])
    with db.read() as reader:
        now = reader.now
    for device in rows:
        device["process"] = shown_process(device["process"])
        device["silent_seconds"] = silent_seconds(device, now)
        device["heartbeat"] = beats.latest(device["device_id"])
        device["is_outdated"] = device["status"] == DeviceStatus.ONLINE and version_of(device) < newest
    return rows


def shown_process(process: Mapping[str, Any]) -> dict[str, Any]:
    """The process of a device as others may see it: which devices share a machine, but not what proves who it is."""
    shown = {name: value for name, value in process.items() if name != "witness"}
    for name in HASHED:
        if shown.get(name):
            shown[name] = blake2b(str(shown[name]).encode(), digest_size=8, person=b"crawlfleet").hexdigest()
    return shown


def silent_seconds(device: Mapping[str, Any], now: datetime) -> float | None:
    """For how long a device that counts as online has not been heard of, once it missed three beats; else None."""
    silence = (now - device["last_heartbeat"]).total_seconds()
    interval = device["capabilities"].get("heartbeat_interval", DEFAULT_INTERVAL)
    is_silent = device["status"] == DeviceStatus.ONLINE and silence >= MISSED_BEATS * interval
    return round(silence, 1) if is_silent else None


def status_text(device: Mapping[str, Any]) -> str:
    """A device's status for people, one of `devices`."""
    status = str(device["status"])
    if device["silent_seconds"] is not None:
        status = "silent"  # for how long its newest beat tells
    return f"{status}, draining" if device["draining"] else status


def online_of(devices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of these devices that are online."""
    return [device for device in devices if device["status"] == DeviceStatus.ONLINE]


def version_of(device: Mapping[str, Any]) -> list[int]:
    """The version of the program that a device runs, to be compared."""
    return [int(part) for part in re.findall(r"\d+", device["version"])]


def check_lease(db: Database, device_id: str, epoch: int) -> None:
    """Raise LeaseLost when that registration no longer is the device, DatabaseUnreachable when nobody can tell."""
    with db.read() as reader:
        DeviceDAO(db).state(reader, device_id, epoch)


def device(db: Database, device_id: str) -> dict[str, Any] | None:
    """One device as `devices` gives it, but for `is_outdated`; None: no such."""
    row = next((each for each in DeviceDAO(db).find() if each["device_id"] == device_id), None)
    if row is not None:
        with db.read() as reader:
            row["process"] = shown_process(row["process"])
            row["silent_seconds"] = silent_seconds(row, reader.now)
        row["heartbeat"] = DeviceHeartbeatDAO(db).latest(device_id)
    return row


def device_stats(db: Database, device_id: str) -> dict[str, Any] | None:
    """`device_info` (see `device`), `task_stats` of its newest 1,000 runs, `health_stats` of its latest beat, and
    `uptime`: seconds since it registered, None while it is offline. None when there is no such device."""
    info = device(db, device_id)
    if info is None:
        return None
    beat = info.pop("heartbeat") or {}
    with db.read() as reader:
        now = reader.now
    is_online = info["status"] == DeviceStatus.ONLINE
    return {
        "device_info": info,
        "task_stats": _newest_runs(db, device_id),
        "health_stats": {name: beat.get(name) for name in (*MEASURED, "network_status", "error_count")},
        "uptime": round((now - info["registered_at"]).total_seconds(), 1) if is_online else None,
    }


def _newest_runs(db: Database, device_id: str) -> dict[str, Any]:
    statement = sql(
        "SELECT status, started_at, completed_at FROM cl_task_assignment WHERE device_id = :device_id"
        f" ORDER BY id DESC LIMIT {NEWEST_RUNS}"
    )
    with db.read() as reader:
        runs = reader.execute(statement, {"device_id": device_id}).all()
    counts = Counter(str(status) for status, _, _ in runs)
    seconds = []
    for status, started_at, completed_at in runs:
        began, ended = utc(started_at), utc(completed_at)
        if status == AssignmentStatus.COMPLETED and began is not None and ended is not None:
            seconds.append((ended - began).total_seconds())
    ended_runs = counts[AssignmentStatus.COMPLETED] + counts[AssignmentStatus.FAILED]
    return {
        "runs": len(runs),
        **{state.value: counts[state] for state in AssignmentStatus},
        "success_rate": round(counts[AssignmentStatus.COMPLETED] / ended_runs, 4) if ended_runs else None,
        "avg_execution_time": round(sum(seconds) / len(seconds), 3) if seconds else None,
    }


def performance(db: Database, device_id: str, hours: int) -> dict[str, Any]:
    """Averages of a device's beats over the last so many hours, in at most about 120 spans of `span_seconds`.

    A span without a beat is missing. A beat's figures that the machine does not tell are left out of the averages.
    """
    span = max(SHORTEST_SPAN, hours * 3600 // POINTS)
    number = db.dialect.span_number("heartbeat_time", span)
    averages = ", ".join(f"AVG({name})" for name in MEASURED)
    statement = sql(
        f"SELECT {number} AS span, COUNT(*), {averages} FROM cl_device_heartbeat"
        " WHERE device_id = :device_id AND heartbeat_time >= :since GROUP BY span ORDER BY span"
    )
    with db.read() as reader:
        since = reader.now - timedelta(hours=hours)
        spans = reader.execute(statement, {"device_id": device_id, "since": stamp(since)}).all()
    points = [
        {"at": datetime.fromtimestamp(int(number) * span, UTC), "beats": beats}
        | {
            name: None if value is None else round(float(value), 3)
            for name, value in zip(MEASURED, values, strict=True)
        }
        for number, beats, *values in spans
    ]
    return {"device_id": device_id, "hours": hours, "span_seconds": span, "points": points}
