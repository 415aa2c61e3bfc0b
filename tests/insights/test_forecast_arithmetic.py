"""The arithmetic of a forecast, with numbers that a person can check."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from crawlfleet.insights.forecast_arithmetic import LONGEST, OpenTasks, calls_per_day, run_at, sent_at, usual
from crawlfleet.model.budget import DAY_MARGIN_SECONDS, DAY_SECONDS, Budget, Call

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY_BEGINS = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(seconds=DAY_MARGIN_SECONDS)
WINDOW = timedelta(seconds=60.03)  # a minute with its margin


def budget(calls: int | None, seconds: float, **more: object) -> Budget:
    plain = (None, None, 0, None, None, NOON)
    made = Budget(1, "vendor", "limit", "u", "", "", calls, seconds, *plain)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def used(count: int, free_at: datetime | None) -> list[Call]:
    return [Call(1, number, None if free_at is None else NOON, free_at) for number in range(count)]


@pytest.mark.parametrize(
    ("made", "owed", "expected"),
    [
        (budget(24, DAY_SECONDS), 0, NOON),
        (budget(24, DAY_SECONDS), 24, NOON),
        (budget(24, DAY_SECONDS), 25, DAY_BEGINS),
        (budget(24, DAY_SECONDS), 48, DAY_BEGINS),
        (budget(24, DAY_SECONDS), 49, DAY_BEGINS + timedelta(days=1)),
        (budget(24, DAY_SECONDS, busy=used(20, DAY_BEGINS)), 5, DAY_BEGINS),
        (budget(24, DAY_SECONDS, busy=used(24, DAY_BEGINS)), 24, DAY_BEGINS),
        (budget(24, DAY_SECONDS, closed_until=NOON + timedelta(days=1)), 24, NOON + timedelta(days=1)),
        (budget(2, 60.0), 2, NOON),
        (budget(2, 60.0), 3, NOON + WINDOW),
        (budget(2, 60.0), 10, NOON + 4 * WINDOW),
        (budget(1, 60.0, busy=used(1, NOON + timedelta(seconds=20))), 2, NOON + timedelta(seconds=20) + WINDOW),
        (budget(1, 60.0, busy=used(1, None)), 1, NOON + WINDOW),
        (budget(9, 60.0, learned_calls=1, learned_until=NOON + timedelta(days=1)), 3, NOON + 2 * WINDOW),
        (budget(None, 60.0), 10_000, NOON),
        (budget(None, 60.0, closed_until=NOON + timedelta(hours=1)), 10_000, NOON + timedelta(hours=1)),
        (budget(1, DAY_SECONDS), 10**12, DAY_BEGINS + LONGEST),
    ],
)
def test_calls_are_sent_with_what_is_left_now_and_then_window_by_window(
    made: Budget, owed: int, expected: datetime
) -> None:
    assert sent_at(made, owed, NOON) == expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [(budget(24, DAY_SECONDS), 24), (budget(1, 60.0), pytest.approx(1439.28)), (budget(None, 60.0), None)],
)
def test_what_a_budget_allows_in_a_day(made: Budget, expected: float | None) -> None:
    assert calls_per_day(made, NOON) == expected


def test_slots_share_the_work_and_an_unknown_length_counts_as_none() -> None:
    work = [OpenTasks("a", 100, 3.0), OpenTasks("b", 10, 6.0), OpenTasks("c", 1000, None)]
    assert run_at(work, 4, NOON) == NOON + timedelta(seconds=90)
    assert run_at([OpenTasks("a", 10**12, 3600.0)], 1, NOON) == NOON + LONGEST


def test_one_large_order_is_no_habit() -> None:
    assert usual([10_000, 3, 5]) == 5
    assert usual([0, 9, 0]) == 0
    assert usual([]) == 0
