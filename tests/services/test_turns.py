"""A turn of the scheduler: what ended, what began and what is claimed, in one short transaction."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from crawlfleet.core.sql import stamp
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services import run_table, task_scheduler
from crawlfleet.services.pace import TURNS
from tests.conftest import Backend
from tests.fleets import runs
from tests.services.conftest import Clock, MakePump
from tests.services.pump import statements
from tests.tcp_proxy import TcpProxy

FAR_ROUND_TRIPS = 2  # of one turn, so that a database 100 ms away does not starve a node


def test_one_transaction_ends_records_and_claims(backend: Backend, make_pump: MakePump, gate: Path) -> None:
    pump = make_pump(backend.url)
    [runs_on] = pump.add("held", task_data={"gate": str(gate)})
    ends, next_one = pump.add("quick", 2)
    pump.turn()
    pump.wait_began(2)
    pump.wait_ended(1)
    assert [pump.status(each) for each in (runs_on, ends, next_one)] == ["assigned", "assigned", "pending"]
    with statements(pump.db) as sent:
        turn = pump.turn()
    assert turn is not None
    assert ([each.move for each in turn.ended], [each.task.id for each in turn.claimed]) == (["finish"], [next_one])
    assert [pump.status(each) for each in (runs_on, ends, next_one)] == ["running", "completed", "assigned"]
    assert (sent.count("COMMIT"), sent[-1]) == (1, "COMMIT")
    gate.touch()
    pump.until_status("completed", runs_on, next_one)


def test_a_turn_takes_no_more_statements_for_a_larger_batch(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url, slots=20)
    counts = []
    for batch in (2, 20):
        pump.add("quick", batch)
        pump.turn()
        pump.wait_ended()
        pump.add("quick", batch)
        with statements(pump.db) as sent:
            turn = pump.turn()
        assert turn is not None
        assert (len(turn.ended), len(turn.claimed)) == (batch, batch)
        counts.append(len(sent))
        pump.until(lambda: pump.fleet.tasks.stats()["completed"] == pump.claimed, "all to be completed")
    assert counts[0] == counts[1]


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_turn_at_a_far_database_takes_few_round_trips(
    backend: Backend, make_pump: MakePump, proxy: TcpProxy, gate: Path
) -> None:
    pump = make_pump(backend.url_at(proxy.port), slots=4)
    pump.until_status("completed", *pump.add("quick", 8))  # connections are open, statements known
    pump.add("held", task_data={"gate": str(gate)})
    pump.add("quick", 3)
    pump.turn()
    pump.wait_began(pump.claimed)
    pump.wait_ended(pump.claimed - 1)
    pump.add("quick", 3)
    proxy.delay_seconds = 0.02  # or answers come while a packet is still being sent
    before = proxy.round_trips
    turn = pump.turn()
    assert turn is not None
    assert turn.ended
    assert turn.claimed
    assert proxy.round_trips - before == FAR_ROUND_TRIPS


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
@pytest.mark.parametrize(("ends", "round_trips"), [(0, 4), (3, 5)])
def test_a_turn_of_reports_at_a_far_database_takes_few_round_trips(
    backend: Backend, make_pump: MakePump, proxy: TcpProxy, ends: int, round_trips: int
) -> None:
    """However many it ends, with their figures and calls, and claims."""
    pump = make_pump(backend.url_at(proxy.port), slots=4)

    def cost(spec: TaskSpec) -> Cost:
        return Cost((Charge("vendor", "app", calls=1000, seconds=1, app_id=spec.app_id or ""),), calls=1)

    def add(*apps: str) -> None:
        specs = [
            TaskSpec("fetch_paid", source="s", username="u", app_id=app, task_data={"app": app, "rows": 3})
            for app in apps
        ]
        CrawlTaskDAO(pump.db).add(specs, TaskDefaults(cost_of=cost))

    add("a", "b", "c", "d")
    pump.until(lambda: pump.scheduler.stats.counters["finish"] == 4, "feeds to be known")
    if ends:
        add("a", "b", "c")
        pump.turn()
        pump.wait_ended()
    add("d", "e", "f")
    pump.scheduler.queue_changed()
    proxy.delay_seconds = 0.02
    before = proxy.round_trips
    turn = pump.turn()
    assert turn is not None
    assert (len(turn.ended), len(turn.claimed)) == (ends, 3)
    assert proxy.round_trips - before == round_trips


def test_a_turn_at_a_far_database_waits_a_little_for_bodies_that_just_began(
    url: str, make_pump: MakePump, gate: Path, clock: Clock
) -> None:
    """It ends them, too: else the slots fall into two groups with turns of their own."""
    pump = make_pump(url, slots=4)
    scheduler = pump.scheduler
    pump.until_status("completed", *pump.add("quick", 4))
    clock.freeze()
    for _ in range(TURNS):
        scheduler.stats.pace.note_turn(0.4)
    begun = len(pump.began)
    pump.add("quick", 2)
    pump.add("held", 2, task_data={"gate": str(gate)})
    scheduler.run_once()
    pump.wait_began(begun + 4)
    pump.wait_ended(begun + 2)
    assert scheduler.run_once() is None
    assert 0 < scheduler.next_wait() <= 0.2
    gate.touch()
    pump.wait_ended(begun + 4)
    turn = scheduler.run_once()
    assert turn is not None
    assert len(turn.ended) == 4


@pytest.mark.parametrize("began_before", [0.0, 0.3])
def test_a_turn_waits_neither_long_nor_for_bodies_that_run_for_long(
    url: str, make_pump: MakePump, gate: Path, clock: Clock, began_before: float
) -> None:
    pump = make_pump(url, slots=2)
    scheduler = pump.scheduler
    pump.until_status("completed", *pump.add("quick", 4))
    clock.freeze()
    begun = len(pump.began)
    pump.add("held", task_data={"gate": str(gate)})
    pump.add("quick")
    scheduler.run_once()
    pump.wait_began(begun + 2)
    pump.wait_ended(begun + 1)
    for _ in range(TURNS):
        scheduler.stats.pace.note_turn(0.4)
    clock.advance(began_before)
    if not began_before:
        assert scheduler.run_once() is None
        clock.advance(0.21)
    turn = scheduler.run_once()
    assert turn is not None
    assert len(turn.ended) == 1
    gate.touch()


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_adding_tasks_to_a_far_database_takes_few_round_trips(
    backend: Backend, make_pump: MakePump, proxy: TcpProxy
) -> None:
    """One to know the time, open keys and lanes; one to insert, to notify and to commit. Tasks that are alike and have
    neither a source nor a key need only the latter."""
    pump = make_pump(backend.url_at(proxy.port))
    specs = [TaskSpec("quick", unique_key="k"), TaskSpec("quick"), TaskSpec("held")]
    [first, _, _] = pump.fleet.add_tasks(specs)
    proxy.delay_seconds = 0.02
    before = proxy.round_trips
    assert pump.fleet.add_tasks(specs)[0] == first
    assert proxy.round_trips - before == 2
    before = proxy.round_trips
    assert len(pump.fleet.add_tasks([TaskSpec("quick", task_data={"n": n}) for n in range(100)])) == 100
    assert proxy.round_trips - before == 1


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_when_the_database_told_of_work_it_is_claimed_without_a_look(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url)
    assert pump.turn() is not None
    assert pump.turn() is None
    [task_id] = pump.add("quick")
    looks: list[object] = []
    event.listen(pump.db.engine, "before_cursor_execute", lambda *told: looks.append(told[2]))
    pump.scheduler.queue_changed()
    turn = pump.turn()
    assert turn is not None
    assert [each.task.id for each in turn.claimed] == [task_id]
    assert not looks
    pump.until_status("completed", task_id)
    assert looks


def test_after_a_turn_that_claimed_nothing_a_look_needs_no_transaction(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url)
    assert pump.turn() is not None
    with statements(pump.db) as sent:
        assert pump.turn() is None
    assert "COMMIT" not in sent
    assert len(sent) <= 2
    assert pump.scheduler.idle.is_set()
    pump.add("quick")
    turn = pump.turn()
    assert turn is not None
    assert len(turn.claimed) == 1
    assert not pump.scheduler.idle.is_set()


def test_a_full_node_asks_the_database_nothing(url: str, make_pump: MakePump, gate: Path) -> None:
    pump = make_pump(url)
    pump.until_status("running", *pump.add("held", 2, task_data={"gate": str(gate)}))
    pump.add("quick")
    assert not pump.scheduler.hungry
    with statements(pump.db) as sent:
        assert pump.turn() is None
    assert sent == []
    gate.touch()


def test_that_a_body_began_is_recorded_soon_though_nothing_wakes_the_scheduler(
    backend: Backend, make_pump: MakePump, gate: Path
) -> None:
    pump = make_pump(backend.url, slots=1, schedule_interval=1000, dispatch_interval=1000)
    [task_id] = pump.add("held", task_data={"gate": str(gate)})
    turn = pump.turn()
    assert turn is not None
    assert turn.claimed
    assert pump.scheduler.next_wait() <= run_table.RESERVE_PATIENCE_SECONDS
    pump.wait_began(1)
    pump.turn()
    assert pump.status(task_id) == "running"
    gate.touch()
    pump.until_status("completed", task_id)


def test_what_was_claimed_begins_before_the_next_look_for_more(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url, slots=2)
    pump.add("quick")
    turn = pump.turn()
    assert turn is not None
    assert turn.claimed
    assert 0 < pump.scheduler.next_wait() <= task_scheduler.LOOK_AGAIN_SECONDS


def test_the_next_pass_comes_when_the_next_task_is_due(backend: Backend, make_pump: MakePump) -> None:
    pump = make_pump(backend.url)
    with pump.db.read() as connection:
        due = connection.now + timedelta(seconds=20)
    pump.add("quick", run_at=due)
    pump.turn()
    assert pump.scheduler.next_wait() < 1
    for _ in range(2):
        pump.turn()
        assert 10 < pump.scheduler.next_wait() <= 20
    pump.add("raising", task_data={"kind": "transient"}, max_retry_count=1)
    pump.until(lambda: pump.scheduler.stats.counters["retry"], "the retry")
    assert pump.scheduler.next_wait() <= 20


def test_the_next_pass_comes_when_a_lane_opens_that_this_very_turn_postponed(
    backend: Backend, make_pump: MakePump
) -> None:
    pump = make_pump(backend.url, schedule_interval=300)
    cost = Cost((Charge("vendor", "app", calls=2, seconds=60),), calls=2)
    spec = TaskSpec("calling", source="vendor", username="u")
    CrawlTaskDAO(pump.db).add([spec, spec], TaskDefaults(cost_of=lambda _: cost))
    pump.until(lambda: pump.scheduler.stats.counters["finish"], "the first, which leaves one call for the other")
    pump.until(lambda: pump.scheduler.next_wait() > 1, "a look that found nothing")
    assert 40 < pump.scheduler.next_wait() <= 70


def test_what_another_was_about_to_claim_is_looked_for_again_soon(backend: Backend, make_pump: MakePump) -> None:
    if backend.name == "sqlite":
        pytest.skip("nobody else writes while a turn lasts")
    pump = make_pump(backend.url)
    [task_id] = pump.add("quick")
    with pump.db.plain.connect() as other:
        other.exec_driver_sql(f"SELECT id FROM cl_crawl_task WHERE id = {task_id} FOR UPDATE")
        turn = pump.turn()
        assert turn is not None
        assert not turn.claimed
        assert pump.scheduler.next_wait() < 1
        other.rollback()
    pump.until_status("completed", task_id)


def test_moments_are_those_at_which_a_body_began_and_ended(backend: Backend, make_pump: MakePump, clock: Clock) -> None:
    pump = make_pump(backend.url)
    [task_id] = pump.add("quick")
    pump.turn()
    pump.wait_ended(1)
    clock.advance(100)  # the database was away for so long
    with pump.db.plain.begin() as connection:
        [run] = runs(pump.db, task_id)
        long_ago = {"at": stamp(run["assigned_at"] - timedelta(seconds=100))}  # type: ignore[operator]
        connection.execute(sa.text("UPDATE cl_task_assignment SET assigned_at = :at"), long_ago)
    pump.turn()
    with pump.db.read() as connection:
        now = connection.now
    [run] = runs(pump.db, task_id)
    started, completed = run["started_at"], run["completed_at"]
    assert started <= completed  # type: ignore[operator]
    assert timedelta(seconds=99) < now - completed < timedelta(seconds=130)  # type: ignore[operator]
