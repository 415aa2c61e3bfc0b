"""Calls that a body makes within budgets: whatever runs it, the vendor counts as many as the budget does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

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
    here = time.monotonic()
    seen: list[tuple[float, ...]] = []
    permit = RunPermit(windows(LIMITS[limit], 3, here), lambda: here + 60, seen.append)
    run.context.permit = permit
    stage.engine.submit([run])
    outcome = stage.outcome(run)
    assert outcome.kind == "ok", outcome.message
    assert vendor.stat().st_size == 3
    assert len(permit.revoke()) == (3 if LIMITS[limit] else 0)


def test_leave_for_somebody_elsewhere_ends_with_the_day_with_the_lease_and_halfway() -> None:
    here = time.monotonic()
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
    here = time.monotonic()
    permit = RunPermit([(here, here + 60, 0.0)], lambda: here + 60, lambda seen: None)
    for _ in range(3):
        assert permit.take(threading.Event())
        with pytest.raises(CallRefused, match="holds 1 calls"):
            permit.take(threading.Event())
        permit.give_back()
    assert permit.revoke() == ()
