from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import crawlfleet
from crawlfleet.core.clock import SYSTEM_CLOCK, ClockReading
from tests.nodes import CLOCK_LIBRARY, ROOT, clocks_can_be_shifted

PACKAGE = Path(crawlfleet.__file__).parent

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
READING = ClockReading(NOON, asked_at=100.0, answered_at=103.0)


def test_something_that_happened_here_is_dated_on_the_side_that_its_use_needs() -> None:
    assert READING.earliest_date(103.0) == NOON
    assert READING.latest_date(100.0) == NOON
    assert READING.latest_date(90.0) - READING.earliest_date(90.0) == timedelta(seconds=3)


def test_a_moment_of_the_database_is_surely_past_later_than_it_is_surely_to_come() -> None:
    assert READING.surely_after(NOON + timedelta(seconds=10)) == 113.0
    assert READING.surely_before(NOON + timedelta(seconds=10)) == 110.0


def test_the_machines_own_clocks_are_not_moved() -> None:
    assert SYSTEM_CLOCK.database_ahead_seconds == 0
    assert SYSTEM_CLOCK.monotonic() <= SYSTEM_CLOCK.monotonic()
    assert SYSTEM_CLOCK.wall().tzinfo is UTC


def test_the_sleep_of_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it sleeps, Linux's monotonic clock stands still: a lease that was over seemed to have time left."""
    before, slept = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.slept_seconds
    assert slept > -0.05
    read = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: read(clock) + 3600 * (clock == time.CLOCK_BOOTTIME))
    assert SYSTEM_CLOCK.monotonic() - before >= 3600
    assert SYSTEM_CLOCK.slept_seconds - slept == pytest.approx(3600, abs=1)


@pytest.mark.parametrize(
    ("said", "passed", "moved"),
    [(30.0, 30.0, 0.0), (90.0, 30.0, 59.0), (-30.0, 30.0, -59.0), (31.0, 30.0, 0.0), (3601.5, 3600.0, 0.0)],
)
def test_a_step_of_the_databases_clock_is_seen_where_it_is_sure(said: float, passed: float, moved: float) -> None:
    """Each reading took a second here, and clocks that nobody sets do not run quite alike."""
    before = ClockReading(NOON, 100.0, 101.0)
    after = ClockReading(NOON + timedelta(seconds=said), 100.0 + passed, 101.0 + passed)
    assert after.moved_since(before) == pytest.approx(moved)


READERS_OF_THE_WALL_CLOCK = {
    "core/clock.py": "for what people read",
    "doctor/database_checks.py": "compares it with the database's",
    "executors/task_dates.py": "which day is today",
    "executors/app_data.py": "which day is today",
    "sources/apple/source.py": "which day is today",
    "cli/demo_cli.py": "which day was yesterday",
    "cli/moments.py": "the zone's offset, and for what people read",
    "sources/http/refusals.py": "an HTTP date, where the vendor tells no date of its own",
}


def test_no_wait_hangs_on_the_wall_clock() -> None:
    """Somebody sets it, and a wait is hours long, or over at once. So few may read it, and none of them waits by it."""
    reads = re.compile(
        r"\btime\.(time|time_ns|localtime|gmtime|ctime)\(|CLOCK_REALTIME|\bdate(time)?\.(now|utcnow|today)\("
    )
    files = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    found = {name for name, text in files.items() if reads.search(text)}
    found -= {each for each in found if each.startswith("sandbox/")}  # the vendor has a clock of its own
    assert found == set(READERS_OF_THE_WALL_CLOCK)


def test_no_wait_is_one_that_a_shifted_clock_breaks() -> None:
    """A node whose clock had been shifted ended with `Invalid argument` when it had to wait for its database."""
    assert [path for path in PACKAGE.rglob("*.py") if "time.sleep(" in path.read_text(encoding="utf-8")] == []


WAITS = """
import pathlib, threading
from crawlfleet.core.clock import pause
from crawlfleet.core.service import Service
from crawlfleet.core.wakeup import Wakeup

class Counting(Service):
    passes = 0
    def run_once(self):
        self.passes += 1

counting = Counting("counting", 0.02)
counting.start()
for moved in ("+2h", "-3d"):
    pathlib.Path("new").write_text(moved)
    pathlib.Path("new").replace("clock")
    before = counting.passes
    Wakeup().wait(0.15)
    pause(0.01)
    threading.Event().wait(0.15)
    assert counting.passes - before > 3, (moved, counting.passes - before)
counting.stop()
assert counting.join(5)
"""


def test_waits_go_on_while_the_wall_clock_jumps(tmp_path: Path) -> None:
    """Two hours ahead, then three days back, in the middle of the waits of a service and of a node."""
    if not clocks_can_be_shifted():
        pytest.skip("needs libfaketime: apt-get install faketime")
    (tmp_path / "clock").write_text("+0")
    fake = {"LD_PRELOAD": str(CLOCK_LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock")}
    environ = {**os.environ, **fake, "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WAITS]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
