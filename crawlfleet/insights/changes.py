"""What changed in the fleet since the look before: runs, tasks, devices and the queue, read from their tables.

Nothing is written for it. What began is found by comparing the live runs with those of the look before; what ended is
among the newest ended runs. Both are walks along indexes whose length does not depend on the size of a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, stamp, utc
from crawlfleet.core.transaction import Reader
from crawlfleet.model import fleet_state
from crawlfleet.model.lifecycle import LIVE_RUN, quoted

MOST = 1000  # ended runs, or events, that a look takes; when all of them are new, others were "missed"
MOST_LIVE = 10_000  # live runs that a look compares; that others began is not told
LATE_SECONDS = 60  # a transaction may commit so long after the moment that it wrote


@dataclass(frozen=True)
class News:
    """One change. `kind`: run, task, added, device, queue, or missed (more happened than could be told)."""

    kind: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class _Seen:
    """What a look saw."""

    now: datetime
    live: Mapping[int, str]
    ended: frozenset[int]
    events: frozenset[int]
    newest_task: int
    devices: Mapping[str, tuple[str, bool]]
    pause: fleet_state.Pause


class NewsReader:
    """Compares what it sees with what it saw. The first look only remembers."""

    def __init__(self) -> None:
        self._seen: _Seen | None = None

    def look(self, db: Database) -> list[News]:
        """What changed since the look before, in the order in which it happened, as far as that is known."""
        before = self._seen
        with db.read() as reader:
            now = reader.now
            live = self._live(reader)
            ended = self._ended(reader, (before.now if before else now) - timedelta(seconds=LATE_SECONDS))
            events = self._events(reader)
            newest_task = reader.execute(sql("SELECT MAX(id) FROM cl_crawl_task")).scalar() or 0
            devices = self._devices(reader)
            pause = fleet_state.pause_of(reader)
        self._seen = _Seen(
            now,
            {run["assignment_id"]: run["status"] for run in live},
            frozenset(run["assignment_id"] for run in ended),
            frozenset(event["id"] for event in events),
            newest_task,
            devices,
            pause,
        )
        return [] if before is None else [*_compared(before, self._seen, live, ended, events)]

    def _live(self, connection: Reader) -> list[dict[str, Any]]:
        # by device: MySQL and MariaDB, which have no partial index, would read all runs otherwise
        statement = sql(
            "SELECT a.id, a.task_id, a.device_id, a.status, COALESCE(a.started_at, a.assigned_at), a.error_kind"
            " FROM cl_device d JOIN cl_task_assignment a ON a.device_id = d.device_id"
            f" WHERE a.status IN ({quoted(LIVE_RUN)}) ORDER BY a.id LIMIT {MOST_LIVE}"
        )
        return [_run(*row) for row in connection.execute(statement)]

    def _ended(self, connection: Reader, since: datetime) -> list[dict[str, Any]]:
        statement = sql(
            "SELECT id, task_id, device_id, status, completed_at, error_kind FROM cl_task_assignment"
            f" WHERE completed_at >= :since ORDER BY completed_at DESC LIMIT {MOST}"
        )
        return [_run(*row) for row in reversed(connection.execute(statement, {"since": stamp(since)}).all())]

    def _events(self, connection: Reader) -> list[dict[str, Any]]:
        statement = sql(
            f"SELECT id, task_id, event, actor, created_at FROM cl_task_event ORDER BY id DESC LIMIT {MOST}"
        )
        names = ("id", "task_id", "event", "actor", "at")
        rows = [dict(zip(names, row, strict=True)) for row in connection.execute(statement)]
        return [{**row, "at": utc(row["at"])} for row in reversed(rows)]

    def _devices(self, connection: Reader) -> dict[str, tuple[str, bool]]:
        rows = connection.execute(sql("SELECT device_id, status, draining FROM cl_device ORDER BY device_id"))
        return {device_id: (status, bool(draining)) for device_id, status, draining in rows}


def _run(
    assignment_id: int, task_id: int, device_id: str, status: str, at: object, error_kind: str | None
) -> dict[str, Any]:
    return {
        "assignment_id": assignment_id,
        "task_id": task_id,
        "device_id": device_id,
        "status": status,
        "at": utc(at),
        "error_kind": error_kind,
    }


def _compared(
    before: _Seen,
    after: _Seen,
    live: Iterable[Mapping[str, Any]],
    ended: list[dict[str, Any]],
    events: list[dict[str, Any]],
) -> Iterator[News]:
    if after.newest_task > before.newest_task:
        yield News("added", {"after_id": before.newest_task, "last_id": after.newest_task})
    happened = [event for event in events if event["id"] not in before.events]
    over = [run for run in ended if run["assignment_id"] not in before.ended]
    if len(happened) == MOST or len(over) == MOST:
        yield News("missed", {"why": f"more than {MOST} changes at once: read the lists anew"})
    for event in happened:
        yield News("task", {name: value for name, value in event.items() if name != "id"})
    for run in live:
        if before.live.get(run["assignment_id"]) != run["status"]:
            yield News("run", run)
    for run in over:
        yield News("run", run)
    for device_id in sorted(after.devices.keys() | before.devices.keys()):
        standing = after.devices.get(device_id)
        if standing != before.devices.get(device_id):
            status, draining = standing or ("removed", False)
            yield News("device", {"device_id": device_id, "status": status, "draining": draining, "at": after.now})
    if after.pause.paused != before.pause.paused:
        facts = {"paused": after.pause.paused, "reason": after.pause.note, "at": after.pause.since}
        yield News("queue", facts)
