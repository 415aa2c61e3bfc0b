"""cl_device: which devices there are, and the lease that each holds.

A process proves who it is by (device_id, epoch). The lease is the device's: it lasts while that pair beats.
Whatever changes a device takes the lock of its row first. So a claim, a registration and the caretaker's verdict
never overlap.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.clock import ClockReading
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DeviceRefused, LeaseLost
from crawlfleet.core.process import ProcessIdentity, forget, is_gone
from crawlfleet.core.sql import json_value, sql, stamp, utc
from crawlfleet.core.transaction import Answer, AnyRow, Result, Statements, Transaction
from crawlfleet.model import audit, fleet_state, rescue, schema
from crawlfleet.model.lifecycle import LIVE_RUN, DeviceStatus

FUTURE_SECONDS = 1.0  # two statements that wait for each other may be dated so much in the wrong order

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceInfo:
    """What a device tells about itself when it registers.

    `capabilities["supported_tasks"]` are its task types, `capabilities["labels"]` its labels.
    """

    device_id: str
    device_name: str
    device_type: str
    ip_address: str
    port: int
    max_concurrent_tasks: int
    process: ProcessIdentity
    version: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceState:
    """What a scheduler must know before it claims.

    `may_claim`: neither is the device draining nor the queue paused. `master_alive`: some master assigns tasks.
    `due_at`: when the next task that is not due yet becomes due, `opens_at`: when the next lane that waits for a budget
    opens, or None. `reading` is the database's clock as it was read along.
    """

    reading: ClockReading
    may_claim: bool
    master_alive: bool
    due_at: datetime | None
    opens_at: datetime | None


class DeviceDAO:
    """The table of devices."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def init_table(self) -> None:
        """Tell that the table is there; `migrations.upgrade` made it."""
        log.info("Table %s initialized", schema.device.name)

    def register_device(
        self,
        info: DeviceInfo,
        offline_timeout: float,
        takeover: bool = False,
        again: bool = False,
        now: datetime | None = None,
    ) -> int:
        """Make this process the device; its new epoch. Runs of the former epoch are expired with it.

        Raises DeviceRefused while another process holds the id: one that lives on this host, or one elsewhere
        that was heard of within `offline_timeout` seconds, unless `takeover`. `again` says that this process may be
        the holder itself: it lost its lease, or the reply to its registration.
        """

        def work(transaction: Transaction) -> tuple[int, int, Mapping[str, Any]] | DeviceRefused:
            # The epoch's row is locked first, so two registrations of one new id wait for each other.
            next_epoch = fleet_state.next_epoch(transaction)
            transaction.ask_reading()
            result = transaction.execute(
                sql(f"SELECT * FROM cl_device WHERE device_id = :device_id{self.db.dialect.for_update}"),
                {"device_id": info.device_id},
            )
            epoch, former = next_epoch.read(), result.mappings().first()
            moment = transaction.now
            if former is not None and not takeover:
                refused = self._check_free(former, info.process, again, moment, offline_timeout)
                if refused is not None:
                    self._mend_heartbeats(transaction)
                    return refused
            self._write(transaction, info, epoch, former is None)
            lease_ends_at = moment if former is None else _lease_end(former, info.process, moment, offline_timeout)
            rescued = rescue.expire_device(transaction, info.device_id, lease_ends_at)
            return epoch, rescued, {} if former is None else json_value(former["process"])

        done = self.db.write(work, now)
        if isinstance(done, DeviceRefused):
            raise done
        epoch, rescued, process = done
        if is_gone(process):
            forget(process)
        log.info("Device registered: %s", info.device_id)
        if rescued:
            log.info("Released %d tasks of the former process of device %s", rescued, info.device_id)
        return epoch

    def _check_free(
        self, former: AnyRow, own: ProcessIdentity, again: bool, now: datetime, offline_timeout: float
    ) -> DeviceRefused | None:
        if former["status"] != DeviceStatus.ONLINE:
            return None
        process = json_value(former["process"])
        if again and process == own.as_dict():
            return None
        # One that registers again and meets another living process came first; older programs prove too little to
        # throw that one out in turn.
        gone = None if again and "witness" not in process else is_gone(process)
        silent = max(0.0, (now - utc(former["last_heartbeat"])).total_seconds())  # type: ignore[operator]
        if gone or (gone is None and silent >= offline_timeout):
            return None
        where = f"on host {process.get('hostname')} (pid {process.get('pid')}, address {former['ip_address']})"
        wait = "" if gone is False else f", wait {max(1, round(offline_timeout - silent))} s if it is dead"
        return DeviceRefused(
            f"device id {former['device_id']!r} is alive: last seen {silent:.0f} s ago {where}: stop it there{wait},"
            " choose another --device-id, or take the id over with --takeover"
        )

    @staticmethod
    def _mend_heartbeats(transaction: Transaction) -> None:
        """Beats of later than now are of before the database's clock was set back: they count from now, or whoever is
        dead would seem alive until the clock has come so far again."""
        statement = (
            "UPDATE cl_device SET last_heartbeat = :now"
            f" WHERE status = '{DeviceStatus.ONLINE}' AND last_heartbeat > :later"
        )
        later = transaction.now + timedelta(seconds=FUTURE_SECONDS)
        transaction.execute(sql(statement), {"now": stamp(transaction.now), "later": stamp(later)})

    def _write(self, transaction: Transaction, info: DeviceInfo, epoch: int, new: bool) -> None:
        now = stamp(transaction.now)
        values = {
            "device_id": info.device_id,
            "device_name": info.device_name,
            "device_type": info.device_type,
            "ip_address": info.ip_address,
            "port": info.port,
            "status": DeviceStatus.ONLINE.value,
            "capabilities": json.dumps(info.capabilities, ensure_ascii=False),
            "max_concurrent_tasks": info.max_concurrent_tasks,
            "epoch": epoch,
            "process": json.dumps(info.process.as_dict(), ensure_ascii=False),
            "version": info.version,
            "last_heartbeat": now,
            "registered_at": now,
            "updated_at": now,
        }
        if new:
            values["created_at"] = now
            names = ", ".join(values)
            binds = ", ".join(f":{name}" for name in values)
            transaction.execute(sql(f"INSERT INTO cl_device ({names}, draining) VALUES ({binds}, {_FALSE})"), values)
        else:
            pairs = ", ".join(f"{name} = :{name}" for name in values if name != "device_id")
            transaction.execute(
                sql(f"UPDATE cl_device SET {pairs}, draining = {_FALSE} WHERE device_id = :device_id"), values
            )

    def hold(self, transaction: Transaction, device_id: str, epoch: int) -> Answer[DeviceState]:
        """Lock the device's row for this transaction. Its state has the database's clock along, which is the
        transaction's from then on.

        Reading it raises LeaseLost when the device is no longer this process.
        """
        lock = " FOR UPDATE OF d" if self.db.family == "postgresql" else self.db.dialect.for_update
        return self._ask_state(transaction, device_id, epoch, lock)

    def state(self, reader: Statements, device_id: str, epoch: int) -> DeviceState:
        """Like `hold`, but without the lock: good for a look, not for a claim."""
        return self._ask_state(reader, device_id, epoch, "").read()

    def _ask_state(self, reader: Statements, device_id: str, epoch: int, lock: str) -> Answer[DeviceState]:
        asked = reader.execute(
            sql(
                f"SELECT d.epoch, d.status, d.draining, {self.db.dialect.now},"
                " (SELECT p.value FROM cl_fleet_state p WHERE p.name = 'paused'),"
                # not MIN, for which MariaDB reads them all
                " (SELECT t.wake_at FROM cl_crawl_task t WHERE t.wake_at IS NOT NULL ORDER BY t.wake_at LIMIT 1),"
                " (SELECT l.wake_at FROM cl_lane l WHERE l.wake_at IS NOT NULL ORDER BY l.wake_at LIMIT 1),"
                " (SELECT COUNT(*) FROM cl_device m WHERE m.device_type = 'master'"
                f" AND m.status = '{DeviceStatus.ONLINE}' AND NOT m.draining)"
                f" FROM cl_device d WHERE d.device_id = :device_id{lock}"
            ),
            {"device_id": device_id},
        )

        def read(result: Result) -> DeviceState:
            row = result.first()
            if row is None or row[0] != epoch or row[1] != DeviceStatus.ONLINE:
                raise LeaseLost(device_id, epoch)
            reading = result.read_clock(row[3])
            reader.take_reading(reading)
            may_claim = not row[2] and not row[4]
            return DeviceState(reading, may_claim, row[7] > 0, utc(row[5]), utc(row[6]))

        return asked.map(read)

    def set_offline(self, device_id: str, epoch: int) -> None:
        """The node has stopped: nothing of it is left to rescue. No effect when the id is someone else's by now."""

        def work(transaction: Transaction) -> None:
            changed = transaction.execute(
                sql(
                    f"UPDATE cl_device SET status = '{DeviceStatus.OFFLINE}', updated_at = :now"
                    " WHERE device_id = :device_id AND epoch = :epoch"
                ),
                {"device_id": device_id, "epoch": epoch, "now": stamp(transaction.now)},
            ).rowcount
            if changed:
                rescue.expire_device(transaction, device_id)

        self.db.write(work)

    def mark_silent_offline(
        self, offline_timeout: float, now: datetime | None = None, before: ClockReading | None = None
    ) -> list[tuple[str, int]]:
        """Declare devices offline that were silent for `offline_timeout` seconds: (device id, tasks released).

        Nobody when the database's clock was moved ahead since the reading `before`: who seems silent may not be.
        """
        with self.db.read(now) as reader:
            moment = reader.now
            if before is not None and reader.reading.moved_since(before) > 0:
                return []
            limit, later = moment - timedelta(seconds=offline_timeout), moment + timedelta(seconds=FUTURE_SECONDS)
            statement = sql(
                f"SELECT device_id, last_heartbeat FROM cl_device WHERE status = '{DeviceStatus.ONLINE}'"
                " AND (last_heartbeat <= :limit OR last_heartbeat > :later)"
            )
            rows = reader.execute(statement, {"limit": stamp(limit), "later": stamp(later)}).all()
        silent = [device_id for device_id, beat in rows if utc(beat) <= limit]  # type: ignore[operator]
        if len(silent) < len(rows):
            self.db.write(self._mend_heartbeats, now)
        marked = [(device_id, self._mark_offline(device_id, offline_timeout, now)) for device_id in silent]
        return [(device_id, released) for device_id, released in marked if released is not None]

    def _mark_offline(self, device_id: str, offline_timeout: float, now: datetime | None) -> int | None:
        def work(transaction: Transaction) -> int | None:
            moment = transaction.now
            changed = transaction.execute(
                sql(
                    f"UPDATE cl_device SET status = '{DeviceStatus.OFFLINE}', updated_at = :now"
                    f" WHERE device_id = :device_id AND status = '{DeviceStatus.ONLINE}' AND last_heartbeat <= :limit"
                ),
                {
                    "device_id": device_id,
                    "now": stamp(moment),
                    "limit": stamp(moment - timedelta(seconds=offline_timeout)),
                },
            ).rowcount
            return rescue.expire_device(transaction, device_id) if changed else None

        return self.db.write(work, now)

    def known_types(self, offline_timeout: float, now: datetime | None = None) -> set[str]:
        """The task types that some device can run: one seen within `offline_timeout` seconds, or still online.

        After an outage of the database all beats are old, and the devices that nobody declared offline come back.
        """
        with self.db.read(now) as reader:
            moment = reader.now
            rows = (
                reader.execute(
                    sql(
                        "SELECT capabilities FROM cl_device WHERE last_heartbeat > :limit"
                        f" OR status = '{DeviceStatus.ONLINE}'"
                    ),
                    {"limit": stamp(moment - timedelta(seconds=offline_timeout))},
                )
                .scalars()
                .all()
            )
        return {name for row in rows for name in json_value(row).get("supported_tasks", ())}

    def types_ever_known(self) -> set[str]:
        """The task types that any device knows or knew that the fleet has not forgotten."""
        with self.db.read() as reader:
            rows = reader.execute(sql("SELECT capabilities FROM cl_device")).scalars().all()
        return {name for row in rows for name in json_value(row).get("supported_tasks", ())}

    def set_lacking(self, device_id: str, epoch: int, lacking: Sequence[Mapping[str, str]]) -> None:
        """Tell of which accounts a device lacks the token: `source`, `username` and `reason` of each."""

        def work(transaction: Transaction) -> None:
            mine = {"device_id": device_id, "epoch": epoch}
            capabilities = transaction.execute(
                sql(
                    "SELECT capabilities FROM cl_device WHERE device_id = :device_id AND epoch = :epoch"
                    + self.db.dialect.for_update
                ),
                mine,
            ).scalars()
            for stored in capabilities:
                text = json.dumps({**json_value(stored), "lacking": [*lacking]}, ensure_ascii=False)
                given = "CAST(:text AS json)" if self.db.family == "postgresql" else ":text"
                mark = f"UPDATE cl_device SET capabilities = {given} WHERE device_id = :device_id AND epoch = :epoch"
                transaction.execute(sql(mark), {**mine, "text": text})

        self.db.write(work)

    def set_draining(self, device_id: str, draining: bool, actor: str | None = None) -> bool:
        """Ask a device to claim nothing more, or to go on; False when there is no such device."""

        def work(transaction: Transaction) -> bool:
            changed = transaction.execute(
                sql(
                    f"UPDATE cl_device SET draining = {_TRUE if draining else _FALSE}, updated_at = :now"
                    " WHERE device_id = :device_id"
                ),
                {"device_id": device_id, "now": stamp(transaction.now)},
            ).rowcount
            if changed:
                audit.record(transaction, actor, "devices.drain" if draining else "devices.resume", device_id)
            return bool(changed)

        return self.db.write(work)

    def remove(self, device_id: str, actor: str | None = None, offline_timeout: float | None = None) -> int | None:
        """Forget a device; its assignments and heartbeats stay until they expire. How many tasks went back to the
        queue, None when there is no such device.

        One that is online is only removed with an `offline_timeout`: it may act until its lease of so many seconds has
        ended, so the calls that it holds count until then. Raises DeviceRefused without.
        """

        def work(transaction: Transaction) -> int | None:
            device = transaction.execute(
                sql(
                    "SELECT status, last_heartbeat FROM cl_device WHERE device_id = :device_id"
                    + self.db.dialect.for_update
                ),
                {"device_id": device_id},
            ).first()
            if device is None:
                return None
            now, lease_ends_at = transaction.now, None
            if device[0] == DeviceStatus.ONLINE:
                if offline_timeout is None:
                    raise DeviceRefused(
                        f"device {device_id} is online: stop it first, or remove it all the same with"
                        f" `devices remove --force {device_id}`, which gives its tasks back"
                    )
                last_heartbeat = utc(device[1])
                assert last_heartbeat is not None
                lease_ends_at = max(now, min(now, last_heartbeat) + timedelta(seconds=offline_timeout))
            released = rescue.expire_device(transaction, device_id, lease_ends_at)
            transaction.execute(sql("DELETE FROM cl_device WHERE device_id = :device_id"), {"device_id": device_id})
            audit.record(transaction, actor, "devices.remove", device_id)
            return released

        return self.db.write(work)

    def find(self) -> list[dict[str, Any]]:
        """All devices as dicts of their columns and `current_tasks`, which is counted."""
        device, run = schema.device, schema.task_assignment
        live = sa.select(sa.func.count()).where(
            run.c.device_id == device.c.device_id, run.c.status.in_([state.value for state in LIVE_RUN])
        )
        query = sa.select(device, live.scalar_subquery().label("current_tasks")).order_by(device.c.device_id)
        with self.db.read() as reader:
            return [dict(row) for row in reader.execute(query).mappings()]


def _lease_end(former: AnyRow, own: ProcessIdentity, now: datetime, offline_timeout: float) -> datetime:
    """Until when the former process may act as the device: one that was taken over and may live does not know yet."""
    process = json_value(former["process"])
    if former["status"] != DeviceStatus.ONLINE or process == own.as_dict() or is_gone(process):
        return now
    last_heartbeat = utc(former["last_heartbeat"])
    assert last_heartbeat is not None
    return max(now, min(now, last_heartbeat) + timedelta(seconds=offline_timeout))


_TRUE, _FALSE = "(1 = 1)", "(1 = 0)"  # the one spelling of a boolean that all three databases read
