"""Many clients at once: the node keeps its descriptors and its heartbeats, and probes find a place."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2
import pytest

from crawlfleet.api import connections, guard
from crawlfleet.api.connections import guard_entrance
from crawlfleet.api.strangers import place_of
from crawlfleet.insights import tasks
from tests.api.conftest import Serve, Served
from tests.api.test_slow_clients import beats_of, is_closed, slow_client, stack
from tests.certificates import make_certificate
from tests.waiting import wait_until

__all__ = ["stack"]  # a fixture

CROWD = 400
BODY_BEGUN = (
    b"POST /api/distribution/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n["
)
STATS = b"GET /api/distribution/tasks/stats HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=["plain", "tls"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def served_with(scheme: str, serve: Serve, tmp_path: Path) -> Served:
    """A node, and a client that trusts it."""
    if scheme == "plain":
        return serve(heartbeat_interval=0.5)
    files = make_certificate(tmp_path / "tls")
    served = serve(heartbeat_interval=0.5, tls_certificate=str(files.certificate), tls_key=str(files.key))
    trusting = ssl.create_default_context(cafile=str(files.authority))
    url = served.server.url.replace("127.0.0.1", "localhost")
    served.client = httpx2.Client(base_url=url, verify=trusting, timeout=20, trust_env=False)
    return served


def probe_seconds(served: Served) -> float:
    """How long /healthz takes on a connection of its own."""
    began = time.monotonic()
    answer = served.client.get("/healthz", headers={"Connection": "close"})
    assert answer.status_code == 200
    return time.monotonic() - began


def test_clients_that_only_connect_take_neither_descriptors_nor_heartbeats_nor_the_log(
    serve: Serve,
    stack: ExitStack,
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Over TLS nobody counted them: they took all descriptors, the device went offline, and the log grew."""
    served = served_with(scheme, serve, tmp_path)
    beats = beats_of(served, monkeypatch)
    caplog.clear()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(CROWD):
        slow_client(served, stack, b"")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) - before < CROWD + connections.MAX_CONNECTIONS + 10)
    assert probe_seconds(served) < 1
    wait_until(lambda: len(beats) >= 3, what="three heartbeats")
    assert max(beat.delay_seconds for beat in beats) < 1
    told = [record for record in caplog.records if record.name.startswith(("crawlfleet.api", "asyncio"))]
    assert [record.exc_info for record in told] == [None]
    assert "connections ended: count=1 limit=100 most_from=127.0.0.1" in told[0].getMessage()


def test_one_byte_of_a_body_keeps_no_place_from_a_probe(serve: Serve, stack: ExitStack) -> None:
    """/healthz had no answer for as long as a hundred such clients liked."""
    served = serve()
    slow = [slow_client(served, stack, BODY_BEGUN) for _ in range(2 * connections.MAX_CONNECTIONS)]
    assert is_closed(slow[0])
    assert probe_seconds(served) < 1


@pytest.mark.parametrize("limit", ["rate", "whole"])
def test_a_body_that_comes_too_slowly_is_not_waited_for(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(connections, "LEAST_RATE", 1024 if limit == "rate" else 1)
    monkeypatch.setattr(connections, "BODY_SECONDS", 60 if limit == "rate" else 0.5)
    client = slow_client(serve(), stack, BODY_BEGUN)
    client.settimeout(0.03)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            client.sendall(b" ")
            if client.recv(1) == b"":
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return
    raise AssertionError("it was still waited for")


def test_the_address_with_most_connections_loses_one(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    served = serve()
    modest = stack.enter_context(closing(socket.create_connection(served.address, source_address=("127.0.0.2", 0))))
    greedy = [slow_client(served, stack, b"") for _ in range(12)]
    assert all(is_closed(client) for client in greedy[:8])
    modest.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert modest.recv(12) == b"HTTP/1.1 200"


def test_of_ipv6_the_network_of_a_customer_counts_as_one_address() -> None:
    assert place_of("2001:db8:1:2:3::4") == place_of("2001:db8:1:2::9%eth0")
    assert place_of("2001:db8:1:2::1") != place_of("2001:db8:1:3::1")
    assert place_of("::ffff:192.0.2.1") == "192.0.2.1" == place_of("192.0.2.1")


def test_requests_that_take_long_leave_room_for_probes(
    serve: Serve, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_AT_WORK", 3)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    served = serve()
    answers = threading.Event()
    monkeypatch.setattr(tasks, "task_stats", lambda _db: answers.wait(20) and {})
    patient = [slow_client(served, stack, STATS) for _ in range(3)]
    wait_until(lambda: slow_client(served, stack, STATS).recv(12) == b"HTTP/1.1 503", what="all are at work")
    assert served.client.get("/api/distribution/tasks").headers["retry-after"] == "1"
    assert probe_seconds(served) < 1
    answers.set()
    assert {client.recv(12) for client in patient} == {b"HTTP/1.1 200"}


def test_troubles_of_the_loop_are_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio wrote a traceback each time when there were no descriptors left."""
    loop = asyncio.new_event_loop()
    with closing(loop), caplog.at_level(logging.ERROR):
        guard_entrance(loop)
        for _ in range(3):
            loop.call_exception_handler(
                {"message": "out of resources", "exception": OSError(24, "Too many open files")}
            )
    [record] = caplog.records
    assert record.getMessage() == "HTTP API: out of resources: [Errno 24] Too many open files: count=1"
    assert not record.exc_info
