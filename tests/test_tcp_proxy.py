"""The proxy that plays a far or broken network, against plain sockets and against real databases."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pymysql
import pytest

from tests.conftest import Backend
from tests.ports import free_port
from tests.servers import FLAVOURS, SharedServer
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

servers_only = pytest.mark.parametrize("backend", FLAVOURS, indirect=True)


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while received := self.request.recv(65536):
                self.server.received += received  # type: ignore[attr-defined]
                self.request.sendall(received)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    received = b""

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def exchange(line: socket.socket, request: bytes) -> bytes:
    line.sendall(request)
    answer = b""
    while len(answer) < len(request):
        received = line.recv(65536)
        assert received, "the connection ended"
        answer += received
    return answer


def test_bytes_pass_unchanged_in_both_directions(proxy: TcpProxy) -> None:
    message = bytes(range(256)) * 20_000
    with connect(proxy) as line:
        sender = threading.Thread(target=line.sendall, args=(message,))
        sender.start()
        answer = b""
        while len(answer) < len(message):
            answer += line.recv(65536)
        sender.join()
    assert answer == message


def test_orderly_end_is_passed_on(proxy: TcpProxy) -> None:
    with connect(proxy) as line:
        assert exchange(line, b"hello") == b"hello"
        line.shutdown(socket.SHUT_WR)
        assert line.recv(1) == b""
    wait_until(lambda: proxy.connections == 0, what="the end of the connection")


def test_delay_is_a_round_trip_for_each_exchange(proxy: TcpProxy) -> None:
    with connect(proxy) as line:
        exchange(line, b"hello")
        proxy.delay_seconds = 0.05
        began = time.monotonic()
        for _ in range(3):
            exchange(line, b"hello")
        assert 0.3 <= time.monotonic() - began < 2


def test_requests_that_wait_for_their_answer_are_counted(proxy: TcpProxy) -> None:
    with connect(proxy) as line:
        for _ in range(3):
            exchange(line, b"x")
        assert proxy.round_trips == 3


def test_delay_does_not_limit_how_much_is_on_the_way(proxy: TcpProxy) -> None:
    proxy.delay_seconds = 0.1
    with connect(proxy) as line:
        exchange(line, b"hello")
        began = time.monotonic()
        for n in range(100):
            line.sendall(b"%02d" % n)
        answer = b""
        while len(answer) < 200:
            answer += line.recv(65536)
        assert 0.2 <= time.monotonic() - began < 3
    assert answer == b"".join(b"%02d" % n for n in range(100))


def test_connecting_from_afar_costs_a_round_trip_more(proxy: TcpProxy) -> None:
    proxy.delay_seconds = 0.05
    began = time.monotonic()
    with connect(proxy) as line:
        exchange(line, b"hello")
    assert time.monotonic() - began >= 0.2


def test_cut_resets_open_connections_and_takes_new_ones(proxy: TcpProxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        for line in (one, two):
            exchange(line, b"hello")
        proxy.cut()
        assert proxy.connections == 0
        for line in (one, two):
            with pytest.raises(ConnectionResetError):
                line.recv(1)
    with connect(proxy) as line:
        assert exchange(line, b"again") == b"again"


def test_refused_connections_are_taken_again_after_accept(proxy: TcpProxy) -> None:
    with connect(proxy) as line:
        exchange(line, b"hello")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert exchange(line, b"still open") == b"still open"
    proxy.accept()
    with connect(proxy) as line:
        assert exchange(line, b"again") == b"again"


def test_blackhole_is_silent_and_delivers_late(proxy: TcpProxy, echo: EchoServer) -> None:
    with connect(proxy) as line:
        exchange(line, b"hello")
        proxy.blackhole()
        line.sendall(b" late")
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            line.recv(1)
        with connect(proxy) as other:
            other.sendall(b"!")
        assert echo.received == b"hello"
        line.settimeout(10)
        proxy.accept()
        assert line.recv(5) == b" late"


def test_bytes_in_a_blackhole_are_lost_with_a_cut(proxy: TcpProxy, echo: EchoServer) -> None:
    with connect(proxy) as line:
        exchange(line, b"hello")
        proxy.blackhole()
        line.sendall(b" lost")
        proxy.cut()
        proxy.accept()
        with pytest.raises(ConnectionResetError):
            line.recv(1)
    with connect(proxy) as line:
        exchange(line, b" again")
    assert echo.received == b"hello again"


def test_request_is_answered_before_the_cut_and_the_answer_is_lost(proxy: TcpProxy, echo: EchoServer) -> None:
    cut = proxy.cut_after_request(b"COMMIT", nth=2)
    with connect(proxy) as line, connect(proxy) as bystander:
        for request in (b"one", b"COMMIT 1", b"two"):
            assert exchange(line, request) == request
        exchange(bystander, b"")
        line.sendall(b"COMMIT 2")
        with pytest.raises(ConnectionResetError):
            line.recv(1)
        assert cut.happened.wait(5)
        assert echo.received == b"oneCOMMIT 1twoCOMMIT 2"
        assert exchange(bystander, b"COMMIT 3") == b"COMMIT 3"


def test_request_can_be_held_back_from_the_server(proxy: TcpProxy, echo: EchoServer) -> None:
    cut = proxy.cut_after_request(b"COMMIT", deliver=False)
    with connect(proxy) as line:
        exchange(line, b"one")
        line.sendall(b"COMMIT")
        with pytest.raises(ConnectionResetError):
            line.recv(1)
    assert cut.happened.wait(5)
    assert echo.received == b"one"


def test_pattern_spread_over_two_chunks_is_found_once(proxy: TcpProxy) -> None:
    cut = proxy.cut_after_request(b"COMMIT", nth=2)
    with connect(proxy) as line:
        for part in (b"COM", b"MIT", b" ", b"x"):
            exchange(line, part)
        assert not cut.happened.is_set()
        exchange(line, b"COMM")
        line.sendall(b"IT")
        with pytest.raises(ConnectionResetError):
            line.recv(1)


def test_client_is_reset_when_nobody_listens_behind_the_proxy() -> None:
    with (
        TcpProxy("127.0.0.1", free_port()) as proxy,
        pytest.raises(ConnectionResetError),
        connect(proxy) as line,  # the reset may come before the connect has returned
    ):
        line.recv(1)


def test_close_twice_is_fine(echo: EchoServer) -> None:
    proxy = TcpProxy("127.0.0.1", echo.port)
    proxy.close()
    proxy.close()


@servers_only
@pytest.mark.parametrize("deliver", [True, False])
def test_cut_at_commit_leaves_the_client_in_doubt(backend: Backend, deliver: bool) -> None:
    assert backend.server is not None
    database = backend.url.rpartition("/")[2]
    execute(backend.server, database, "CREATE TABLE t (n INTEGER)")
    with TcpProxy("127.0.0.1", backend.server.port) as proxy:
        far = SharedServer(backend.server.flavour, proxy.port)
        connection = far.connect(database)
        execute_on(connection, "BEGIN")
        execute_on(connection, "INSERT INTO t VALUES (1)")
        cut = proxy.cut_after_request(b"COMMIT", deliver=deliver)
        with pytest.raises((pymysql.OperationalError, psycopg.OperationalError)):
            connection.commit()
        assert cut.happened.wait(5)
    wait_until(
        lambda: len(execute(backend.server, database, "SELECT n FROM t")) == int(deliver), what="the row to be decided"
    )


@servers_only
def test_database_works_through_a_far_network(backend: Backend) -> None:
    assert backend.server is not None
    with TcpProxy("127.0.0.1", backend.server.port, delay_seconds=0.02) as proxy:
        assert backend.url_at(proxy.port).endswith(f":{proxy.port}/{backend.url.rpartition('/')[2]}")
        far = SharedServer(backend.server.flavour, proxy.port)
        with contextlib.closing(far.connect()) as connection:
            began = time.monotonic()
            assert execute_on(connection, "SELECT 1") == [(1,)]
            assert time.monotonic() - began >= 0.04


def execute(server: SharedServer | None, database: str, statement: str) -> list[Any]:
    assert server is not None
    with contextlib.closing(server.connect(database)) as connection:
        return execute_on(connection, statement)


def execute_on(connection: Any, statement: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def test_a_connection_is_cut_in_the_middle_of_a_message(proxy: TcpProxy, echo: EchoServer) -> None:
    with connect(proxy) as line:
        assert exchange(line, b"x" * 100) == b"x" * 100
        proxy.cut_after_bytes(30)
        line.sendall(b"y" * 100)
        with pytest.raises(ConnectionResetError):
            line.recv(100)
        wait_until(lambda: echo.received == b"x" * 100 + b"y" * 30, what="what was sent before the cut")
    with connect(proxy) as line:
        assert exchange(line, b"z") == b"z"
