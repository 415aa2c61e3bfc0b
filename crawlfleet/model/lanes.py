"""cl_lane: the queues within the queue.

A lane is the set of tasks that wait for the same things: a device that knows the type, and an account that is
not parked. The claim looks at one head per lane, so a million tasks that cannot run cost the others nothing.
Lanes are never deleted; there are as many as pairs of task type and account.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from crawlfleet.core.db import Database
from crawlfleet.core.sql import json_rows, stamp
from crawlfleet.model.task_spec import TaskSpec


class Lane(NamedTuple):
    """What tasks of one lane have in common; tasks without a source share one lane for each type."""

    task_type: str
    source: str | None = None
    username: str | None = None

    @property
    def key(self) -> str:
        return "|".join(part or "" for part in self)


def lane_of(spec: TaskSpec) -> Lane:
    """The lane of a task to be added."""
    return Lane(spec.task_type, spec.source, spec.username) if spec.source else Lane(spec.task_type)


def ensure(db: Database, connection: Connection, wanted: set[Lane], now: datetime) -> Mapping[Lane, int]:
    """The ids of these lanes, made where they are missing."""
    if not wanted:
        return {}
    by_key = {lane.key: lane for lane in wanted}
    found = _ids(db, connection, list(by_key))
    missing = sorted(set(by_key) - set(found))  # sorted: two adders must not lock them crosswise
    if missing:
        statement = (
            "INSERT INTO cl_lane (lane_key, task_type, source, username, created_at)"
            f" SELECT k, t, s, u, {db.wording.moment('now')}"
            f" FROM {db.wording.rows(k='text', t='text', s='text', u='text')}"
            + (" WHERE 1 = 1" if db.family == "sqlite" else "")  # or its parser takes ON CONFLICT for a join
        )
        rows = [(key, *by_key[key]) for key in missing]
        statement = db.wording.insert_ignore(statement, "lane_key")
        connection.execute(sa.text(statement), {"rows": json_rows(rows), "now": stamp(now)})
        found |= _ids(db, connection, missing)
    return {by_key[key]: lane_id for key, lane_id in found.items()}


def _ids(db: Database, connection: Connection, keys: list[str]) -> dict[str, int]:
    statement = f"SELECT l.lane_key, l.id FROM cl_lane l JOIN {db.wording.rows(k='text')} ON l.lane_key = v.k"
    return dict(connection.execute(sa.text(statement), {"rows": json_rows([key] for key in keys)}).all())
