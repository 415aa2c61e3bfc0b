"""A database that is away, or whose reply is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawlfleet.core.errors import DatabaseUnreachable
from tests.conftest import Backend
from tests.fleets import task
from tests.services.conftest import Clock, Log, MakePump
from tests.services.pump import Pump
from tests.tcp_proxy import TcpProxy

pytestmark = pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)


def cut_off(proxy: TcpProxy) -> None:
    proxy.refuse()
    proxy.cut()


def test_an_outage_is_waited_for_and_told_once(
    backend: Backend, make_pump: MakePump, proxy: TcpProxy, gate: Path, log: Log
) -> None:
    pump = make_pump(backend.url_at(proxy.port))
    ids = pump.add("held", 2, task_data={"gate": str(gate)})
    pump.until_status("running", *ids)
    cut_off(proxy)
    gate.touch()
    pump.wait_ended()
    for _ in range(3):
        assert pump.turn() is None
        assert pump.scheduler.next_wait() <= 1
    assert (log.count("database away, waiting for it"), log.count("database back after")) == (1, 0)
    proxy.accept()
    pump.until_status("completed", *ids)
    assert (log.count("database away, waiting for it"), log.count("database back after")) == (1, 1)
    assert [pump.run_states(each) for each in ids] == [["completed"]] * 2


def test_a_claim_whose_reply_is_lost_goes_back_and_is_run(
    backend: Backend, make_pump: MakePump, proxy: TcpProxy, log: Log
) -> None:
    pump = make_pump(backend.url_at(proxy.port))
    ids = pump.add("quick", 2)
    cut = proxy.cut_after_request(backend.commit_request)
    assert pump.turn() is None
    assert cut.happened.is_set()
    assert {pump.status(each) for each in ids} == {"assigned"}
    assert pump.began == []
    pump.until_status("completed", *ids)
    for each in ids:
        found = task(pump.db, each)
        assert (found["retry"], found["crash_count"]) == (0, 0)
        assert pump.run_states(each) == ["released", "completed"]
    assert log.count("released 2 claims whose reply was lost") == 1


def test_an_end_whose_reply_is_lost_counts_once(backend: Backend, make_pump: MakePump, proxy: TcpProxy) -> None:
    pump = make_pump(backend.url_at(proxy.port))
    [task_id] = pump.add("quick")
    pump.turn()
    pump.wait_ended()
    cut = proxy.cut_after_request(backend.commit_request)
    assert pump.turn() is None
    assert cut.happened.is_set()
    assert pump.status(task_id) == "completed"
    pump.turn()
    assert dict(pump.scheduler.stats.counters) == {"finish": 1}
    assert pump.run_states(task_id) == ["completed"]


def test_a_registration_whose_reply_is_lost_takes_the_next_epoch(
    backend: Backend, make_pump: MakePump, proxy: TcpProxy, log: Log
) -> None:
    pump = make_pump(backend.url_at(proxy.port), registered=False)
    cut = proxy.cut_after_request(backend.commit_request)
    pump.lease.register(wait_seconds=10)
    assert cut.happened.is_set()
    assert pump.lease.epoch == 2
    assert log.count("registration did not reach the database, trying again") == 1
    pump.until_status("completed", *pump.add("quick"))


def test_a_registration_waits_no_longer_than_it_may(backend: Backend, make_pump: MakePump, proxy: TcpProxy) -> None:
    pump = make_pump(backend.url_at(proxy.port), registered=False)
    cut_off(proxy)
    with pytest.raises(DatabaseUnreachable, match="check address, user, password and network"):
        pump.lease.register()
    assert not pump.lease.online


def test_beats_that_do_not_arrive_are_told_once_and_the_lease_is_as_before(
    backend: Backend, make_pump: MakePump, proxy: TcpProxy, log: Log, clock: Clock
) -> None:
    pump = make_pump(backend.url_at(proxy.port))
    epoch = pump.lease.epoch
    assert beat_when_due(pump, clock)
    cut_off(proxy)
    assert [beat_when_due(pump, clock) for _ in range(3)] == [False] * 3
    assert pump.lease.beating_since is None
    assert log.count("heartbeat did not reach the database: device=d1") == 1
    proxy.accept()
    assert [beat_when_due(pump, clock) for _ in range(2)] == [True] * 2
    assert log.count("heartbeat reaches the database again: device=d1") == 1
    assert pump.lease.beating_since is not None
    assert pump.lease.epoch == epoch


def test_monitoring_is_silent_while_the_database_is_away(
    backend: Backend, make_pump: MakePump, proxy: TcpProxy, log: Log
) -> None:
    pump = make_pump(backend.url_at(proxy.port))
    cut_off(proxy)
    log.clear()
    assert pump.manager.monitoring.run_once() == 0
    assert log.lines == []


def beat_when_due(pump: Pump, clock: Clock) -> bool:
    """One pass of the heartbeat at its time; whether the beat arrived."""
    clock.advance(pump.manager.heartbeat.interval)
    return pump.manager.heartbeat.run_once()
