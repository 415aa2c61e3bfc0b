"""What a device tells of its machine: what it can do, once, and its load with every beat. Percentages are 0 to 100."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections.abc import Collection
from typing import Any

import psutil

SLOW_SECONDS, POOR_SECONDS = 0.1, 1.0  # round trip to the database from which the network counts as slow, poor


def capabilities(
    task_types: Collection[str], labels: Collection[str], database_host: str | None, heartbeat_interval: float
) -> dict[str, Any]:
    """What the device can do and how often it beats, as stored in cl_device."""
    memory = psutil.virtual_memory().total
    return {
        "cpu_cores": os.cpu_count() or 1,
        "memory_total": memory,
        "memory_gb": round(memory / 2**30, 1),
        "platform": platform.platform(),
        "python_version": platform.python_version(),
        "local_ip": local_ip(database_host),
        "supported_tasks": sorted(task_types),
        "labels": sorted(set(labels)),
        "heartbeat_interval": heartbeat_interval,
    }


def local_ip(database_host: str | None) -> str:
    """The address from which this machine reaches its database; 127.0.0.1 when the database is a file."""
    if not database_host:
        return "127.0.0.1"
    try:
        found = socket.getaddrinfo(database_host, 9, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return "127.0.0.1"
    for family, kind, _, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
            probe.connect(address)  # no packet is sent: this only asks for a route
            return str(probe.getsockname()[0])
    return "127.0.0.1"


def network_status(round_trip_seconds: float) -> str:
    """good, slow or poor, by the round trip to the database."""
    return "good" if round_trip_seconds < SLOW_SECONDS else "slow" if round_trip_seconds < POOR_SECONDS else "poor"


class MachineUse:
    """CPU, memory and disk in percent, the load, and this process's own share."""

    def __init__(self, folder: str = ".") -> None:
        self._folder = folder
        self._process = psutil.Process()
        psutil.cpu_percent()  # the first call only starts the measurement
        self._process.cpu_percent()

    def read(self) -> dict[str, float | None]:
        """cpu_usage, memory_usage, disk_usage, system_load; None where the machine does not tell."""
        return {
            "cpu_usage": psutil.cpu_percent(),
            "memory_usage": psutil.virtual_memory().percent,
            "disk_usage": _or_none(lambda: psutil.disk_usage(self._folder).percent),
            "system_load": _or_none(lambda: os.getloadavg()[0]),
        }

    def process(self) -> dict[str, float]:
        """The node itself: memory in bytes, CPU in percent of one core, threads, open files where the system tells."""
        with self._process.oneshot():
            found = {
                "process_memory_bytes": self._process.memory_info().rss,
                "process_cpu_percent": self._process.cpu_percent(),
                "process_threads": self._process.num_threads(),
            }
            if hasattr(self._process, "num_fds"):  # not on Windows
                found["process_open_files"] = self._process.num_fds()
            return found


def _or_none(read: Any) -> float | None:
    try:
        return float(read())
    except (OSError, AttributeError):
        return None
