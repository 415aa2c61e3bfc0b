"""The bodies of all tasks, crawlfleet's and the peers': they note when they ran, so that all are measured alike."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

STAMPS_VARIABLE = "BENCH_STAMPS"
STAMP = struct.Struct("=dq?")


class Stamp(NamedTuple):
    """That a body began, or that it `ended`, in seconds since 1970. Tasks that do nothing are all number 0."""

    moment: float
    number: int
    ended: bool


def stamp(number: int = 0, ended: bool = False) -> int:
    """Append this moment to the file of the run, about 2 µs; the answer is there to be recorded."""
    os.write(_file(), STAMP.pack(time.time(), number, ended))
    return 1


def wait(number: int, seconds: float) -> int:
    """A body that waits, as for an answer, and notes its beginning and its end."""
    stamp(number)
    time.sleep(seconds)
    return stamp(number, ended=True)


async def wait_async(number: int, seconds: float) -> int:
    """The same without a thread."""
    stamp(number)
    await asyncio.sleep(seconds)
    return stamp(number, ended=True)


@cache
def _file() -> int:
    # short writes to the end of a file do not mix, whichever threads and processes they come from
    return os.open(os.environ[STAMPS_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def count_stamps(path: Path) -> int:
    """How many there are so far."""
    return path.stat().st_size // STAMP.size if path.exists() else 0


def read_stamps(path: Path) -> list[Stamp]:
    """All of them, in the order in which they were written."""
    return [Stamp(*fields) for fields in STAMP.iter_unpack(path.read_bytes())] if path.exists() else []
