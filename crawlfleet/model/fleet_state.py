"""cl_fleet_state: single facts of the whole fleet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, stamp, utc
from crawlfleet.core.transaction import Answer, Result, Statements, Transaction
from crawlfleet.model import audit, signals

MAX_EPOCH = 2**22 - 1  # see claims.EPOCH_SHIFT


def next_epoch(transaction: Transaction) -> Answer[int]:
    """A number that no registration had before.

    Serialises registrations until the caller commits.
    """
    transaction.execute(
        sql(f"UPDATE cl_fleet_state SET value = value + 1, updated_at = {transaction.dialect.now} WHERE name = 'epoch'")
    )
    return transaction.execute(sql("SELECT value FROM cl_fleet_state WHERE name = 'epoch'")).map(_checked_epoch)


def _checked_epoch(result: Result) -> int:
    epoch = int(result.scalar_one())
    if epoch > MAX_EPOCH:
        raise AssertionError(f"all {MAX_EPOCH} epochs are used up")
    return epoch


@dataclass(frozen=True)
class Pause:
    """Whether the queue is paused, why, and since when."""

    paused: bool
    note: str | None
    since: datetime | None


def pause_of(reader: Statements) -> Pause:
    """The pause of the whole queue."""
    row = reader.execute(sql("SELECT value, note, updated_at FROM cl_fleet_state WHERE name = 'paused'")).one()
    return Pause(bool(row[0]), row[1], utc(row[2]))


def set_paused(db: Database, paused: bool, reason: str | None = None, actor: str | None = None) -> bool:
    """Pause or resume the whole queue: running tasks go on, nothing is claimed. False when it was so already."""

    def work(transaction: Transaction) -> bool:
        changed = transaction.execute(
            sql(
                "UPDATE cl_fleet_state SET value = :value, note = :note, updated_at = :now"
                " WHERE name = 'paused' AND value <> :value"
            ),
            {"value": int(paused), "note": reason, "now": stamp(transaction.now)},
        ).rowcount
        if changed:
            audit.record(transaction, actor, "queue.pause" if paused else "queue.resume", reason=reason)
        signals.tasks_changed(transaction)
        return bool(changed)

    return db.write(work)
