"""What a node tells of itself with each beat: how its machine does, and how its work goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crawlfleet.core.system_metrics import MachineUse, network_status
from crawlfleet.model.device_heartbeat import Beat


@dataclass(frozen=True)
class WorkReport:
    """What the scheduler tells for a beat: bodies that run, counters since the node started, and how the work goes.

    `obstacle` is why it does not go on, or not reach the database, although beats may.
    """

    running_tasks: int
    counters: Mapping[str, int]
    performance: Mapping[str, Any] = field(default_factory=dict)
    obstacle: str | None = None


class VitalSigns:
    """Measures what a beat tells. `with_performance`: also what this process uses, and how fast its work goes.

    `work` says how the work goes; there is none before the node has started.
    """

    def __init__(self, with_performance: bool = False) -> None:
        self.work: Callable[[], WorkReport] | None = None
        self._with_performance = with_performance
        self._use = MachineUse()

    def measure(self, delay_seconds: float, round_trip_seconds: float) -> Beat:
        """What a beat tells that is so late, when the one before it took so long to arrive."""
        work = WorkReport(0, {}) if self.work is None else self.work()
        use = self._use.read()
        status: dict[str, Any] = {"round_trip_seconds": round(round_trip_seconds, 4), **work.counters}
        if self._with_performance:
            status |= {**self._use.process(), **work.performance}
        if work.obstacle is not None:
            status["obstacle"] = work.obstacle
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
