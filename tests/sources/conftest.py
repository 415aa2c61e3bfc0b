"""A server that answers with exactly the bytes a test gives it, over a real socket."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

from crawlfleet.sources.contract import Account

TOKEN = "eyJhbGciOi.SECRET-token_0123456789.abcdef"


class RawServer:
    """`answer` maps a request (its head as text) to raw bytes; the connection is then closed.

    With `stall` set, the connection stays open and silent after these bytes until the server stops. With `tls` it is
    `https://localhost`.
    """

    def __init__(self, answer: Callable[[str], bytes], stall: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self.answer, self.stall, self.tls = answer, stall, tls
        self.requests: list[str] = []
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self.tls is not None:
            try:
                connection = self.tls.wrap_socket(connection, server_side=True)
            except OSError:
                return  # the client does not trust us
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            request = head.decode("latin-1")
            self.requests.append(request)
            try:
                connection.sendall(self.answer(request))
            except OSError:
                return  # the client has read enough
            if self.stall:
                self._stopped.wait(10)

    def stop(self) -> None:
        self._stopped.set()
        self._listener.close()


def reply(body: bytes, status: str = "200 OK", headers: str = "", content_type: str = "text/csv") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}"
    return head.encode("latin-1") + b"Connection: close\r\n\r\n" + body


class Context:
    """A task context that counts its checks and calls, and may be cancelled at a check or before a call."""

    class Cancelled(Exception):
        pass

    def __init__(self, cancel_at: int | None = None, most_calls: int | None = None) -> None:
        self.checks, self.cancel_at = 0, cancel_at
        self.calls, self.answers, self.most_calls = 0, 0, most_calls
        self.remarks: list[tuple[str, str]] = []

    def check(self) -> None:
        self.checks += 1
        if self.cancel_at is not None and self.checks >= self.cancel_at:
            raise self.Cancelled

    def before_call(self) -> None:
        if self.calls == self.most_calls:
            raise self.Cancelled
        self.calls += 1

    def after_answer(self) -> None:
        self.answers += 1

    def remark(self, name: str, text: str) -> None:
        self.remarks.append((name, text))


@pytest.fixture
def raw_server() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(
        answer: bytes | Callable[[str], bytes], stall: bool = False, tls: ssl.SSLContext | None = None
    ) -> RawServer:
        servers.append(RawServer(answer if callable(answer) else lambda _: answer, stall, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    return Account("appsflyer", "someone", token_env="TEST_TOKEN")


@pytest.fixture
def context() -> Context:
    return Context()


@pytest.fixture
def make_context() -> type[Context]:
    return Context


@pytest.fixture
def make_reply() -> Callable[..., bytes]:
    return reply


@pytest.fixture
def token() -> str:
    return TOKEN
