"""The table of runs: how each moves through it, and what the slots hold."""

from __future__ import annotations

import pytest

from crawlfleet.engines.contract import Run, RunPhase
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.model.task_spec import Task
from crawlfleet.services.alarm import TIMEOUT_CHECK_SECONDS, Alarm
from crawlfleet.services.run_table import RESERVE_PATIENCE_SECONDS, RunTable
from tests.services.conftest import Clock


@pytest.fixture
def table(clock: Clock) -> RunTable:
    clock.freeze()
    return RunTable(2, clock)


def add(table: RunTable, clock: Clock, number: int, timeout: float = 60) -> Run:
    task = Task(id=number, task_type="noop", execution_timeout=timeout)
    run = Run(10 * number, task, Executor("noop", lambda task, context: None), TaskContext(task), clock)
    table.add(run)
    return run


def begin(table: RunTable, run: Run) -> None:
    assert run.begin()
    table.begin(run)


def test_a_run_waits_begins_ends_and_is_settled(table: RunTable, clock: Clock) -> None:
    run = add(table, clock, 1)
    assert (run.phase, table.waiting, table.bodies, table.free) == (RunPhase.WAITING, 1, 0, 1)
    begin(table, run)
    assert (run.phase, table.waiting, table.bodies, table.free) == (RunPhase.BEGUN, 0, 1, 1)
    assert table.unrecorded() == (run,)
    table.recorded()
    assert table.unrecorded() == ()
    assert table.end(run)
    assert (run.phase, table.bodies, table.free, set(table.held)) == (RunPhase.ENDED, 0, 2, {10})
    table.settle(run)
    assert not table.held


def test_a_body_of_a_run_that_is_lost_fills_its_slot_until_it_ends(table: RunTable, clock: Clock) -> None:
    run = add(table, clock, 1)
    begin(table, run)
    assert table.drop(10) is run
    assert table.drop(10) is None
    assert table.unrecorded() == ()
    assert (len(table.held), table.free) == (0, 1)
    assert not table.end(run), "its result comes too late"
    assert table.free == 2


def test_a_run_whose_end_is_decided_is_neither_dropped_nor_ended_again(table: RunTable, clock: Clock) -> None:
    run = add(table, clock, 1)
    begin(table, run)
    table.decide(run)
    assert table.drop(10) is None
    assert table.unrecorded() == ()
    assert not table.end(run)
    assert set(table.held) == {10}


def test_bodies_are_overdue_at_their_timeout_and_may_get_stuck(table: RunTable, clock: Clock) -> None:
    short, long = add(table, clock, 1, 10), add(table, clock, 2, 20)
    for run in (short, long):
        begin(table, run)
    began = clock.monotonic()
    assert table.next_deadline() == began + 10
    clock.advance(10)
    assert table.overdue() == [short]
    table.decide(short)
    table.get_stuck(short)
    assert (table.overdue(), table.next_deadline(), table.all_stuck) == ([], began + 20, False)
    table.get_stuck(long)
    assert (table.next_deadline(), table.all_stuck) == (None, True)
    table.end(short)
    assert not table.all_stuck


def test_what_waits_beyond_slots_and_reserve_is_surplus_after_a_while(table: RunTable, clock: Clock) -> None:
    waiting = [add(table, clock, number) for number in range(1, 6)]
    assert (table.has_reserve, table.free) == (True, -3)
    assert table.surplus(1, RESERVE_PATIENCE_SECONDS) == []
    clock.advance(RESERVE_PATIENCE_SECONDS + 0.1)
    assert table.surplus(1, RESERVE_PATIENCE_SECONDS) == waiting[3:]
    assert table.surplus(3, RESERVE_PATIENCE_SECONDS) == []


def test_the_alarm_waits_as_long_as_nothing_is_missed(table: RunTable, clock: Clock) -> None:
    alarm = Alarm(clock, schedule_interval=30, dispatch_interval=10)

    def seconds() -> float:
        alarm.reset(table)
        return alarm.seconds

    assert seconds() == 30
    run = add(table, clock, 1, timeout=5)
    assert seconds() == RESERVE_PATIENCE_SECONDS
    begin(table, run)
    assert seconds() == pytest.approx(5)
    clock.advance(5)
    assert seconds() == TIMEOUT_CHECK_SECONDS
    table.decide(run)
    table.get_stuck(run)
    assert seconds() == 10
    alarm.within(3)
    alarm.within(7)
    assert alarm.seconds == 3
    alarm.within(-1)
    assert alarm.seconds == 0


def test_the_alarm_tells_of_an_outage_once_and_how_long_it_was(clock: Clock) -> None:
    clock.freeze()
    alarm = Alarm(clock, 30, 10)
    assert alarm.database_back() is None
    began = clock.monotonic()
    assert alarm.database_away(began, "cut")
    assert not alarm.database_away(began + 1, "cut")
    clock.advance(60)
    assert alarm.database_back() == pytest.approx(60)
    assert alarm.database_back() is None
    assert alarm.database_away(began + 60, "cut")


def test_the_alarm_lingers_for_young_bodies_only_and_not_for_long(table: RunTable, clock: Clock) -> None:
    alarm = Alarm(clock, 30, 10)
    run = add(table, clock, 1)
    begin(table, run)
    alarm.reset(table)
    assert not alarm.lingers(0.0, table)
    assert alarm.lingers(0.5, table)
    assert alarm.seconds == pytest.approx(0.5)
    clock.advance(0.3)
    assert alarm.lingers(0.5, table)
    assert alarm.seconds == pytest.approx(0.2)
    clock.advance(0.3)
    assert not alarm.lingers(0.5, table), "it has waited for long enough"
    assert not alarm.lingers(0.5, table), "and the body is no longer young"
