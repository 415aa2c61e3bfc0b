"""The stream of events: what it tells, how a client comes back to it, and what a slow one costs the others."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx2
import pytest

from crawlfleet import TaskSpec
from crawlfleet.api import connections, guard, stream
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.insights import changes
from crawlfleet.insights.changes import News, NewsReader
from crawlfleet.model.api_token import ApiTokenDAO, Role
from tests import fleets
from tests.api.conftest import Serve, Served
from tests.conftest import Backend
from tests.waiting import wait_until

PATH = "/api/distribution/events"
Event = tuple[str, str, dict[str, Any]]  # id, kind, facts


@contextmanager
def listening(served: Served, last_event_id: str | None = None) -> Iterator[Iterator[Event]]:
    """The events as they come; the connection is there when the block begins."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    client = httpx2.Client(base_url=served.server.url, timeout=20, trust_env=False)
    with client, client.stream("GET", PATH, headers=headers) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines) == ": crawlfleet"
        yield parsed(lines)


def parsed(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


def until(events: Iterator[Event], fits: Callable[[str, dict[str, Any]], bool]) -> list[Event]:
    """The events up to the first that fits."""
    found = []
    for event in events:
        found.append(event)
        if fits(event[1], event[2]):
            return found
    raise AssertionError(f"the stream ended after {found}")


def ended(kind: str, facts: dict[str, Any]) -> bool:
    return kind == "run" and facts["status"] == "completed"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LOOK_SECONDS", 0.05)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each look at the tables."""
    looks: list[int] = []
    look = NewsReader.look

    def counted(self: NewsReader, db: Database) -> list[News]:
        found = look(self, db)
        looks.append(len(found))
        return found

    monkeypatch.setattr(NewsReader, "look", counted)
    return looks


def test_a_client_is_told_of_tasks_runs_devices_and_the_queue(serve: Serve, quick: None, looked: list[int]) -> None:
    served = serve()
    with listening(served) as events:
        wait_until(lambda: looked, what="the first look")
        [task_id] = served.fleet.add_tasks([TaskSpec("api_test.ok")])
        found = until(events, ended)
        assert ("added", {"after_id": 0, "last_id": task_id}) in [event[1:] for event in found]
        assert (found[-1][2]["task_id"], found[-1][2]["device_id"]) == (task_id, "api-01")
        served.fleet.set_paused(True, "upgrade")
        assert until(events, lambda kind, _: kind == "queue")[-1][2]["reason"] == "upgrade"
        [waiting] = served.fleet.add_tasks([TaskSpec("api_test.ok")])
        served.fleet.cancel_tasks([waiting], "somebody")
        event = until(events, lambda kind, _: kind == "task")[-1][2]
        assert (event["task_id"], event["event"], event["actor"]) == (waiting, "cancelled", "somebody")
        served.fleet.set_draining("api-01", True)
        assert until(events, lambda kind, _: kind == "device")[-1][2]["draining"] is True


def test_a_client_that_comes_back_gets_what_it_missed_and_only_that(
    serve: Serve, quick: None, looked: list[int]
) -> None:
    served = serve()
    with listening(served) as events, listening(served) as witness:
        wait_until(lambda: looked)
        served.fleet.add_tasks([TaskSpec("api_test.ok")])
        last_id = until(events, ended)[-1][0]
        until(witness, ended)
        [missed] = served.fleet.add_tasks([TaskSpec("api_test.ok")])
        told = until(witness, ended)
    with listening(served, last_id) as events:
        found = until(events, ended)
    assert found == told
    assert found[-1][2]["task_id"] == missed


@pytest.mark.parametrize("last_id", ["another-7", "x", "-", "99999999999999999999999"])
def test_a_client_that_was_away_too_long_is_told_so(serve: Serve, quick: None, last_id: str) -> None:
    with listening(serve(), last_id) as events:
        assert next(events)[1] == "missed"


def test_one_reader_serves_all_clients_and_none_when_nobody_listens(
    serve: Serve, quick: None, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_CLIENTS", 3)
    monkeypatch.setattr(stream, "LINGER_SECONDS", 0.1)
    served = serve()
    assert not looked
    with ExitStack() as stack:
        clients = [stack.enter_context(listening(served)) for _ in range(3)]
        wait_until(lambda: looked)
        refused = served.client.get(PATH)
        assert (refused.status_code, refused.json()["error"]) == (503, "unavailable")
        served.fleet.add_tasks([TaskSpec("api_test.ok")])
        assert len({json.dumps(until(events, ended)) for events in clients}) == 1
    count = len(looked)
    wait_until(lambda: threads_rest(looked), what="the reader ends")
    with listening(served) as events:
        wait_until(lambda: len(looked) > count)
        served.fleet.add_tasks([TaskSpec("api_test.ok")])
        until(events, ended)


def threads_rest(looked: list[int]) -> bool:
    """No look for ten times as long as between two of them."""
    count = len(looked)
    try:
        wait_until(lambda: len(looked) > count, 0.5)
    except AssertionError:
        return True
    return False


def test_events_go_on_after_the_database_was_away(
    serve: Serve, quick: None, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    with listening(served) as events:
        wait_until(lambda: looked)
        look, failures = NewsReader.look, []

        def away(_self: NewsReader, _db: Database) -> list[News]:
            failures.append(1)
            raise DatabaseUnreachable("cannot use the database x")

        monkeypatch.setattr(NewsReader, "look", away)
        wait_until(lambda: failures)
        served.fleet.add_tasks([TaskSpec("api_test.ok")])
        monkeypatch.setattr(NewsReader, "look", look)
        until(events, ended)


def test_a_client_that_takes_nothing_is_cut_off_and_costs_the_others_nothing(
    serve: Serve, quick: None, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOKS_BEHIND", 5)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    served = serve(concurrent_tasks=50)
    with closing(socket.socket()) as lazy, listening(served) as events:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(served.address)
        lazy.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: len(connected(served)) == 2 and looked)

        is_over = threading.Event()
        seen: list[Event] = []

        def watch() -> None:
            for event in events:
                seen.append(event)
                if is_over.is_set() and ended(*event[1:]):
                    return

        witness = threading.Thread(target=watch)
        witness.start()

        def is_cut() -> bool:
            served.fleet.add_tasks([TaskSpec("api_test.ok") for _ in range(40)])
            return len(connected(served)) < 2

        wait_until(is_cut, 60, what="the lazy client is cut off")
        wait_until(lambda: served.fleet.tasks.stats()["pending"] == 0)
        is_over.set()
        served.fleet.add_tasks([TaskSpec("api_test.ok")])
        witness.join(20)
        assert not witness.is_alive()
        assert len(seen) > 50


def connected(served: Served) -> list[Any]:
    server = served.server._server
    assert server is not None
    return [each for each in server.server_state.connections.copy() if each.cycle is not None]


def test_clients_that_come_at_once_share_the_places(serve: Serve, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places were counted when a client asked and taken later, so most of a crowd got in."""
    monkeypatch.setattr(stream, "MAX_CLIENTS", 3)
    served = serve()
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(socket.create_connection(served.address, timeout=20))) for _ in range(9)]
        for client in clients:
            client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answers = sorted(client.recv(12)[-3:] for client in clients)
    assert answers == [b"200"] * 3 + [b"503"] * 6
    wait_until(lambda: not connected(served), what="all are gone")
    with listening(served):
        pass


def test_the_stream_of_a_revoked_token_ends(serve: Serve, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It went on for as long as the client liked, whatever it told."""
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.05)
    served = serve()
    tokens = ApiTokenDAO(served.node.db)
    served.client.headers["Authorization"] = f"Bearer {tokens.add('watcher', Role.READ)}"
    wait_until(lambda: served.client.get("/openapi.json").status_code == 200)
    with served.client.stream("GET", PATH) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": crawlfleet"
        tokens.revoke("watcher")
        assert all(line in ("retry: 2000", "") for line in lines)


def test_streams_end_with_their_node(serve: Serve, quick: None) -> None:
    served = serve()
    with listening(served) as events:
        served.node.end()
        assert [event[1] for event in events] in ([], ["device"])


# -- the reader of the tables


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    found = fleets.fresh(backend.url)
    yield found
    found.close()


def told(reader: NewsReader, db: Database) -> list[tuple[str, Any]]:
    """Each piece of news with the fact that tells it."""
    names = {"run": "status", "task": "event", "added": "last_id", "device": "status", "queue": "paused"}
    return [(news.kind, news.facts.get(names.get(news.kind, ""))) for news in reader.look(db)]


def test_a_reader_tells_each_change_once(db: Database) -> None:
    device = fleets.Device(db)
    reader = NewsReader()
    old = fleets.add(db)
    assert told(reader, db) == []
    device.register()
    ids = fleets.add(db, 3)
    assert told(reader, db) == [("added", ids[-1]), ("device", "online")]
    claims = device.claim(slots=4)
    assert told(reader, db) == [("run", "assigned")] * 4
    device.start(claims[:2])
    assert told(reader, db) == [("run", "running")] * 2
    device.end(*(fleets.ending(claim) for claim in claims))
    assert told(reader, db) == [("run", "completed")] * 4
    assert told(reader, db) == []
    assert old


def test_a_run_that_came_and_went_between_two_looks_is_told(db: Database) -> None:
    device = fleets.Device(db)
    device.register()
    fleets.add(db, 2)
    reader = NewsReader()
    reader.look(db)
    device.end(*(fleets.ending(claim) for claim in device.claim()))
    assert told(reader, db) == [("run", "completed")] * 2


def test_more_than_can_be_told_is_said(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST", 3)
    device = fleets.Device(db)
    device.register()
    reader = NewsReader()
    reader.look(db)
    fleets.add(db, 5)
    device.end(*(fleets.ending(claim) for claim in device.claim()))
    assert told(reader, db) == [("added", 5), ("missed", None), *[("run", "completed")] * 3]
    assert told(reader, db) == []
