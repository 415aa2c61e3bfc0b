"""Who this process is, and whether another one that said so still lives.

Used to give a crashed node its device id back at once: only the host on which it ran can know that it is gone.
"""

from __future__ import annotations

import os
import platform
import socket
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class ProcessIdentity:
    """`machine` survives a reboot, `boot` does not; `namespace` tells containers of one machine apart.

    `started` is the process's start in seconds since the epoch, which tells a reused pid from its former owner.
    """

    hostname: str
    machine: str
    boot: str
    namespace: str
    pid: int
    started: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def own_identity() -> ProcessIdentity:
    """The identity of this process."""
    import psutil

    process = psutil.Process()
    return ProcessIdentity(socket.gethostname(), _machine(), _boot(), _namespace(), process.pid, process.create_time())


def is_gone(other: Mapping[str, Any]) -> bool | None:
    """True when that process surely ended, False when it lives, None when this host cannot know."""
    import psutil

    if other.get("machine") != _machine() or other.get("hostname") != socket.gethostname():
        return None
    if other.get("boot") != _boot():
        return True  # the machine was started anew since
    if other.get("namespace") != _namespace():
        return None
    try:
        process = psutil.Process(int(other["pid"]))
        # Clocks are read in ticks of 10 ms; half a second apart is another process.
        if abs(process.create_time() - float(other["started"])) > 0.5:
            return True
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except (KeyError, TypeError, ValueError, psutil.AccessDenied):
        return None


@cache
def _machine() -> str:
    return _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id") or f"{platform.node()}-{uuid.getnode():x}"


@cache
def _boot() -> str:
    found = _read("/proc/sys/kernel/random/boot_id")
    if found:
        return found
    import psutil

    return str(round(psutil.boot_time() / 10))  # it wavers by a second on some systems


@cache
def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""
