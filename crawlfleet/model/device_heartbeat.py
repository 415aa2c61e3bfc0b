"""cl_device_heartbeat: one row per beat; the beat also renews the device's lease."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.clock import ClockReading
from crawlfleet.core.db import Database
from crawlfleet.core.errors import LeaseLost
from crawlfleet.core.sql import json_rows, sql, stamp
from crawlfleet.core.transaction import Transaction
from crawlfleet.model import schema
from crawlfleet.model.lifecycle import DeviceStatus

log = logging.getLogger(__name__)

SWEEP_BATCH = 5000  # rows deleted in one transaction


@dataclass(frozen=True)
class Beat:
    """What a device tells of itself: percentages, counts, and `delay_seconds`, how late the beat is."""

    cpu_usage: float | None
    memory_usage: float | None
    disk_usage: float | None
    network_status: str
    running_tasks: int
    system_load: float | None
    error_count: int
    delay_seconds: float
    status_info: Mapping[str, Any] = field(default_factory=dict)


class DeviceHeartbeatDAO:
    """The table of heartbeats."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def init_table(self) -> None:
        """Tell that the table is there; `migrations.upgrade` made it."""
        log.info("Table %s initialized", schema.device_heartbeat.name)

    def beat(self, device_id: str, epoch: int, beat: Beat, now: datetime | None = None) -> ClockReading:
        """Renew the lease of (device_id, epoch) and record the beat; the database's clock.

        Raises LeaseLost when the lease is no longer ours.
        """

        def work(transaction: Transaction) -> ClockReading:
            transaction.ask_reading()
            at = ":now" if now is not None else self.db.dialect.now
            parameters: dict[str, Any] = {"device_id": device_id, "epoch": epoch}
            if now is not None:
                parameters["now"] = stamp(now)
            renewed = transaction.execute(
                sql(
                    f"UPDATE cl_device SET last_heartbeat = {at}, updated_at = {at}"
                    f" WHERE device_id = :device_id AND epoch = :epoch AND status = '{DeviceStatus.ONLINE}'"
                ),
                parameters,
            )
            transaction.execute(
                sql(
                    "INSERT INTO cl_device_heartbeat (device_id, device_epoch, heartbeat_time, cpu_usage, memory_usage,"
                    " disk_usage, network_status, running_tasks, system_load, error_count, delay_seconds, status_info,"
                    f" created_at) VALUES (:device_id, :epoch, {at}, :cpu, :memory, :disk, :network, :running, :load,"
                    f" :errors, :delay, :info, {at})"
                ),
                {
                    **parameters,
                    "cpu": beat.cpu_usage,
                    "memory": beat.memory_usage,
                    "disk": beat.disk_usage,
                    "network": beat.network_status,
                    "running": beat.running_tasks,
                    "load": beat.system_load,
                    "errors": beat.error_count,
                    "delay": beat.delay_seconds,
                    "info": json.dumps(beat.status_info, ensure_ascii=False),
                },
            )
            if not renewed.rowcount:
                raise LeaseLost(device_id, epoch)
            return transaction.reading

        return self.db.write(work)

    def latest(self, device_id: str) -> dict[str, Any] | None:
        """The newest beat of a device as a dict of its columns, or None."""
        table = schema.device_heartbeat
        query = (
            sa.select(table)
            .where(table.c.device_id == device_id)
            .order_by(table.c.heartbeat_time.desc(), table.c.id.desc())
        ).limit(1)
        with self.db.read() as reader:
            row = reader.execute(query).mappings().first()
        return None if row is None else dict(row)

    def sweep(self, older_than_days: float, now: datetime | None = None, most: int | None = None) -> int:
        """Delete beats older than so many days, in short transactions; how many."""
        return sweep(self.db, "cl_device_heartbeat", "heartbeat_time", older_than_days, now, most)


def sweep(
    db: Database, table: str, column: str, older_than_days: float, now: datetime | None, most: int | None = None
) -> int:
    """Delete rows whose moment is older than so many days, in batches that hold no lock for long.

    No further batch once `most` rows are gone.
    """
    deleted = 0
    while True:

        def work(transaction: Transaction) -> int:
            limit = stamp(transaction.now - timedelta(days=older_than_days))
            ids = (
                transaction.execute(
                    sql(f"SELECT id FROM {table} WHERE {column} < :limit ORDER BY {column} LIMIT {SWEEP_BATCH}"),
                    {"limit": limit},
                )
                .scalars()
                .all()
            )
            if ids:
                statement = db.dialect.delete_from(table, db.dialect.rows(id="int"), "t.id = v.id")
                transaction.execute(sql(statement), {"rows": json_rows([each] for each in ids)})
            return len(ids)

        count = db.write(work, now)
        deleted += count
        if count < SWEEP_BATCH or (most is not None and deleted >= most):
            return deleted
