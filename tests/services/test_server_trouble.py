"""A server that has trouble with a result: it waits, or fails alone; nothing else is held up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from crawlfleet.core import db as db_module
from crawlfleet.core import sending
from crawlfleet.core.database_errors import Trouble
from crawlfleet.core.db import Database
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.insights.overview import fleet_status
from crawlfleet.services import alarm, result_writer
from tests.conftest import Backend
from tests.fleets import task
from tests.servers import MARIADB, Flavour, Server
from tests.services.conftest import Clock, Log, MakePump
from tests.services.poison import antidote, poison
from tests.services.pump import Pump
from tests.waiting import wait_until

SERVERS = pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
TROUBLES = {
    "postgresql": ("57014", "53100", "42501"),  # a time limit, no space, a lost privilege
    "mariadb": ("1969", "1114", "1021"),
}


def act_of(backend: Backend, code: str) -> str:
    """What makes a trigger raise this."""
    if backend.name == "postgresql":
        return f"RAISE EXCEPTION 'trouble' USING ERRCODE = '{code}'"
    return f"SIGNAL SQLSTATE 'HY000' SET MESSAGE_TEXT = 'trouble', MYSQL_ERRNO = {code}"


def until(pump: Pump, status: str, *task_ids: int) -> None:
    pump.until_status(status, *task_ids)


def write_once(pump: Pump) -> None:
    """One pass of the second writer, at the time of its next try."""
    wait_until(lambda: pump.scheduler.runs.writer.next_wait() <= 0, what="the next try")
    pump.scheduler.runs.writer.run_once()


@SERVERS
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_result_that_the_server_cannot_take_now_waits_and_is_stored_later(
    backend: Backend, number: int, make_pump: MakePump, log: Log, clock: Clock
) -> None:
    """Passing troubles of the server failed tasks for good: "the database refused the result"."""
    pump = make_pump(backend.url)
    poison(pump.db, "cl_app_data", "campaign", act_of(backend, TROUBLES[backend.name][number]))
    [bad] = pump.add("fetch", task_data={"rows": 2, "app": "a", "poison": True})
    others = pump.add("quick", 2)
    until(pump, "completed", *others)
    pump.until(lambda: pump.scheduler.runs.writer.pending, "the result to be set aside")
    for _ in range(3):
        write_once(pump)
    assert pump.status(bad) in {"assigned", "running"}
    assert log.count("a result waits, the database does not take it now") == 1
    assert pump.scheduler.obstacle is None
    clock.advance(alarm.OBSTACLE_SECONDS)
    assert "a result waits for the database" in str(pump.scheduler.obstacle)
    pump.signs.work = pump.scheduler.report
    pump.beat()
    assert "device d1 is stuck: a result waits for the database" in fleet_status(pump.db, lambda _source: {})["verdict"]
    antidote(pump.db, "cl_app_data")
    write_once(pump)
    until(pump, "completed", bad)
    assert pump.run_states(bad) == ["completed"]
    assert pump.scheduler.obstacle is None


@SERVERS
def test_a_table_that_somebody_locks_holds_up_its_results_alone(
    backend: Backend, make_pump: MakePump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VACUUM FULL or LOCK TABLES failed tasks for good, and MariaDB would have waited for a day."""
    for module in (db_module, sending):
        monkeypatch.setattr(module, "LOCK_WAIT_SECONDS", 1)
    monkeypatch.setattr(db_module, "GIVE_UP_SECONDS", 1)
    pump = make_pump(backend.url)
    assert backend.server is not None
    with closing(backend.server.connect(pump.db.url.database)) as other, other.cursor() as cursor:
        if backend.name == "postgresql":
            cursor.execute("BEGIN")
            cursor.execute("LOCK TABLE cl_app_data IN ACCESS EXCLUSIVE MODE")
        else:
            cursor.execute("LOCK TABLES cl_app_data WRITE")
        [waits] = pump.add("fetch", task_data={"rows": 2, "app": "a"})
        pump.until(lambda: pump.scheduler.runs.writer.pending, "the result to be set aside")
        until(pump, "completed", *pump.add("quick", 2))
        write_once(pump)
        assert pump.status(waits) in {"assigned", "running"}
    write_once(pump)
    until(pump, "completed", waits)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_result_that_breaks_each_connection_fails_alone(
    backend: Backend, make_pump: MakePump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that alone kills connections was an endless outage: nothing else of its node ended any more."""
    monkeypatch.setitem(result_writer.MOST_TRIES, Trouble.BROKEN, 2)
    pump = make_pump(backend.url, schedule_interval=0.1, dispatch_interval=0.1)
    poison(pump.db, "cl_app_data", "campaign", "PERFORM pg_terminate_backend(pg_backend_pid())")
    pump.scheduler.start()
    [bad] = pump.add("fetch", task_data={"rows": 2, "app": "a", "poison": True})
    others = [*pump.add("fetch", task_data={"rows": 2, "app": "b"}), *pump.add("quick", 3)]
    wait_until(lambda: {pump.status(each) for each in others} == {"completed"}, 20, "the others to be completed")
    wait_until(lambda: pump.status(bad) == "failed", 20, "the poison to fail")
    assert "the result breaks each connection on which it is written" in str(task(pump.db, bad)["error_message"])
    assert len(list(stored_rows.data_rows(pump.db, FeedFilter()))) == 2


def test_a_server_with_small_packets_takes_wide_reports_and_many_tasks(
    start_private_server: Callable[[Flavour], Server], make_pump: MakePump
) -> None:
    """A report of 20 MB against a packet limit of 16 stalled its node for ever; so did adding as much at once.

    And where the server quotes names as ANSI does, not even the tables could be made.
    """
    server = start_private_server(MARIADB)
    server.execute(f"SET GLOBAL max_allowed_packet = {1024 * 1024}, GLOBAL sql_mode = 'ANSI'")
    pump = make_pump(server.url(server.create_database("small")), slots=4)
    with Database(pump.db.url.render_as_string(hide_password=False)).read() as reader:  # one that nobody opened first
        reader.ask_clock().read()
        assert reader.dialect.statement_bytes == pump.db.dialect.statement_bytes == 1024 * 1024
    wide = pump.add("fetch", task_data={"rows": 300, "app": "wide", "wide": 3000})
    large = pump.add("fetch", task_data={"rows": 2, "app": "large", "wide": 300_000})
    others = pump.add("quick", 2)
    until(pump, "completed", *wide, *others)
    until(pump, "failed", *large)
    assert "(max_allowed_packet): raise that limit at the server" in str(task(pump.db, large[0])["error_message"])
    assert len(list(stored_rows.data_rows(pump.db, FeedFilter()))) == 300
    ids = pump.add("quick", 20, task_data={"n": "x" * 200_000})
    assert len(set(ids)) == 20
    assert {len(task(pump.db, each)["task_data"]["n"]) for each in ids} == {200_000}  # type: ignore[index, call-overload]
