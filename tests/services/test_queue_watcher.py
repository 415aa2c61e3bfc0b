"""Waking the scheduler as soon as the queue changes, with what each database offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.model import fleet_state
from crawlfleet.model.claims import open_heads
from crawlfleet.services import queue_watcher
from crawlfleet.services.fleet import Fleet
from crawlfleet.services.queue_watcher import QueueWatcher
from tests.conftest import Backend
from tests.fleets import add, fresh
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until


class Watched:
    """A watcher driven by hand, over connections of its own, and what it called."""

    def __init__(self, url: str) -> None:
        self.db = Database(url).open()
        self.hungry = True
        self.woken = 0
        self.watcher = QueueWatcher(
            self.db,
            lambda connection: bool(open_heads(connection, {"noop"}, ())),
            lambda: self.hungry,
            self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    def news(self) -> bool:
        """Whether one look finds news; the scheduler must be woken then, and only then."""
        before = self.woken
        found = self.watcher.run_once()
        assert self.woken - before == int(found)
        return found

    def begin(self) -> None:
        """The first look finds whatever happened while nobody looked."""
        self.watcher.run_once()
        assert self.woken >= 1


@pytest.fixture
def db(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The same database over connections that nobody watches."""
    monkeypatch.setattr(queue_watcher, "LISTEN_SECONDS", 0.05)
    monkeypatch.setattr(queue_watcher, "LAST_LOOK_SECONDS", 0.05)  # what these tests change is committed before a look
    database = fresh(backend.url)
    yield database
    database.close()


@pytest.fixture
def watch(db: Database) -> Iterator[Callable[[str], Watched]]:
    made: list[Watched] = []

    def make(url: str) -> Watched:
        made.append(Watched(url))
        return made[-1]

    yield make
    for watched in made:
        watched.watcher.finish()
        watched.db.close()


def test_a_new_task_is_news_once_claimed_or_seen(
    backend: Backend, db: Database, watch: Callable[[str], Watched]
) -> None:
    watched = watch(backend.url)
    watched.begin()
    assert not watched.news()
    add(db)
    assert watched.news()
    if db.family != "mysql":  # a probe finds the task until it is claimed
        assert not watched.news()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_whatever_opens_the_queue_is_news(backend: Backend, db: Database, watch: Callable[[str], Watched]) -> None:
    fleet = Fleet(db)
    fleet.accounts.add(Account("appsflyer", "alice", token_env="T"))
    fleet.accounts.park("appsflyer", "alice", "tired")
    fleet_state.set_paused(db, True)
    [task_id] = add(db)
    watched = watch(backend.url)
    watched.begin()
    assert not watched.news()
    for change in (
        lambda: fleet_state.set_paused(db, False),
        lambda: fleet.accounts.resume("appsflyer", "alice"),
        lambda: fleet.cancel_tasks([task_id]),
        lambda: fleet.retry_tasks([task_id]),
    ):
        change()
        assert watched.news()
        assert not watched.news()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_news_end_a_long_wait_and_so_does_stop(
    backend: Backend, db: Database, watch: Callable[[str], Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_watcher, "LISTEN_SECONDS", 1000)
    monkeypatch.setattr(queue_watcher, "SQLITE_LOOK_SECONDS", 1000)
    watched = watch(backend.url)
    watched.watcher.start()
    for _ in range(5):
        wait_until(lambda: watched.woken > 0, what="the scheduler to be woken")
        watched.woken = 0
        add(db)
    watched.watcher.stop()
    assert watched.watcher.join(10)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_where_nobody_tells_of_writes_the_file_is_looked_at(
    backend: Backend, db: Database, watch: Callable[[str], Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert queue_watcher.writes_to("/no/such/file") is None
    monkeypatch.setattr(queue_watcher, "writes_to", lambda path: None)
    watched = watch(backend.url)
    watched.begin()
    assert not watched.news()
    assert watched.watcher.next_wait() == queue_watcher.SQLITE_LOOK_SECONDS
    add(db)
    assert watched.news()


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_probe_looks_only_for_what_this_node_could_claim(
    backend: Backend, db: Database, watch: Callable[[str], Watched]
) -> None:
    watched = watch(backend.url)
    watched.begin()
    add(db, task_type="of_others")
    assert not watched.news()
    add(db)
    assert watched.news()


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_nothing_is_asked_while_the_scheduler_is_not_hungry(
    backend: Backend, db: Database, watch: Callable[[str], Watched], proxy: TcpProxy
) -> None:
    watched = watch(backend.url_at(proxy.port))
    watched.begin()
    add(db)
    watched.hungry = False
    before = proxy.round_trips
    assert [watched.news() for _ in range(5)] == [False] * 5
    assert proxy.round_trips == before
    watched.hungry = True
    assert watched.news()
    assert proxy.round_trips == before + 1


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_far_database_is_probed_less_often(
    backend: Backend, db: Database, watch: Callable[[str], Watched], proxy: TcpProxy
) -> None:
    watched = watch(backend.url_at(proxy.port))
    watched.begin()
    proxy.delay_seconds = 0.02
    for _ in range(queue_watcher.PACE_PROBES):
        watched.news()
    assert watched.watcher.next_wait() >= 0.04 / queue_watcher.PROBE_SHARE


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_probe_that_was_held_up_does_not_delay_the_next_ones(
    backend: Backend, db: Database, watch: Callable[[str], Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch(backend.url)
    readings = iter([0.0, 0.0, 0.001, 0.001, 10.0, 10.0, 13.0, 13.0])  # around each of two probes and its question
    monkeypatch.setattr(watched.watcher.db, "clock", SimpleNamespace(monotonic=readings.__next__))
    watched.begin()
    watched.news()
    assert watched.watcher.next_wait() == queue_watcher.PROBE_SECONDS


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_watcher_comes_back_after_an_outage_and_finds_what_it_missed(
    backend: Backend, db: Database, watch: Callable[[str], Watched], proxy: TcpProxy
) -> None:
    watched = watch(backend.url_at(proxy.port))
    watched.begin()
    proxy.refuse()
    proxy.cut()
    for _ in range(2):
        assert not watched.news()
        assert watched.watcher.next_wait() == 1.0
    add(db)
    proxy.accept()
    before = watched.woken
    watched.watcher.run_once()
    assert watched.woken > before
    assert watched.watcher.next_wait() < 1.0 or backend.name == "mariadb"


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_stopped_watcher_keeps_no_connection(
    backend: Backend, db: Database, watch: Callable[[str], Watched], proxy: TcpProxy
) -> None:
    watched = watch(backend.url_at(proxy.port))
    kept = proxy.connections
    watched.watcher.start()
    wait_until(lambda: proxy.connections == kept + 1, what="the connection of the watcher")
    watched.watcher.stop()
    assert watched.watcher.join(10)
    wait_until(lambda: proxy.connections == kept, what="the end of the connection")
