"""The lease: which registration of its device this process holds, and for how long it may rely on it.

It lasts while beats arrive. The heartbeat renews it, the scheduler works under it, and whoever finds it lost has it
renewed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from crawlfleet.core.backoff import Backoff
from crawlfleet.core.clock import ClockReading, pause
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable, LeaseLost
from crawlfleet.core.process import forget
from crawlfleet.model.device import DeviceDAO, DeviceInfo
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.services.vital_signs import VitalSigns

log = logging.getLogger(__name__)

LEASE_MARGIN_SECONDS = 0.1  # a call that is sent this long before the lease may end has arrived by then

STEP_SECONDS = 0.5  # by which the database's clock was moved: worth a line


class Lease:
    """The registration of this process. Any thread may use it; moments are seconds of the monotonic clock.

    `epoch` is that of the newest registration, 0 before the first. `latest` is the latest beat that arrived and
    `round_trip_seconds` how long that took. `arrived_at` is when it did, None once the lease is gone. `beating_since`
    is since when every beat arrived, None after one that did not.
    """

    def __init__(self, db: Database, info: DeviceInfo, signs: VitalSigns, offline_timeout: float) -> None:
        self.device_id = info.device_id
        self.epoch = 0
        self.latest: Beat | None = None
        self.round_trip_seconds = 0.0
        self.arrived_at: float | None = None
        self.beating_since: float | None = None
        self._info = info
        self._signs = signs
        self._offline_timeout = offline_timeout
        self.reading: ClockReading | None = None  # of the database's clock, by that beat
        self._sent_at = 0.0  # of the latest beat that arrived
        self._devices = DeviceDAO(db)
        self._beats = DeviceHeartbeatDAO(db)
        self._clock = db.clock
        self._lock = threading.Lock()

    @property
    def trusted_until(self) -> float:
        """Until when nobody can have declared this device offline."""
        return self._sent_at + self._offline_timeout - LEASE_MARGIN_SECONDS

    @property
    def online(self) -> bool:
        """Whether the fleet counts this device as online, as far as this process can know without asking."""
        age_seconds = self.age_seconds
        return age_seconds is not None and age_seconds < self._offline_timeout

    @property
    def age_seconds(self) -> float | None:
        """How long ago the latest beat arrived, None once the lease is gone."""
        arrived_at = self.arrived_at
        return None if arrived_at is None else max(0.0, self._clock.monotonic() - arrived_at)

    def register(
        self, takeover: bool = False, wait_seconds: float = 0, is_ending: Callable[[], bool] = lambda: False
    ) -> None:
        """Register and write the first heartbeat; raises DeviceRefused when the id is alive elsewhere.

        `takeover` takes the id even so. Tries for `wait_seconds` while the database is away: registering again after
        a lost reply only takes the next epoch. A node that `is_ending` does not register any more.
        """
        deadline, backoff = self._clock.monotonic() + wait_seconds, Backoff()
        with self._lock:
            while not is_ending():
                try:
                    self._register(takeover, again=backoff.failures > 0)
                    return
                except DatabaseUnreachable as error:
                    if self._clock.monotonic() > deadline:
                        raise
                    log.warning("registration did not reach the database, trying again: %s", error)
                    pause(backoff.next())

    def renew(self, lost_epoch: int) -> int:
        """Register again after `lost_epoch` was lost; the new epoch.

        Several threads may notice the loss: only the first registers. Raises DeviceRefused when another process
        holds the id by now.
        """
        with self._lock:
            if self.epoch == lost_epoch:
                self._register(takeover=False, again=True)
            return self.epoch

    def _register(self, takeover: bool, again: bool) -> None:
        self.epoch = self._devices.register_device(self._info, self._offline_timeout, takeover, again)
        self.beat(self.epoch, delay_seconds=0.0)

    def beat(self, epoch: int, delay_seconds: float) -> None:
        """Write one beat, which is so late; raises LeaseLost or DatabaseUnreachable."""
        began = self._clock.monotonic()
        beat = self._signs.measure(delay_seconds, self.round_trip_seconds)
        try:
            reading = self._beats.beat(self.device_id, epoch, beat)
        except LeaseLost:
            self.beating_since = self.arrived_at = None
            raise
        except DatabaseUnreachable:
            self.beating_since = None
            raise
        self.latest, self._sent_at, self.arrived_at = beat, began, self._clock.monotonic()
        self.round_trip_seconds = self.arrived_at - began
        self._compare(reading)
        if self.beating_since is None:
            self.beating_since = self._clock.monotonic()

    def _compare(self, reading: ClockReading) -> None:
        """Tell when the database's clock was moved. Ahead, it makes everybody look silent, as an outage does."""
        moved = 0.0 if self.reading is None else reading.moved_since(self.reading)
        self.reading = reading
        if abs(moved) >= STEP_SECONDS:
            log.warning(
                "the database's clock was moved by %+.1f s against this node's: device=%s: calls keep their distance"
                " by this node's clock; look after the time service of the database's host, or of this one",
                moved,
                self.device_id,
            )
            self.beating_since = None if moved > 0 else self.beating_since

    def give_up(self) -> None:
        """Leave the fleet: the device is offline, unless another process holds its id by now."""
        self.arrived_at = None
        if not self.epoch:
            return
        try:
            self._devices.set_offline(self.device_id, self.epoch)
            forget(self._info.process.as_dict())
        except DatabaseUnreachable as error:
            log.warning("device could not be marked offline, the others will notice: %s", error)
