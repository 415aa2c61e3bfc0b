"""What /metrics shows: this node from its memory, and the fleet as the node last read it.

A scrape asks neither the database nor the machine, so no number of them costs the node anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from crawlfleet import __version__
from crawlfleet.api.strangers import REASONS
from crawlfleet.insights.fleet_metrics import FleetMetrics
from crawlfleet.model.device_heartbeat import Beat
from crawlfleet.model.lifecycle import ENDINGS
from crawlfleet.services.node import Node
from crawlfleet.services.work_stats import STALE

# Shown from the start, so that rates can be taken.
MOVES = ("finish", "fail", "retry", "release", "expire", "bury")
ERROR_KINDS = tuple(str(kind) for kind, rule in ENDINGS.items() if rule.counts_as_error)
NOT_MOVES = ("errors", STALE)  # what else the scheduler counts
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
    "process_open_files": "Files and connections that the node holds open",
}


class NodeMetrics(Collector):
    """The metrics of one node; process and machine only when it monitors them (enable_monitoring)."""

    def __init__(self, node: Node, refusals: Mapping[str, int]) -> None:
        self._node = node
        self._refusals = refusals
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
        yield from self._identity()
        yield from self._work()
        yield from self._beats()
        yield _counter(
            "api_refused",
            "Requests that this node's API refused, by the reason",
            "reason",
            dict.fromkeys(REASONS, 0) | dict(self._refusals),
        )
        figures = self._node.figures
        figures.want()
        latest = figures.latest
        if latest is not None:
            yield from _fleet(latest)
            yield _gauge(
                "figures_age_seconds", "Age of the fleet's figures", self._node.db.clock.monotonic() - figures.read_at
            )
            yield _gauge("figures_read_seconds", "How long reading them took", figures.read_seconds)

    def _identity(self) -> Iterator[Metric]:
        settings, lease = self._node.settings, self._node.lease
        who = GaugeMetricFamily("crawlfleet_node_info", "Which node this is", labels=["device_id", "mode", "version"])
        who.add_metric([lease.device_id, settings.mode, __version__], 1)
        yield who
        yield _gauge("device_online", "1 while the fleet counts this device as online", lease.online)

    def _work(self) -> Iterator[Metric]:
        settings, scheduler, logs = self._node.settings, self._node.scheduler, self._node.logs
        stats = scheduler.stats
        yield _gauge("bodies_running", "Task bodies that run now", scheduler.runs.table.bodies)
        yield _gauge("slots", "Task bodies that may run at once", settings.slots)
        counted = dict(stats.counters)
        moves = {name: count for name, count in counted.items() if name not in NOT_MOVES}
        yield _counter(
            "moves",
            "Runs of this node that ended, by what became of the task; success rate: finish / (finish + fail + bury)",
            "move",
            dict.fromkeys(MOVES, 0) | moves,
        )
        yield _counter(
            "errors",
            "Runs that ended with an error, by its kind, whatever became of their task",
            "kind",
            dict.fromkeys(ERROR_KINDS, 0) | {str(kind): count for kind, count in stats.errors.items()},
        )
        stale = counted.get(STALE, 0)
        yield _count("stale_results_rejected", "Results of runs that were no longer this node's", stale)
        yield _count("task_log_lines", "Lines of task logs that were stored", logs.kept)
        yield _count("task_log_lines_dropped", "Lines of task logs that were lost", logs.dropped)
        turns = HistogramMetricFamily("crawlfleet_turn_seconds", "How long a turn of the scheduler took")
        turns.add_metric([], stats.turn_durations.up_to(), stats.turn_durations.sum_seconds)
        yield turns
        bodies = HistogramMetricFamily("crawlfleet_body_seconds", "How long bodies ran", labels=["task_type"])
        for task_type, durations in stats.body_durations.items():
            bodies.add_metric([task_type], durations.up_to(), durations.sum_seconds)
        yield bodies

    def _beats(self) -> Iterator[Metric]:
        lease = self._node.lease
        beat, age_seconds = lease.latest, lease.age_seconds
        if beat is not None:
            yield _gauge("heartbeat_delay_seconds", "How late the latest heartbeat was", beat.delay_seconds)
            yield _gauge("round_trip_seconds", "How long the database took to store it", lease.round_trip_seconds)
            if self._node.settings.enable_monitoring:
                yield from _monitored(beat)
        if age_seconds is not None:
            yield _gauge("heartbeat_age_seconds", "Time since it arrived", age_seconds)


def _fleet(figures: FleetMetrics) -> Iterator[Metric]:
    """The whole fleet: every node shows the same."""
    tasks = GaugeMetricFamily("crawlfleet_fleet_tasks", "Open tasks by state and type", labels=["state", "task_type"])
    for (state, task_type), count in figures.tasks.items():
        tasks.add_metric([state, task_type], count)
    yield tasks
    yield _gauge("fleet_tasks_failed", "Tasks that failed and were not retried", figures.failed_tasks)
    yield _gauges(
        "fleet_oldest_due_seconds",
        "How long the longest waiting first task of a lane has been due; closed lanes wait for a quota or a person",
        "lane",
        {"open": 0.0, "closed": 0.0} | dict(figures.oldest_due),
    )
    yield _gauge("fleet_paused", "1 while the queue is paused", figures.paused)
    yield _gauges("fleet_devices", "Devices by state", "state", figures.devices)
    if figures.oldest_beat is not None:
        yield _gauge(
            "fleet_oldest_heartbeat_seconds", "Age of the oldest newest beat of an online device", figures.oldest_beat
        )
    yield _gauges("fleet_accounts", "Accounts by status", "status", figures.accounts)
    budgets = GaugeMetricFamily("crawlfleet_fleet_budgets", "Budgets by state", labels=["source", "limit", "state"])
    calls = GaugeMetricFamily(
        "crawlfleet_fleet_budget_calls", "Calls that count against budgets now", labels=["source", "limit"]
    )
    for (source, limit), use in figures.limits.items():
        for state, count in (("open", use.open), ("used_up", use.used_up), ("closed", use.closed)):
            budgets.add_metric([source, limit, state], count)
        calls.add_metric([source, limit], use.calls)
    yield budgets
    yield calls
    yield _gauge("fleet_feeds", "Feeds: reports of apps of accounts that were fetched", figures.feeds)
    yield _gauges(
        "fleet_feeds_missing_day",
        "Feeds that lack the day so many days ago (UTC) and have one of the seven days before it",
        "days_ago",
        {str(days): count for days, count in figures.feeds_missing.items()},
    )


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


def _gauges(name: str, help_line: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"crawlfleet_{name}", help_line, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _count(name: str, help_line: str, value: int) -> Metric:
    return CounterMetricFamily(f"crawlfleet_{name}", help_line, value=value)


def _counter(name: str, help_line: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"crawlfleet_{name}", help_line, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
