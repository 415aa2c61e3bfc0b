"""Tasks held ready beyond the slots, so that a far database does not starve them.

The engine and the clock are the test's own here: bodies and turns take exactly as long as it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import event

from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.model.ending import Outcome
from tests.fleets import runs, task
from tests.services.conftest import Clock, MakePump
from tests.services.pump import Pump

SLOTS = 4
TURN_SECONDS = 0.1
BODY_SECONDS = 0.0099  # of most bodies here: the slots use up 81 during two turns


class ScriptedEngine:
    """Begins bodies in order as slots are free, and ends them when it is told to."""

    def __init__(self, slots: Slots, reports: Reports) -> None:
        self.slots = slots.count
        self.reports = reports
        self.queued: list[Run] = []
        self.running: list[Run] = []
        self.interrupted: list[Run] = []

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""

    def submit(self, runs: Sequence[Run]) -> None:
        self.queued += runs
        self._fill()

    def interrupt(self, run: Run) -> bool:
        self.interrupted.append(run)
        return True

    def _fill(self) -> None:
        while self.queued and len(self.running) < self.slots:
            run = self.queued.pop(0)
            if run.begin():
                self.running.append(run)
                self.reports.began(run)

    def end_all(self, body_seconds: float) -> None:
        """The bodies that run have taken so long."""
        ending, self.running = self.running, []
        for run in ending:
            assert run.began_at is not None
            run.ended_at = run.began_at + body_seconds
            self.reports.ended(run, Outcome())
        self._fill()


@pytest.fixture
def pump(url: str, make_pump: MakePump, clock: Clock) -> Iterator[Pump]:
    """Every transaction takes 100 ms of the clock, as at a far database."""
    pump = make_pump(url, engine=ScriptedEngine, slots=SLOTS)
    clock.freeze()

    def far(_connection: object) -> None:
        clock.advance(TURN_SECONDS)

    event.listen(pump.db.engine, "commit", far)
    yield pump
    event.remove(pump.db.engine, "commit", far)


def script(pump: Pump) -> ScriptedEngine:
    assert isinstance(pump.engine, ScriptedEngine)
    return pump.engine


def learn(pump: Pump, body_seconds: float) -> None:
    """Turns with few tasks, so that the scheduler has seen how long bodies and turns take."""
    for _ in range(8):
        pump.add("quick", SLOTS)
        pump.turn()
        script(pump).end_all(body_seconds)
    pump.turn()
    assert pump.fleet.tasks.stats()["completed"] == 8 * SLOTS


def claimed(pump: Pump) -> int:
    """How many tasks the next pass claims."""
    turn = pump.turn()
    return 0 if turn is None else len(turn.claimed)


def test_there_is_no_reserve_before_a_body_was_seen(pump: Pump) -> None:
    pump.add("quick", 50)
    assert claimed(pump) == SLOTS


@pytest.mark.parametrize(("body_seconds", "reserve"), [(0.0099, 81), (0.099, 8), (0.5, 2), (2.0, 0), (0.0001, 2000)])
def test_it_is_as_many_as_the_slots_use_up_in_two_turns(pump: Pump, body_seconds: float, reserve: int) -> None:
    learn(pump, body_seconds)
    pump.add("quick", SLOTS + 2100)
    assert claimed(pump) == SLOTS + reserve


def test_it_is_filled_up_and_never_beyond_its_size(pump: Pump) -> None:
    learn(pump, BODY_SECONDS)
    pump.add("quick", 200)
    assert claimed(pump) == SLOTS + 81
    assert claimed(pump) == 0
    script(pump).end_all(BODY_SECONDS)
    assert claimed(pump) == SLOTS


def test_tasks_of_a_source_are_claimed_for_free_slots_only(pump: Pump) -> None:
    learn(pump, BODY_SECONDS)
    pump.add("quick", 50, username="u", source="appsflyer")
    assert claimed(pump) == SLOTS
    pump.add("quick", 50)
    turn = pump.turn()
    assert turn is not None
    assert {each.task.source for each in turn.claimed} == {None}


def test_what_waits_too_long_goes_back_and_costs_nothing(pump: Pump, clock: Clock) -> None:
    learn(pump, BODY_SECONDS)
    ids = pump.add("quick", 20)
    assert claimed(pump) == 20
    clock.advance(0.5)  # bodies turn out slow, but not that slow yet
    pump.turn()
    assert pump.fleet.tasks.stats()["pending"] == 0
    clock.advance(5)
    pump.turn()
    assert {pump.status(each) for each in ids[:SLOTS]} == {"running"}
    for task_id in ids[SLOTS:]:
        found = task(pump.db, task_id)
        assert (found["status"], found["retry"], found["crash_count"]) == ("pending", 0, 0)
        assert pump.run_states(task_id) == ["released"]
    assert script(pump).interrupted == []
    pump.turn()
    assert pump.fleet.tasks.stats()["pending"] == 20 - SLOTS  # slow bodies: no reserve any more


def test_a_reserve_is_handed_back_when_the_node_drains(pump: Pump) -> None:
    learn(pump, BODY_SECONDS)
    ids = pump.add("quick", 20)
    assert claimed(pump) == 20
    script(pump).end_all(BODY_SECONDS)
    pump.scheduler.start()
    pump.scheduler.drain(0)
    assert [pump.status(each) for each in ids] == ["completed"] * SLOTS + ["pending"] * (20 - SLOTS)
    reasons = [runs(pump.db, each)[0]["error_message"] for each in ids[SLOTS:]]
    assert reasons == ["the node stopped before the body ended"] * SLOTS + ["the node stopped"] * (20 - 2 * SLOTS)
    assert len(script(pump).interrupted) == SLOTS
