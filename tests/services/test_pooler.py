"""A fleet whose PostgreSQL is behind a pooler: each transaction may run in another session."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql, stamp, utc
from crawlfleet.doctor.database_checks import open_database
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model import migrations
from crawlfleet.model.server_state import server_state
from crawlfleet.services.queue_watcher import QueueWatcher
from crawlfleet.settings.definitions import Settings
from tests.conftest import Backend
from tests.fleets import fresh
from tests.services.conftest import MakePump
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize("backend", ["pgbouncer"], indirect=True)
TASKS = 60


def test_devices_behind_a_pooler_share_its_sessions(backend: Backend, make_pump: MakePump) -> None:
    """Statements that one client had prepared were missing for another, or its own were taken for them."""
    pumps = [
        make_pump(backend.url, device_id=f"d{n}", slots=4, schedule_interval=0.1, dispatch_interval=0.1)
        for n in range(3)
    ]
    assert all(pump.db.dialect.pooled for pump in pumps)
    ids = pumps[0].add("quick", TASKS) + [
        each for n in range(20) for each in pumps[0].add("fetch", task_data={"rows": 3, "app": f"a{n}"})
    ]
    for pump in pumps:
        pump.scheduler.start()
    beats = [threading.Thread(target=lambda each=pump: [each.beat() for _ in range(10)]) for pump in pumps]
    for thread in beats:
        thread.start()
    wait_until(lambda: {pumps[0].status(each) for each in ids} == {"completed"}, 30, "all tasks")
    for thread in beats:
        thread.join()
    assert all(pump.scheduler.alarm.away is None for pump in pumps)
    assert sum(pump.scheduler.stats.counters["finish"] for pump in pumps) == len(ids)
    assert len(list(stored_rows.data_rows(pumps[0].db, FeedFilter()))) == 60


def test_what_a_session_should_be_is_said_in_each_transaction(backend: Backend) -> None:
    """Time zone and limits of time were set in whichever session came first, and stayed there for others."""
    db = fresh(backend.url)
    at = datetime(2026, 1, 31, 8, tzinfo=UTC)
    moment = sql("SELECT CAST(:at AS timestamptz) AS at, current_setting('timezone'), current_setting('lock_timeout')")
    with db.read() as reader:
        assert reader.execute(moment, {"at": stamp(at)}).one()[1:] == ("UTC", "20s")
        assert utc(reader.execute(moment, {"at": stamp(at)}).scalar()) == at
    assert utc(db.write(lambda t: t.execute(moment, {"at": stamp(at)}).one())[0]) == at
    assert server_state(db)["transaction_isolation"] == "read committed"
    assert backend.server is not None
    with Database(backend.url).open().plain.connect() as stranger:
        assert stranger.exec_driver_sql("SHOW lock_timeout").scalar() == "0"
    db.close()


def test_tables_are_made_and_doctor_tells_of_the_pooler(backend: Backend) -> None:
    """A new fleet may begin behind a pooler."""
    assert backend.server is not None
    name = backend.server.create_database("behind_a_pooler")
    url = backend.url[: backend.url.rindex("/") + 1] + name
    db = Database(url).open()
    assert migrations.upgrade(db)
    assert not migrations.upgrade(db)
    opened: list[Database] = []
    [told] = open_database(Settings(database_url=url), opened)
    assert told.finding.endswith(", through a pooler")
    for each in (db, *opened):
        each.close()
    backend.server.drop_database(name)


def test_the_watcher_asks_where_nobody_can_listen(backend: Backend) -> None:
    """LISTEN is of a session, and a pooler gives that to others."""
    db = fresh(backend.url)
    changes: list[int] = []
    watcher = QueueWatcher(db, lambda reader: True, lambda: True, lambda: changes.append(1))
    assert watcher.run_once()
    assert 0 < watcher.next_wait() < 1
    assert len(changes) == 2  # the connection, and the look
    watcher.finish()
    db.close()
