"""DeviceManager: keeps the lease of this node alive, and watches over the other devices."""

from __future__ import annotations

import logging
from collections.abc import Callable

from crawlfleet.core.clock import Clock
from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, DatabaseUnreachable, LeaseLost
from crawlfleet.core.service import Service
from crawlfleet.services.caretaker import Caretaker
from crawlfleet.services.lease import Lease
from crawlfleet.settings.definitions import Settings

log = logging.getLogger(__name__)


class DeviceManager:
    """The heartbeat thread and the monitoring thread of a node. `on_beat` is called after each beat that arrived."""

    def __init__(
        self,
        db: Database,
        lease: Lease,
        settings: Settings,
        on_beat: Callable[[], None],
        on_fatal: Callable[[str], None],
    ) -> None:
        self.lease = lease
        self.heartbeat = Heartbeat(lease, settings.heartbeat_interval, db.clock, on_beat, on_fatal)
        self.monitoring = Caretaker(db, settings, lease)

    def start(self) -> None:
        """Start beating and monitoring; the device is registered."""
        self.heartbeat.start()
        self.monitoring.start()

    def stop(self) -> None:
        """Stop beating and leave the fleet: the device is offline. Comes last, since running work needs its lease."""
        for service in (self.monitoring, self.heartbeat):
            service.stop()
            service.join(5)
        self.lease.give_up()
        log.info("DeviceManager stopped")


class Heartbeat(Service):
    """The heartbeat thread: renews the lease, and notices when it is lost."""

    def __init__(
        self,
        lease: Lease,
        interval: float,
        clock: Clock,
        on_beat: Callable[[], None],
        on_fatal: Callable[[str], None],
    ) -> None:
        super().__init__("heartbeat", interval)
        self._lease = lease
        self._clock = clock
        self._on_beat = on_beat
        self._on_fatal = on_fatal
        self._next_at = 0.0
        self._missed = False

    def start(self) -> None:
        self._next_at = self._clock.monotonic() + self.interval
        super().start()

    def next_wait(self) -> float:
        return max(0.0, self._next_at - self._clock.monotonic())

    def run_once(self) -> bool:
        """Beat when it is time; True when a beat arrived."""
        here = self._clock.monotonic()
        if here < self._next_at:
            return False
        delay = here - self._next_at
        self._next_at = max(self._next_at + self.interval, here)
        lease = self._lease
        epoch = lease.epoch
        try:
            lease.beat(epoch, delay + lease.round_trip_seconds)
        except LeaseLost:
            return self._renew(epoch)
        except DatabaseUnreachable as error:
            if not self._missed:
                self._missed = True
                log.warning("heartbeat did not reach the database: device=%s: %s", lease.device_id, error)
            return False
        if self._missed:
            self._missed = False
            log.info("heartbeat reaches the database again: device=%s", lease.device_id)
        self._on_beat()
        return True

    def _renew(self, lost_epoch: int) -> bool:
        try:
            epoch = self._lease.renew(lost_epoch)
        except DatabaseUnreachable:
            return False
        except CrawlfleetError as error:
            self._on_fatal(str(error))
            self.stop()
            return False
        log.warning("lease was lost, registered again: device=%s epoch=%d", self._lease.device_id, epoch)
        self._on_beat()
        return True
