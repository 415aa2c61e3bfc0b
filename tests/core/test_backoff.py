from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawlfleet.core.backoff import Backoff, retry_delay


def middle() -> float:
    return 0.5


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 300), (2, 600), (3, 1200), (4, 2400)])
def test_the_delay_doubles_with_each_attempt(attempt: int, seconds: float) -> None:
    assert retry_delay(attempt, 300, random=middle) == pytest.approx(seconds)


def test_the_delay_spreads_by_ten_percent_to_both_sides() -> None:
    assert retry_delay(1, 300, random=lambda: 0.0) == pytest.approx(270)
    assert retry_delay(1, 300, random=lambda: 1.0) == pytest.approx(330)


@given(st.integers(-5, 10**9), st.floats(0, 86_400), st.floats(0, 1))
def test_the_delay_never_passes_the_cap_and_always_keeps_its_distance_from_zero(
    attempt: int, base: float, chance: float
) -> None:
    cap = max(3600, base)
    delay = retry_delay(attempt, base, random=lambda: chance)
    assert 0.9 * min(base, cap) * (1 - 1e-9) <= delay <= cap


def test_a_base_above_the_cap_is_kept() -> None:
    assert retry_delay(3, 86_400, random=lambda: 1.0) == pytest.approx(86_400)


def test_delays_at_the_cap_still_differ() -> None:
    assert retry_delay(50, 300, random=lambda: 0.0) == pytest.approx(3240)
    assert retry_delay(50, 300, random=lambda: 1.0) == pytest.approx(3600)


def test_a_base_of_zero_means_at_once() -> None:
    assert retry_delay(7, 0) == 0


def test_reconnecting_waits_longer_each_time_up_to_five_seconds_and_begins_anew_after_success() -> None:
    backoff = Backoff()
    waits = [backoff.next() for _ in range(10)]
    for wait, expected in zip(waits, [0.2, 0.4, 0.8, 1.6, 3.2], strict=False):
        assert wait == pytest.approx(expected, rel=0.11)
    assert all(4.5 <= wait <= 5 for wait in waits[5:])
    assert backoff.failures == 10
    backoff.reset()
    assert backoff.next() < 0.23
