"""The monitoring thread: marks silent devices offline, tells of tasks that nobody can run, deletes what has expired."""

from __future__ import annotations

import logging

from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.service import Service
from crawlfleet.model import queue_depth
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import DeviceHeartbeatDAO
from crawlfleet.model.task_assignment import TaskAssignmentDAO
from crawlfleet.model.task_log import TaskLogDAO
from crawlfleet.services.lease import Lease
from crawlfleet.settings.definitions import Settings

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3600.0  # between two deletions of expired rows


class Caretaker(Service):
    """One pass every min(heartbeat_interval, offline_timeout / 4) seconds; any number of nodes may do it."""

    def __init__(self, db: Database, settings: Settings, lease: Lease) -> None:
        super().__init__("monitoring", min(settings.heartbeat_interval, settings.offline_timeout / 4))
        self.db = db
        self.settings = settings
        self._lease = lease
        self._clock = db.clock
        self._devices = DeviceDAO(db)
        self._swept_at: float | None = None
        self._missing: set[str] = set()  # task types that were told

    def run_once(self) -> int:
        """One pass; how many devices were marked offline."""
        try:
            offline = self.mark_offline() if self._may_judge() else 0
            self.tell_missing_executors()
            self._sweep()
        except DatabaseUnreachable:
            return 0  # the heartbeat and the scheduler tell that the database is away
        return offline

    def _may_judge(self) -> bool:
        """After an outage of the database everybody's beats are old and nobody is dead: judge only after a full
        offline_timeout of own beats that all arrived."""
        since = self._lease.beating_since
        return since is not None and self._clock.monotonic() - since >= self.settings.offline_timeout

    def mark_offline(self) -> int:
        """Mark the devices offline that were silent for offline_timeout, and give their tasks back."""
        found = self._devices.mark_silent_offline(self.settings.offline_timeout, before=self._lease.reading)
        for device_id, released in found:
            log.warning("Device %s is offline, releasing its tasks", device_id)
            log.info("Released %d tasks from offline device %s", released, device_id)
        return len(found)

    def tell_missing_executors(self) -> None:
        """Tell, once for each type, that due tasks wait since no device knows their type that is online or was within
        offline_timeout. That nobody is there says nothing about a task: it waits."""
        known = self._devices.known_types(self.settings.offline_timeout)
        with self.db.read() as reader:
            waiting = queue_depth.due_of_unknown_types(reader, known)
        for task_type in waiting.keys() - self._missing:
            log.warning(
                "missing executor: type=%s tasks=%d wait for a node that knows it", task_type, waiting[task_type]
            )
        self._missing = set(waiting)

    def _sweep(self) -> None:
        if self._swept_at is not None and self._clock.monotonic() - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = self._clock.monotonic()
        beats = DeviceHeartbeatDAO(self.db).sweep(self.settings.heartbeat_retention_days)
        runs = TaskAssignmentDAO(self.db).sweep(self.settings.assignment_retention_days)
        lines = TaskLogDAO(self.db).sweep(self.settings.task_log_retention_days)
        if beats or runs or lines:
            log.info("Deleted expired rows: heartbeats=%d assignments=%d log_lines=%d", beats, runs, lines)
