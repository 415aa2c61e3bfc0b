"""Assigning: who gets a task, what a worker takes over, and what a master takes back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.model import fleet_state
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.claims import Registration
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.dispatch import Candidate, Kind
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services.dispatcher import CHOOSE, Dispatcher
from crawlfleet.services.scheduler_options import LoadBalanceStrategy
from tests.conftest import Backend
from tests.fleets import runs
from tests.services.conftest import MakePump
from tests.services.pump import Pump

MakeMaster = Callable[..., Dispatcher]


@pytest.fixture
def make_master(backend: Backend, make_pump: MakePump) -> MakeMaster:
    """Makes masters that are driven by hand, each with a device of its own."""

    def make(device_id: str = "m1", strategy: str = "least_tasks") -> Dispatcher:
        pump = make_pump(backend.url, device_id=device_id, mode="master", slots=1)
        return Dispatcher(pump.db, pump.lease, LoadBalanceStrategy(strategy), 10, chance=random.Random(7))

    return make


@pytest.fixture
def worker(backend: Backend, make_pump: MakePump) -> Callable[..., Pump]:
    return lambda device_id, slots=2, **more: make_pump(
        backend.url, device_id=device_id, mode="worker", slots=slots, **more
    )


def live(pump: Pump) -> Counter[str]:
    """Live runs by device."""
    query = "SELECT device_id FROM cl_task_assignment WHERE status IN ('assigned', 'running')"
    with pump.db.read() as connection:
        return Counter(connection.execute(sa.text(query)).scalars())


def test_tasks_go_evenly_to_workers_and_no_more_than_twice_their_slots(
    make_master: MakeMaster, worker: Callable[..., Pump]
) -> None:
    master, small = make_master(), worker("w1", 1)
    worker("w2", 3)
    small.add("quick", 20)
    assert master.run_once().assigned == 8
    assert live(small) == {"w1": 2, "w2": 6}
    done = master.run_once()
    assert (done.assigned, done.busy) == (0, True)
    assert 0 < master.next_wait() < 10


def test_a_worker_takes_over_what_was_assigned_as_its_slots_become_free(
    make_master: MakeMaster, worker: Callable[..., Pump], gate: Path
) -> None:
    master, pump = make_master(), worker("w1", 2)
    tasks = pump.add("held", 4, task_data={"gate": str(gate)})
    master.run_once()
    turn = pump.turn()
    assert turn is not None
    assert [claim.task.id for claim in turn.claimed] == tasks[:2]
    pump.wait_began(2)
    pump.turn()
    assert [pump.status(each) for each in tasks] == ["running"] * 2 + ["assigned"] * 2
    pump.inbox.request_reconcile()
    pump.turn()
    assert [pump.status(each) for each in tasks] == ["running"] * 2 + ["assigned"] * 2  # not taken for lost
    gate.touch()
    pump.until_status("completed", *tasks)
    assert all(len(pump.run_states(each)) == 1 for each in tasks)


def test_a_worker_leaves_the_queue_to_a_master_while_there_is_one(
    make_master: MakeMaster, worker: Callable[..., Pump]
) -> None:
    master, pump, other = make_master(), worker("w1"), worker("w2", claim_without_master=False)
    [task_id] = pump.add("quick")
    for each in (pump, other):
        for _ in range(3):
            each.turn()
    assert pump.status(task_id) == "pending"
    with pump.db.read() as connection:
        assert not pump.scheduler.sees_work(connection)  # or its watcher would wake it again and again
    DeviceDAO(pump.db).set_offline("m1", master.lease.epoch)
    other.turn()
    assert pump.status(task_id) == "pending"
    pump.until_status("completed", task_id)


def test_a_task_goes_only_to_a_worker_that_knows_it(make_master: MakeMaster, worker: Callable[..., Pump]) -> None:
    master, pump = make_master(), worker("w1")
    with pump.db.plain.begin() as connection:
        connection.exec_driver_sql('UPDATE cl_device SET capabilities = \'{"supported_tasks": ["held"]}\'')
    knows = worker("w2")
    pump.add("quick", 4)
    assert master.run_once().assigned == 4
    assert live(knows) == {"w2": 4}


def test_a_task_with_a_label_goes_only_to_a_worker_that_has_it(
    make_master: MakeMaster, worker: Callable[..., Pump]
) -> None:
    master, pump = make_master(), worker("w1")
    tasks = pump.add("quick", 3, label="eu")
    plain = pump.add("quick", 1)
    assert master.run_once().assigned == 1
    assert pump.status(plain[0]) == "assigned"
    labelled = worker("w2", labels=("eu",))
    assert master.run_once().assigned == 3
    assert live(labelled) == {"w1": 1, "w2": 3}
    labelled.until_status("completed", *tasks)


def test_tasks_for_a_full_worker_do_not_hide_what_the_others_could_run(
    make_master: MakeMaster, worker: Callable[..., Pump]
) -> None:
    master, pump = make_master(), worker("w1")
    worker("w2", 1, labels=("eu",))
    pump.add("quick", 9, label="eu")
    for n in range(20):  # more lanes than one claim looks at
        pump.add("quick", label="eu", source="appsflyer", username=f"u{n}")
    assert master.run_once().assigned == 2
    pump.add("quick", 4)
    assert master.run_once().assigned == 4
    assert live(pump) == {"w1": 4, "w2": 2}


def test_what_waits_for_a_label_is_not_taken_back_for_a_worker_without_it(
    make_master: MakeMaster, worker: Callable[..., Pump]
) -> None:
    master, busy = make_master(), worker("w1", 2, labels=("eu",))
    busy.add("quick", 4, label="eu")
    assert master.run_once().assigned == 4
    worker("w2", 2)
    assert master.run_once().taken_back == 0
    worker("w3", 2, labels=("eu",))
    assert master.run_once().taken_back == 2
    assert master.run_once().assigned == 2
    assert live(busy) == {"w1": 2, "w3": 2}


def test_a_draining_worker_and_a_paused_queue_get_nothing(make_master: MakeMaster, worker: Callable[..., Pump]) -> None:
    master, pump = make_master(), worker("w1")
    [task_id] = pump.add("quick")
    fleet_state.set_paused(pump.db, True, "test")
    assert master.run_once().assigned == 0
    fleet_state.set_paused(pump.db, False)
    DeviceDAO(pump.db).set_draining("w1", True)
    assert master.run_once().assigned == 0
    DeviceDAO(pump.db).set_draining("w1", False)
    assert master.run_once().assigned == 1
    DeviceDAO(pump.db).set_draining("w1", True)
    pump.inbox.request_reconcile()
    pump.turn()
    assert pump.status(task_id) == "pending"  # it goes elsewhere


def test_what_waits_at_a_busy_worker_goes_to_an_idle_one_and_nothing_that_was_taken_over_does(
    make_master: MakeMaster, worker: Callable[..., Pump], gate: Path
) -> None:
    master, busy = make_master(), worker("w1", 2)
    tasks = busy.add("held", 4, task_data={"gate": str(gate)})
    master.run_once()
    busy.turn()  # two of four; they have not been recorded as begun
    idle = worker("w2", 2)
    assert master.run_once().taken_back == 2
    assert [busy.status(each) for each in tasks] == ["assigned"] * 2 + ["pending"] * 2
    assert master.run_once().assigned == 2
    assert live(busy) == {"w1": 2, "w2": 2}
    gate.touch()
    idle.until_status("completed", *tasks[2:])
    busy.until_status("completed", *tasks[:2])


def test_nothing_is_taken_back_for_an_idle_worker_that_does_not_know_it(
    make_master: MakeMaster, worker: Callable[..., Pump], gate: Path
) -> None:
    master, busy = make_master(), worker("w1", 2)
    busy.add("held", 5, task_data={"gate": str(gate)})  # the last one stays in the queue
    master.run_once()
    busy.turn()
    idle = worker("w2", 2)
    with busy.db.plain.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE cl_device SET capabilities = '{\"supported_tasks\": [\"quick\"]}' WHERE device_id = 'w2'"
        )
    done = master.run_once()
    assert (done.taken_back, done.assigned, done.busy) == (0, 0, True)  # or it would go to and fro for ever
    assert master.next_wait() < 10  # one of its slots may become free at any time
    assert live(idle) == {"w1": 4}


def test_what_waits_at_a_busy_worker_can_be_taken_back_without_a_master(
    make_master: MakeMaster, worker: Callable[..., Pump]
) -> None:
    master, busy = make_master(), worker("w1", 1)
    tasks = busy.add("quick", 2)
    master.run_once()
    assert busy.fleet.rebalance("me") == 0  # nobody is idle
    worker("w2", 3)
    assert busy.fleet.rebalance("me") == 1
    assert [busy.status(each) for each in tasks] == ["assigned", "pending"]
    with busy.db.read() as connection:
        noted = connection.execute(sa.text("SELECT actor, action FROM cl_audit")).all()
    assert noted == [("me", "management.rebalance")] * 2


def test_calls_are_held_while_a_task_waits_at_its_worker_and_sent_when_it_runs(
    make_master: MakeMaster, worker: Callable[..., Pump]
) -> None:
    master, pump = make_master(), worker("w1", 2)
    AccountDAO(pump.db).add(Account("vendor", "u", token_env="TOKEN"))
    cost = Cost((Charge("vendor", "app", calls=1, seconds=60),), calls=1)
    spec = TaskSpec("calling", source="vendor", username="u")
    first, second = CrawlTaskDAO(pump.db).add([spec, spec], TaskDefaults(cost_of=lambda _: cost))
    assert master.run_once().assigned == 1
    assert master.run_once().assigned == 0
    pump.until_status("completed", first)
    with pump.db.read() as connection:
        called = connection.execute(sa.text("SELECT COUNT(*) FROM cl_budget_call WHERE called_at IS NOT NULL"))
        assert called.scalar_one() == 1
    assert master.run_once().assigned == 0
    assert pump.status(second) == "pending"


def test_several_masters_give_each_task_once(make_master: MakeMaster, worker: Callable[..., Pump]) -> None:
    masters, pump = [make_master("m1"), make_master("m2")], worker("w1", 2)
    pump.add("quick", 10)
    for _ in range(20):
        for master in masters:
            master.run_once()
        pump.turn()
        pump.wait_ended()
    assert pump.fleet.tasks.stats()["completed"] == 10
    assert sum(each.counters["assigned"] for each in masters) == 10


def candidate(name: str, live: int, slots: int = 4, given: int = 0, cpu: float | None = None) -> Candidate:
    return Candidate(Registration(name, 1), Kind(frozenset()), slots, live, 0, cpu, cpu, given)


def test_the_four_strategies() -> None:
    chance = random.Random(1)
    some = [candidate("a", 3, given=1, cpu=0), candidate("b", 2, given=5, cpu=100), candidate("c", 4, slots=9, given=2)]

    def chosen(strategy: LoadBalanceStrategy) -> Counter[str]:
        return Counter(CHOOSE[strategy](some, chance).owner.device_id for _ in range(300))

    assert set(CHOOSE) == set(LoadBalanceStrategy)
    assert chosen(LoadBalanceStrategy.ROUND_ROBIN) == {"a": 300}
    assert chosen(LoadBalanceStrategy.LEAST_TASKS) == {"c": 300}
    by_weight = chosen(LoadBalanceStrategy.WEIGHTED)
    assert by_weight["a"] > by_weight["b"] > 0
    assert all(70 < count < 130 for count in chosen(LoadBalanceStrategy.RANDOM).values())


def test_a_run_whose_budget_was_closed_before_its_worker_took_it_goes_back(
    make_master: MakeMaster, worker: Callable[..., Pump]
) -> None:
    """Of two runs of one lane the vendor refused the first for an hour; the second waited for that hour in the only
    slot, and the tasks that were free starved behind it."""
    master, pump = make_master(), worker("w1", 1)
    charge = Charge("vendor", "account", calls=5, seconds=60, username="u")
    paid = TaskDefaults(cost_of=lambda _: Cost((charge,), calls=1))
    spec = TaskSpec("raising", source="vendor", username="u", task_data={"kind": "quota"})
    first, second = CrawlTaskDAO(pump.db).add([spec, spec], paid)
    assert master.run_once().assigned == 2
    free = pump.add("quick", 5)
    pump.until(lambda: pump.run_states(first) == pump.run_states(second) == ["released"], "both runs to go back")
    assert [str(each["error_message"]) for each in runs(pump.db, second)] == ["its budget was closed before it began"]
    while master.run_once().assigned:
        pump.until(lambda: not live(pump), "what was assigned to end")
    assert {pump.status(each) for each in free} == {"completed"}
    assert {pump.status(each) for each in (first, second)} == {"pending"}
    with pump.db.read() as reader:
        assert reader.execute(sa.text("SELECT COUNT(*) FROM cl_budget_call WHERE called_at IS NULL")).scalar_one() == 0
