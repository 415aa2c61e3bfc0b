"""Clients that are slow, many or rude cost the node neither its heartbeats nor its file descriptors."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from crawlfleet import TaskSpec
from crawlfleet.api import connections, stream
from crawlfleet.insights import tasks
from crawlfleet.model.device_heartbeat import Beat
from tests.api.conftest import Serve, Served
from tests.waiting import wait_until

HALF_A_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def slow_client(served: Served, stack: ExitStack, text: bytes = HALF_A_REQUEST) -> socket.socket:
    client = stack.enter_context(closing(socket.create_connection(served.address, timeout=20)))
    client.sendall(text)
    return client


def is_closed(client: socket.socket) -> bool:
    """Waits for the server's end of the connection to close."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def beats_of(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[Beat]:
    """Every beat from the next but one on, once it has arrived: a beat tells how long the one before took, and the
    next tells of that at the start."""
    beats: list[Beat] = []
    lease = served.node.lease
    send = lease.beat
    at_start = lease.latest

    def note(epoch: int, delay_seconds: float) -> None:
        is_next = lease.latest is at_start
        send(epoch, delay_seconds)
        assert lease.latest is not None
        if not is_next:
            beats.append(lease.latest)

    monkeypatch.setattr(lease, "beat", note)
    return beats


def test_fifty_requests_that_never_end_delay_no_heartbeat(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(heartbeat_interval=0.5)
    unfinished = [slow_client(served, stack) for _ in range(50)]
    beats = beats_of(served, monkeypatch)
    wait_until(lambda: len(beats) >= 4, what="four heartbeats")
    assert max(beat.delay_seconds for beat in beats) < 0.3
    assert served.client.get("/readyz").status_code == 200
    for client in unfinished:
        client.sendall(b"\r\n\r\n")
    assert {client.recv(12) for client in unfinished} == {b"HTTP/1.1 200"}


def test_busy_clients_delay_no_heartbeat(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(heartbeat_interval=0.5)
    beats = beats_of(served, monkeypatch)

    def ask() -> int:
        asked = 0
        while len(beats) < 4:
            for path in ("/api/distribution/system/overview", "/metrics", "/readyz"):
                served.client.get(path).raise_for_status()
                asked += 1
        return asked

    with ThreadPoolExecutor(8) as clients:
        answered = [clients.submit(ask) for _ in range(8)]
        assert min(each.result(60) for each in answered) > 0
    assert max(beat.delay_seconds for beat in beats) < 0.4


def test_busy_lazy_and_listening_clients_delay_neither_heartbeat_nor_pump(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK_SECONDS", 0.1)
    served = serve(heartbeat_interval=0.5)
    ids = served.fleet.add_tasks([TaskSpec("api_test.ok") for _ in range(500)])
    wait_until(lambda: served.fleet.tasks.stats()["completed"] == 500)
    listen = b"GET /api/distribution/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    large = b"GET /api/distribution/tasks?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for text in [listen] * stream.MAX_CLIENTS + [large] * 20:  # none of them takes its response
        slow_client(served, stack, text)
    beats = beats_of(served, monkeypatch)
    paths = ["tasks?limit=1000", "assignments?limit=1000", "system/overview", f"tasks/{ids[0]}/explain", "devices"]

    def ask() -> int:
        asked = 0
        while len(beats) < 6:
            served.client.get(f"/api/distribution/{paths[asked % len(paths)]}").raise_for_status()
            asked += 1
        return asked

    with ThreadPoolExecutor(8) as clients:
        answered = [clients.submit(ask) for _ in range(8)]
        later: list[int] = []
        while len(beats) < 6:
            [task_id] = served.fleet.add_tasks([TaskSpec("api_test.ok")])
            later.append(task_id)
            wait_until(lambda: served.fleet.tasks.states([later[-1]]) == {later[-1]: "completed"}, what="the pump")
        assert min(each.result(60) for each in answered) > 0
    assert max(beat.delay_seconds for beat in beats) < 0.4
    tasks = [served.fleet.tasks.get(task_id) for task_id in later]
    assert max((task["assigned_at"] - task["created_at"]).total_seconds() for task in tasks if task) < 1


def test_a_client_that_takes_no_response_is_sent_away(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    served = serve()
    served.fleet.add_tasks([TaskSpec("api_test.later", task_data={"n": n}) for n in range(1000)])
    client = slow_client(served, stack, b"")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = b"GET /api/distribution/tasks?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client.sendall(request * 20)  # more than the buffers between us hold
    server = served.server._server
    assert server is not None
    wait_until(lambda: server.server_state.connections, what="the connection")
    wait_until(lambda: not server.server_state.connections, 30, what="the connection is closed")


def test_the_connection_that_is_idle_longest_makes_room(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    served = serve()
    clients = [slow_client(served, stack) for _ in range(7)]
    assert all(is_closed(client) for client in clients[:2])
    assert served.client.get("/healthz").status_code == 200
    assert is_closed(clients[2])
    clients[-1].sendall(b"\r\n\r\n")
    assert clients[-1].recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    "text",
    [b"", HALF_A_REQUEST, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + HALF_A_REQUEST],
    ids=["mute", "1st", "2nd"],
)
def test_a_client_that_asks_nothing_for_long_is_sent_away(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    client = slow_client(serve(), stack, text)
    if text.startswith(b"GET /healthz"):
        assert client.recv(12) == b"HTTP/1.1 200"
        while b"ok" not in client.recv(4096):
            pass
    assert is_closed(client)


def test_an_answer_that_takes_long_is_waited_for(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.1)
    served = serve()
    answers = threading.Event()

    def slow(_db: object) -> dict[str, str]:
        answers.wait(20)
        return {"slow": "answer"}

    monkeypatch.setattr(tasks, "task_stats", slow)
    patient = slow_client(served, stack, b"GET /api/distribution/tasks/stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for _ in range(3):  # each of these lives as long as the others' patience
        assert is_closed(slow_client(served, stack, b""))
    answers.set()
    assert patient.recv(12) == b"HTTP/1.1 200"


def test_rubbish_is_refused_without_a_line_in_the_log(
    serve: Serve, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()
    caplog.clear()
    assert slow_client(served, stack, b"\x16\x03\x01 rubbish\r\n\r\n").recv(12) == b"HTTP/1.1 400"
    upgrade = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert slow_client(served, stack, upgrade).recv(12) == b"HTTP/1.1 200"
    assert not [record for record in caplog.records if not record.name.startswith("crawlfleet.services")]
