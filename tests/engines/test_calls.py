"""Calls that a body makes within budgets: whatever runs it, the vendor counts as many as the budget does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crawlfleet.core.clock import SYSTEM_CLOCK, Clock
from crawlfleet.core.errors import CallRefused
from crawlfleet.executors.permit import RunPermit, SendWindow
from crawlfleet.model.budget import DAY_SECONDS, Budget, Window
from tests.engines.stage import ENGINES, Stage

NOON = datetime(2026, 4, 1, 12, tzinfo=UTC)
LIMITS = {
    "window": [(20, 60.0)],
    "short window": [(20, 1.0)],
    "day": [(20, DAY_SECONDS)],
    "both": [(20, 60.0), (40, DAY_SECONDS)],
    "two days": [(20, DAY_SECONDS), (30, DAY_SECONDS)],
    "none": [],
}


def windows(limits: list[tuple[int, float]], calls: int, here: float, now: datetime = NOON) -> list[SendWindow] | None:
    """When a run that is claimed now may send so many calls, as its node has it."""
    if not limits:
        return None
    budgets = [
        Budget(number, "s", f"l{number}", "u", "", "", allowed, seconds, None, None, 0, None, None, now)
        for number, (allowed, seconds) in enumerate(limits)
    ]
    held = []
    for number in range(calls):
        window = Window(now)
        for budget in budgets:
            window = window.within(budget.hold(1, number, now))
        until = min((window.not_after - now).total_seconds(), 1e6)
        held.append((here + (window.not_before - now).total_seconds(), here + until, window.way_seconds))
    return held


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_vendor_counts_as_many_calls_as_the_budget(
    shared_stage: Callable[[str], Stage], tmp_path: Path, engine: str, limit: str
) -> None:
    """Within a limit for a day alone, leave for a call on a Dask worker ended at once: counted, and never sent."""
    stage = shared_stage(engine)
    vendor = tmp_path / "vendor"
    run = stage.run("call", calls=3, vendor=str(vendor))
    here = SYSTEM_CLOCK.monotonic()
    seen: list[tuple[float, ...]] = []
    permit = RunPermit(windows(LIMITS[limit], 3, here), lambda: here + 60, seen.append)
    run.context.permit = permit
    stage.engine.submit([run])
    outcome = stage.outcome(run)
    assert outcome.kind == "ok", outcome.message
    assert vendor.stat().st_size == 3
    assert len(permit.revoke()) == (3 if LIMITS[limit] else 0)


def test_leave_for_somebody_elsewhere_ends_with_the_day_with_the_lease_and_halfway() -> None:
    here = SYSTEM_CLOCK.monotonic()
    for seconds, now, trusted, expected in (
        (60.0, NOON, 100, 1.5),
        (DAY_SECONDS, NOON, 100, 100),
        (DAY_SECONDS, NOON, 2, 2),
        (DAY_SECONDS, NOON.replace(hour=0) + timedelta(days=1, seconds=-10), 100, 8),
        (60.0, NOON, 1, 1),
    ):
        permit = RunPermit(windows([(9, seconds)], 1, here, now), lambda t=trusted: here + t, lambda seen: None)
        assert permit.take(threading.Event())
        assert permit.leave_until - here == pytest.approx(expected, abs=0.5)


def test_a_call_that_was_not_sent_is_given_back_and_may_be_taken_again() -> None:
    here = SYSTEM_CLOCK.monotonic()
    permit = RunPermit([(here, here + 60, 0.0)], lambda: here + 60, lambda seen: None)
    for _ in range(3):
        assert permit.take(threading.Event())
        with pytest.raises(CallRefused, match="holds 1 calls"):
            permit.take(threading.Event())
        permit.give_back()
    assert permit.revoke() == ()


class SleepyClock(Clock):
    """The clock of a machine that is put to sleep and woken up."""

    now = 1000.0
    slept_seconds = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept_seconds += seconds


def test_nothing_is_sent_after_a_sleep_that_was_longer_than_the_lease() -> None:
    """The body waited for its moment when the machine was suspended. When it woke up, others had made its call."""
    clock = SleepyClock()
    permit = RunPermit([(clock.now, clock.now + 9e9, 3.0)], lambda: 1300.0, lambda seen: None, clock)
    clock.sleep(299.0)
    assert permit.take(threading.Event())
    permit.give_back()
    clock.sleep(2.0)
    assert not permit.take(threading.Event())
    assert permit.revoke() == ()


def test_a_call_that_was_on_its_way_while_the_machine_slept_counts_from_its_answer() -> None:
    """It may have lain in this machine until it woke up: the vendor saw it then, not when its way usually ends."""
    clock, told = SleepyClock(), list[tuple[float, ...]]()
    permit = RunPermit([(0.0, 9e9, 3.0)] * 3, lambda: 9e9, told.append, clock)
    assert permit.take(threading.Event())
    clock.now += 200  # a slow answer is none of a sleep
    permit.answered()
    assert told == [(1003.0,)]
    assert permit.take(threading.Event())
    clock.sleep(3600)
    permit.answered()
    assert told[-1] == (1003.0, 4800.0)
    assert permit.take(threading.Event())
    clock.sleep(3600)
    assert permit.revoke() == (1003.0, 4800.0, 8403.0)  # no answer: it may leave now
