"""What /metrics shows of one node: the counters of its scheduler and what its latest heartbeat told.

All of it is in memory: a scrape asks neither the database nor the machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crawlfleet import __version__
from crawlfleet.model.device_heartbeat import Beat
from crawlfleet.services.node import Node

MOVES = ("finish", "fail", "retry", "release", "expire", "bury")  # shown from the start, so that rates can be taken
OTHER_COUNTERS = {
    "errors": ("crawlfleet_errors", "Runs that ended with an error, whatever became of their task"),
    "stale results rejected": ("crawlfleet_stale_results_rejected", "Results of runs that were no longer this node's"),
}
MACHINE = {
    "system_cpu_percent": ("cpu_usage", "CPU use of the machine since the beat before"),
    "system_memory_percent": ("memory_usage", "Memory use of the machine"),
    "system_disk_percent": ("disk_usage", "Use of the disk that holds the working directory"),
    "system_load": ("system_load", "Load average over one minute"),
}
PROCESS = {
    "process_memory_bytes": "Resident memory of the node",
    "process_cpu_percent": "CPU use of the node since the beat before, in percent of one core",
    "process_threads": "Threads of the node",
}


class NodeMetrics(Collector):
    """The metrics of one node; process and machine only when it monitors them (enable_monitoring)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing ahead: there is one collector, so no name can be taken twice."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        settings, manager, scheduler = self._node.settings, self._node.manager, self._node.scheduler
        who = GaugeMetricFamily("crawlfleet_node_info", "Which node this is", labels=["device_id", "mode", "version"])
        who.add_metric([manager.device_id, settings.mode, __version__], 1)
        yield who
        yield _gauge("device_online", "1 while the fleet counts this device as online", manager.online)
        yield _gauge("bodies_running", "Task bodies that run now", scheduler.bodies)
        yield _gauge("slots", "Task bodies that may run at once", settings.slots)
        yield from self._counters()
        beat, arrived_at = manager.heartbeat.latest, manager.heartbeat.arrived_at
        if beat is not None:
            yield _gauge("heartbeat_delay_seconds", "How late the latest heartbeat was", beat.delay_seconds)
            round_trip = manager.heartbeat.round_trip_seconds
            yield _gauge("round_trip_seconds", "How long the database took to store it", round_trip)
            if settings.enable_monitoring:
                yield from _monitored(beat)
        if arrived_at is not None:
            yield _gauge("heartbeat_age_seconds", "Time since it arrived", max(0.0, time.monotonic() - arrived_at))

    def _counters(self) -> Iterator[Metric]:
        counted = dict(self._node.scheduler.counters)
        moves = CounterMetricFamily(
            "crawlfleet_moves",
            "Runs of this node that ended, by what became of the task; success rate: finish / (finish + fail + bury)",
            labels=["move"],
        )
        for move in dict.fromkeys((*MOVES, *(name for name in counted if name not in OTHER_COUNTERS))):
            moves.add_metric([move], counted.get(move, 0))
        yield moves
        for key, (name, help_line) in OTHER_COUNTERS.items():
            yield CounterMetricFamily(name, help_line, value=counted.get(key, 0))


def _monitored(beat: Beat) -> Iterator[Metric]:
    for name, (field, help_line) in MACHINE.items():
        value = getattr(beat, field)
        if value is not None:  # this machine does not tell
            yield _gauge(name, help_line, value)
    for name, help_line in PROCESS.items():
        if name in beat.status_info:
            yield _gauge(name, help_line, beat.status_info[name])


def _gauge(name: str, help_line: str, value: float) -> Metric:
    return GaugeMetricFamily(f"crawlfleet_{name}", help_line, value=float(value))
