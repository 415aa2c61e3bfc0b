"""Who this process is, and whether another one that said so still lives.

Used to give a crashed node its device id back at once: only the host on which it ran can know that it is gone. What
names a host can be copied along with its image (host name, machine id, in a clone even the boot id). So each process
leaves a witness on its host, an empty file with a name that nobody can guess; who finds it there is on that very host.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import socket
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")  # empty after a reboot, and in no image of a disk
SWEEP_SECONDS = 86_400.0  # after which nobody waits for the proof that its process is gone
_WITNESS = re.compile(r"crawlfleet-[0-9a-f]{32}")


@dataclass(frozen=True)
class ProcessIdentity:
    """`machine` survives a reboot, `boot` does not; `namespace` tells containers of one machine apart.

    `ticks` is the process's start in ticks since the machine was started, which tells a reused pid from its former
    owner: no wall clock that is set moves it. `witness` is the file it left on its host, "" when it could not.
    """

    hostname: str
    machine: str
    boot: str
    namespace: str
    pid: int
    ticks: int | None
    witness: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def own_identity() -> ProcessIdentity:
    """The identity of this process."""
    pid = os.getpid()
    ticks, witness = start_ticks(pid), _leave_witness(pid)
    return ProcessIdentity(socket.gethostname(), _machine(), _boot(), _namespace(), pid, ticks, witness)


def is_gone(other: Mapping[str, Any]) -> bool | None:
    """True when that process is proved to have ended on this very host, False when it lives, None when none can tell.

    Takes what programs up to 2026-11-30 wrote, too: they left no witness, and told their start by the wall clock.
    """
    here = {"hostname": socket.gethostname(), "machine": _machine(), "boot": _boot(), "namespace": _namespace()}
    if any(other.get(name) != value for name, value in here.items()):
        return None
    try:
        pid = int(other["pid"])
        ticks = start_ticks(pid)
        if "witness" not in other:
            return _older_is_gone(pid, ticks, float(other["started"]))
    except (KeyError, TypeError, ValueError, OSError):
        return None
    if ticks is not None and ticks == other.get("ticks"):
        return False
    return True if _is_here(str(other["witness"])) else None


def forget(process: Mapping[str, Any]) -> None:
    """Remove the witness of a process whose device is offline, or another's by now."""
    name = str(process.get("witness", ""))
    if _is_here(name):
        (_folder() / name).unlink(missing_ok=True)
        _leave_witness.cache_clear()  # if it was our own, the next registration leaves another


def _older_is_gone(pid: int, ticks: int | None, started: float) -> bool | None:
    """The same of a process that told its start by the wall clock: another start proves nothing, the clock may have
    been set since."""
    if ticks is None or pid == os.getpid():
        return True
    import psutil

    try:
        return False if abs(psutil.Process(pid).create_time() - started) <= 0.5 else None
    except psutil.Error:
        return None


def start_ticks(pid: int) -> int | None:
    """When that process began, in ticks since the machine did; None when there is none. Raises OSError: not to be seen.

    Field 22 of /proc/PID/stat; the name in field 2 may hold blanks and parentheses. Other systems than Linux keep the
    moment that the clock showed then, and no clock that is set later moves it.
    """
    import psutil

    if psutil.LINUX:
        try:
            found = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            state, *fields = found.rpartition(")")[2].split()
            return None if state in "ZX" else int(fields[18])
        except FileNotFoundError:
            if psutil.pid_exists(pid):  # and hidden from us
                raise
            return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time() * 100)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from None


@cache
def _leave_witness(pid: int) -> str:
    """The name of a new file on this host, for this process; "" where none can be made."""
    name = f"crawlfleet-{secrets.token_hex(16)}"
    try:
        with open(os.open(_folder() / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
            stream.write(f"{pid} {start_ticks(pid)}")
        _sweep((_folder() / name).stat().st_mtime)
    except OSError:
        return ""
    return name


def _sweep(now: float) -> None:
    """Remove old witnesses of processes that were killed and never started again; `now` is by the folder's clock.

    The clock of this process may be set to another day, and a witness of this very minute is not to go.
    """
    for path in _folder().glob("crawlfleet-*"):
        try:
            if _is_here(path.name) and now - path.stat().st_mtime > SWEEP_SECONDS:
                pid, _, ticks = path.read_text().partition(" ")
                if str(start_ticks(int(pid))) != ticks:
                    path.unlink()
        except (OSError, ValueError):
            continue


def _is_here(witness: str) -> bool:
    """Whether a process of this user left this witness on this host."""
    if not _WITNESS.fullmatch(witness):
        return False
    try:
        found = os.lstat(_folder() / witness)
    except OSError:
        return False
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def _folder() -> Path:
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())


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
