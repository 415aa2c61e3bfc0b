from __future__ import annotations

import pytest

from crawlfleet.services.pace import BODIES, MAX_LEAD_SECONDS, MAX_RESERVE, TURNS, Pace


def pace(turn: float, *bodies: float) -> Pace:
    made = Pace()
    for _ in range(TURNS):
        made.note_turn(turn)
    for each in bodies:
        made.note_body(each)
    return made


def test_the_last_turns_and_bodies_count_and_one_slow_one_does_not() -> None:
    found = pace(0.1, *[9.0] * BODIES, *[0.2] * BODIES)
    found.note_turn(30)
    found.note_body(600)
    assert (found.turn, found.body) == (0.1, 0.2)


def test_the_reserve_covers_two_turns_of_the_slots() -> None:
    found = pace(0.5, 0.1)
    assert found.reserve(5, running=0) == 50
    assert found.reserve(5, running=1.0) == 5  # bodies under way are slower than those that ended
    assert found.reserve(5000, running=0) == MAX_RESERVE
    assert pace(0.5).reserve(5, running=0) == 0  # nothing is known of bodies yet


def test_a_task_is_claimed_as_long_ahead_as_a_turn_may_take() -> None:
    assert pace(0.1).lead == pytest.approx(0.35)
    assert pace(60).lead == MAX_LEAD_SECONDS


@pytest.mark.parametrize(
    ("turn", "body", "linger"),
    [
        (0.6, 0.05, 0.3),
        (0.6, 0.29, 0.3),
        (0.6, 0.31, 0.0),  # bodies take too long
        (0.03, 0.001, 0.0),  # a database nearby
        (10, 0.05, 1.0),
    ],
)
def test_where_turns_take_long_and_bodies_do_not_a_turn_may_wait_for_them(
    turn: float, body: float, linger: float
) -> None:
    assert pace(turn, body).linger == pytest.approx(linger)
    assert pace(turn).linger == 0
