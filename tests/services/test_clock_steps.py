"""The database's clock is set while nodes work: quotas go by what really passed."""

from __future__ import annotations

import pytest

from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.claims import promote
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.settings.definitions import Settings
from tests.services.conftest import Clock, Log, MakePump
from tests.services.pump import Pump

WINDOW = 300.0
COST = Cost((Charge("vendor", "account", calls=1, seconds=WINDOW, username="u"),), calls=1)


def settle(*pumps: Pump) -> int:
    """Turns until nobody has anything to do; how many tasks are completed."""
    for _ in range(2):
        for pump in pumps:
            pump.beat()
            pump.until(
                lambda p=pump: not p.scheduler.runs.table.held and p.scheduler.next_wait() > 1, "the work to end"
            )
    return pumps[0].fleet.tasks.stats()["completed"]


@pytest.mark.parametrize("first", ["d1", "d2"])
def test_a_step_of_the_databases_clock_brings_no_call_nearer(
    url: str, make_pump: MakePump, clock: Clock, first: str
) -> None:
    """Stepped ahead by a minute five times, the database let 1 to 4 calls too many through, 0.3 s apart.

    Whoever notices a step first may be another than the one who made the last call.
    """
    pumps = [make_pump(url, device_id=name, schedule_interval=600) for name in ("d1", "d2")]
    CrawlTaskDAO(pumps[0].db).add(
        [TaskSpec("calling", source="vendor", username="u")] * 9, TaskDefaults(cost_of=lambda _: COST)
    )
    done = settle(*pumps)
    assert done == 1
    pumps.sort(key=lambda pump: pump.lease.device_id != first)
    for _ in range(2):
        for step in (120.0, 240.0, -60.0):
            clock.step_database(step)
            clock.let_pass(80.0)  # of the window 240 s pass, and the database's clock says 540
            promote(pumps[0].db, 0.0)  # as a node does that has just started, and saw no step
            assert settle(*pumps) == done
        clock.let_pass(61.0)
        done += 1
        assert settle(*pumps) == done


def test_a_clock_that_is_slowly_put_right_brings_no_call_nearer(url: str, make_pump: MakePump, clock: Clock) -> None:
    """As chrony does, by up to 8 %: no two readings that follow each other are far apart."""
    pump = make_pump(url, schedule_interval=600)
    cost = Cost((Charge("vendor", "account", calls=1, seconds=20.0, username="u"),), calls=1)
    specs = [TaskSpec("calling", source="vendor", username="u")] * 2
    CrawlTaskDAO(pump.db).add(specs, TaskDefaults(cost_of=lambda _: cost))
    assert settle(pump) == 1
    called_before = clock.monotonic()
    while clock.monotonic() < called_before + 19.6:  # then the database's clock says 20.1
        clock.let_pass(0.2)
        clock.step_database(0.006)
        promote(pump.db, 0.0)
        turn = pump.scheduler.run_once()
        assert turn is None or not turn.claimed


@pytest.mark.parametrize("step", [-3600.0, 60.0])
def test_a_step_is_told_once(url: str, make_pump: MakePump, clock: Clock, log: Log, step: float) -> None:
    pump = make_pump(url)
    for seconds in (0.0, step, 0.0):
        clock.step_database(seconds)
        clock.let_pass(30.0)
        pump.beat()
    assert log.count(f"the database's clock was moved by {step:+.1f} s") == 1


def test_nobody_is_declared_offline_because_the_clock_was_set(url: str, make_pump: MakePump, clock: Clock) -> None:
    """All beats look old then, as after an outage: who judges waits until all had the time to beat again."""
    settings = Settings(heartbeat_interval=1, offline_timeout=10)
    judge, other = make_pump(url, settings=settings), make_pump(url, settings=settings, device_id="d2")
    for _ in range(11):
        clock.let_pass(1.0)
        judge.beat()
        other.beat()
    clock.step_database(60.0)
    assert judge.manager.monitoring.run_once() == 0  # before a beat has noticed it
    judge.beat()
    assert judge.manager.monitoring.run_once() == 0
    other.beat()
    for _ in range(11):
        clock.let_pass(1.0)
        judge.beat()
    assert judge.manager.monitoring.run_once() == 1  # a silence that is real
    assert {each["device_id"]: each["status"] for each in DeviceDAO(judge.db).find()}["d2"] == "offline"
