from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from crawlfleet.core.clock import SYSTEM_CLOCK, ClockReading

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
