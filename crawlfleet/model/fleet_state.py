"""cl_fleet_state: single facts of the whole fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, stamp, utc
from crawlfleet.core.transaction import AnyConnection, Transaction
from crawlfleet.model import audit, signals

MAX_EPOCH = 2**22 - 1  # see claims.EPOCH_SHIFT


def next_epoch(db: Database, connection: Transaction) -> Callable[[], int]:
    """A number that no registration had before, read by calling the result.

    Serialises registrations until the caller commits.
    """
    connection.execute(
        sql(f"UPDATE cl_fleet_state SET value = value + 1, updated_at = {db.dialect.now} WHERE name = 'epoch'")
    )
    answer = connection.execute(sql("SELECT value FROM cl_fleet_state WHERE name = 'epoch'"))

    def read() -> int:
        epoch = int(answer.scalar_one())
        if epoch > MAX_EPOCH:
            raise AssertionError(f"all {MAX_EPOCH} epochs are used up")
        return epoch

    return read


@dataclass(frozen=True)
class Pause:
    """Whether the queue is paused, why, and since when."""

    paused: bool
    note: str | None
    since: datetime | None


def pause_of(connection: AnyConnection) -> Pause:
    """The pause of the whole queue."""
    row = connection.execute(sql("SELECT value, note, updated_at FROM cl_fleet_state WHERE name = 'paused'")).one()
    return Pause(bool(row[0]), row[1], utc(row[2]))


def set_paused(db: Database, paused: bool, reason: str | None = None, actor: str | None = None) -> bool:
    """Pause or resume the whole queue: running tasks go on, nothing is claimed. False when it was so already."""

    def work(connection: Transaction) -> bool:
        changed = connection.execute(
            sql(
                "UPDATE cl_fleet_state SET value = :value, note = :note, updated_at = :now"
                " WHERE name = 'paused' AND value <> :value"
            ),
            {"value": int(paused), "note": reason, "now": stamp(db.now(connection))},
        ).rowcount
        if changed:
            audit.record(db, connection, actor, "queue.pause" if paused else "queue.resume", reason=reason)
        signals.tasks_changed(db, connection)
        return bool(changed)

    return db.write(work)
