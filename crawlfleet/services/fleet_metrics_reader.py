"""The fleet's figures for /metrics: read in the background while somebody scrapes, and answered from memory."""

from __future__ import annotations

from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.service import Service
from crawlfleet.insights.fleet_metrics import FleetMetrics, read_fleet_metrics

REFRESH_SECONDS = 15.0
READ_SHARE = 0.02  # of the time may go into reading: a deep queue is counted less often
INTEREST_SECONDS = 300.0  # after the last scrape


class FleetMetricsReader(Service):
    """`latest` is None until they were read, and while the database is away. Starts with the first `want`."""

    def __init__(self, db: Database) -> None:
        super().__init__("figures", REFRESH_SECONDS)
        self.db = db
        self.latest: FleetMetrics | None = None
        self.read_at = 0.0  # monotonic
        self.read_seconds = 0.0  # that reading them took
        self._wanted_at = float("-inf")
        self._due_at = 0.0

    @property
    def age_seconds(self) -> float:
        """How long ago they were read."""
        return self.db.clock.monotonic() - self.read_at

    def want(self) -> None:
        """Somebody looks at them; returns at once."""
        self._wanted_at = self.db.clock.monotonic()
        self.start()
        if self._wanted_at >= self._due_at:
            self.wake()

    def next_wait(self) -> float:
        return self._due_at - self.db.clock.monotonic() if self._is_wanted() else INTEREST_SECONDS

    def run_once(self) -> bool:
        """Read them when it is time; True when they were read."""
        began = self.db.clock.monotonic()
        if began < self._due_at or not self._is_wanted():
            return False
        self._due_at = began + self.interval
        try:
            self.latest = read_fleet_metrics(self.db)
        except DatabaseUnreachable:  # the scheduler tells
            self.latest = None
            return False
        self.read_at = self.db.clock.monotonic()
        self.read_seconds = self.read_at - began
        self._due_at = self.read_at + max(self.interval, self.read_seconds / READ_SHARE)
        return True

    def _is_wanted(self) -> bool:
        return self.db.clock.monotonic() - self._wanted_at < INTEREST_SECONDS
