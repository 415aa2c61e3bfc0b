"""DeviceManager: registers this node as a device, keeps its lease alive, and watches over the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crawlfleet.core.backoff import Backoff
from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, DatabaseUnreachable, LeaseLost
from crawlfleet.core.service import Service
from crawlfleet.core.system_metrics import MachineUse, network_status
from crawlfleet.model.device import DeviceDAO, DeviceInfo
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.services.caretaker import Caretaker

log = logging.getLogger(__name__)

LEASE_MARGIN_SECONDS = 0.1  # a call that is sent this long before the lease may end has arrived by then


@dataclass(frozen=True)
class DeviceOptions:
    """Intervals in seconds, retention in days."""

    heartbeat_interval: float = 30
    offline_timeout: float = 300
    heartbeat_retention_days: float = 7
    assignment_retention_days: float = 30
    task_log_retention_days: float = 7
    enable_monitoring: bool = False
    takeover: bool = False


@dataclass(frozen=True)
class WorkReport:
    """What the scheduler tells for a beat: bodies that run, counters since the node started, and how the work goes."""

    running_tasks: int
    counters: Mapping[str, int]
    performance: Mapping[str, Any] = field(default_factory=dict)


class DeviceManager:
    """The registration of this process, its heartbeat thread and its monitoring thread."""

    def __init__(self, db: Database, info: DeviceInfo, options: DeviceOptions, on_fatal: Callable[[str], None]) -> None:
        self.db = db
        self.info = info
        self.options = options
        self.device_id = info.device_id
        self._on_fatal = on_fatal
        self._devices = DeviceDAO(db)
        self._lock = threading.Lock()
        self._epoch = 0
        self._use = MachineUse()
        self._work: Callable[[], WorkReport] = lambda: WorkReport(0, {})
        self._on_beat: Callable[[], None] = lambda: None
        self.heartbeat = Heartbeat(self)
        self.monitoring = Caretaker(db, options, lambda: self.heartbeat.beating_since)
        log.info("DeviceManager initialized")

    @property
    def epoch(self) -> int:
        """The newest registration of this process."""
        return self._epoch

    @property
    def online(self) -> bool:
        """Whether the fleet counts this device as online, as far as this process can know without asking."""
        arrived_at = self.heartbeat.arrived_at
        return arrived_at is not None and time.monotonic() - arrived_at < self.options.offline_timeout

    @property
    def trusted_until(self) -> float:
        """Until when, on the monotonic clock, nobody can have declared this device offline."""
        return self.heartbeat.sent_at + self.options.offline_timeout - LEASE_MARGIN_SECONDS

    def register(self, wait_seconds: float = 0) -> None:
        """Register and write the first heartbeat; raises DeviceRefused when the id is alive elsewhere.

        Tries for `wait_seconds` while the database is away: registering again after a lost reply only takes the
        next epoch.
        """
        deadline, backoff = time.monotonic() + wait_seconds, Backoff()
        with self._lock:
            while True:
                try:
                    return self._register(self.options.takeover, again=backoff.failures > 0)
                except DatabaseUnreachable as error:
                    if time.monotonic() > deadline:
                        raise
                    log.warning("registration did not reach the database, trying again: %s", error)
                    time.sleep(backoff.next())

    def renew(self, lost_epoch: int) -> int:
        """Register again after `lost_epoch` was lost; the new epoch.

        Several threads may notice the loss: only the first registers. Raises DeviceRefused when another process
        holds the id by now.
        """
        with self._lock:
            if self._epoch == lost_epoch:
                self._register(takeover=False, again=True)
            return self._epoch

    def _register(self, takeover: bool, again: bool) -> None:
        epoch = self._devices.register_device(self.info, self.options.offline_timeout, takeover, again)
        self.heartbeat.send(epoch, delay_seconds=0.0)
        self._epoch = epoch

    def start(self, work: Callable[[], WorkReport], on_beat: Callable[[], None]) -> None:
        """Start beating and monitoring; `work` fills the beats, `on_beat` is called after each."""
        self._work, self._on_beat = work, on_beat
        self.heartbeat.start()
        self.monitoring.start()
        log.info("DeviceManager started")

    def stop(self) -> None:
        """Stop beating and leave the fleet: the device is offline. Comes last, since running work needs its lease."""
        for service in (self.monitoring, self.heartbeat):
            service.stop()
            service.join(5)
        self.heartbeat.arrived_at = None
        try:
            self._devices.set_offline(self.device_id, self._epoch)
        except DatabaseUnreachable as error:
            log.warning("device could not be marked offline, the others will notice: %s", error)
        log.info("DeviceManager stopped")

    def lost(self, error: CrawlfleetError) -> None:
        """Another process has taken the device id."""
        self._on_fatal(str(error))

    def measure(self, delay_seconds: float, round_trip_seconds: float) -> Beat:
        """What this beat tells."""
        work = self._work()
        use = self._use.read()
        status: dict[str, Any] = {"round_trip_seconds": round(round_trip_seconds, 4), **work.counters}
        if self.options.enable_monitoring:
            status |= {**self._use.process(), **work.performance}
        return Beat(
            cpu_usage=use["cpu_usage"],
            memory_usage=use["memory_usage"],
            disk_usage=use["disk_usage"],
            network_status=network_status(round_trip_seconds),
            running_tasks=work.running_tasks,
            system_load=use["system_load"],
            error_count=work.counters.get("errors", 0),
            delay_seconds=round(delay_seconds, 4),
            status_info=status,
        )

    def after_beat(self) -> None:
        self._on_beat()


class Heartbeat(Service):
    """The heartbeat thread: measures, renews the lease, and notices when it is lost."""

    def __init__(self, manager: DeviceManager) -> None:
        super().__init__("heartbeat", manager.options.heartbeat_interval)
        self._manager = manager
        self._dao = DeviceHeartbeatDAO(manager.db)
        self._next_at = 0.0
        self._missed = False
        self.round_trip_seconds = 0.0  # of the latest beat that arrived
        self.latest: Beat | None = None  # the latest beat that arrived
        self.sent_at = 0.0  # monotonic; when it was sent
        self.arrived_at: float | None = None  # monotonic; when it did, None once the lease is gone
        self.beating_since: float | None = None  # monotonic; since when every beat arrived

    def start(self) -> None:
        self._next_at = time.monotonic() + self.interval
        super().start()

    def next_wait(self) -> float:
        return max(0.0, self._next_at - time.monotonic())

    def send(self, epoch: int, delay_seconds: float) -> None:
        """Write one beat; raises LeaseLost or DatabaseUnreachable."""
        began = time.monotonic()
        beat = self._manager.measure(delay_seconds, self.round_trip_seconds)
        self._dao.beat(self._manager.device_id, epoch, beat)
        self.latest, self.sent_at, self.arrived_at = beat, began, time.monotonic()
        self.round_trip_seconds = self.arrived_at - began
        if self.beating_since is None:
            self.beating_since = time.monotonic()

    def run_once(self) -> bool:
        """Beat when it is time; True when a beat arrived."""
        here = time.monotonic()
        if here < self._next_at:
            return False
        delay = here - self._next_at
        self._next_at = max(self._next_at + self.interval, here)
        epoch = self._manager.epoch
        try:
            self.send(epoch, delay + self.round_trip_seconds)
        except LeaseLost:
            self.beating_since = self.arrived_at = None
            return self._renew(epoch)
        except DatabaseUnreachable as error:
            self.beating_since = None
            if not self._missed:
                self._missed = True
                log.warning("heartbeat did not reach the database: device=%s: %s", self._manager.device_id, error)
            return False
        if self._missed:
            self._missed = False
            log.info("heartbeat reaches the database again: device=%s", self._manager.device_id)
        self._manager.after_beat()
        return True

    def _renew(self, epoch: int) -> bool:
        try:
            self._manager.renew(epoch)
        except DatabaseUnreachable:
            return False
        except CrawlfleetError as error:
            self._manager.lost(error)
            self.stop()
            return False
        log.warning(
            "lease was lost, registered again: device=%s epoch=%d", self._manager.device_id, self._manager.epoch
        )
        self._manager.after_beat()
        return True
