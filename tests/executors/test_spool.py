"""Rows in a temporary file, and what becomes of them where its folder has no room."""

from __future__ import annotations

import errno
import io
import logging
import os
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.errors import WaitError
from crawlfleet.core.vendor_data import Figures, ReportRange
from crawlfleet.executors import spool as spool_module
from crawlfleet.executors.contract import TaskResult
from crawlfleet.executors.result import collect
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome

DAY = date(2026, 1, 31)


class SmallDisk(io.FileIO):
    """A file on a disk that is full after so many bytes, and writes half of what does not fit."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path, "w+")
        self.room = room

    def write(self, data: Any) -> int:
        fits = self.room - self.tell()
        if fits <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(memoryview(data)[:fits])


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Temporary files have room for so many bytes from now on."""

    def fill(room: int) -> None:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: SmallDisk(tmp_path / "spool", room))

    return fill


def batch(number: int) -> list[Figures]:
    return [Figures(DAY, campaign=f"{number}.{n}") for n in range(250)]


@pytest.mark.parametrize("room", [0, 10_000])
def test_rows_that_find_no_room_on_the_disk_stay_in_memory(
    room: int, small_disk: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A full folder cost the task an attempt and the account a call, and said neither where nor how much."""
    small_disk(room)
    spool = Spool()
    with caplog.at_level(logging.WARNING):
        for number in range(8):
            spool.append(batch(number))
    assert list(spool) == [row for number in range(8) for row in batch(number)]
    [line] = caplog.messages
    assert f"finds no room in {tempfile.gettempdir()} (No space left on device)" in line
    assert os.pread(spool.fileno(), 2, 0)  # another process of the node can read it, too
    spool.close()


def test_a_result_that_finds_room_nowhere_waits_and_says_where(
    small_disk: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "MEMORY_BYTES", 1000)
    small_disk(10_000)
    spool = Spool()
    with pytest.raises(WaitError, match=r"MB and more finds no room in .*TMPDIR"):
        spool.append([row for number in range(8) for row in batch(number)])
    spool.close()


def test_few_rows_that_are_wide_are_spooled_too() -> None:
    """What a node holds was bounded by the number of rows alone."""
    rows = [Figures(DAY, campaign=str(n), extra={"events": "x" * 50_000}) for n in range(500)]
    outcome = Outcome()
    list(collect(TaskResult(rows=iter(rows), replaces=ReportRange("s", "u", "a", "r", DAY, DAY)), outcome))
    assert outcome.is_spooled
    assert list(outcome.rows) == rows
    outcome.close()
