"""Small real proxies on loopback, and what they saw: one that opens CONNECT tunnels (or passes plain requests on),
one that speaks SOCKS5.

    with ConnectProxy(user="user", password="pass-word") as proxy:
        proxy.address("user:${VARIABLE}")        # http://user:${VARIABLE}@127.0.0.1:40123
"""

from __future__ import annotations

import socket
import threading
from base64 import b64encode
from urllib.parse import urlsplit


class LoopbackProxy:
    """The common part: listening and piping. With `stall` it says nothing."""

    scheme = ""

    def __init__(self, user: str = "", password: str = "") -> None:
        self.user, self.password = user, password
        self.stall = False
        self.targets: list[str] = []  # host:port of each tunnel or request
        self.heads: list[bytes] = []  # what clients sent to the proxy itself
        self._stopped = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> LoopbackProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def address(self, credentials: str = "") -> str:
        return f"{self.scheme}://{credentials}{'@' if credentials else ''}127.0.0.1:{self.port}"

    def close(self) -> None:
        """Be gone, also for those who hold connections: the next one is refused."""
        self._stopped.set()
        for each in (self._listener, *self._sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)  # closing alone would wake no thread that reads
            except OSError:
                pass
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            threading.Thread(target=self._guarded, args=(client,), daemon=True).start()

    def _guarded(self, client: socket.socket) -> None:
        try:
            if self.stall:
                self._stopped.wait(30)
            else:
                self.serve(client)
        except OSError:
            pass
        finally:
            client.close()

    def serve(self, client: socket.socket) -> None:
        raise NotImplementedError

    def connect(self, host: str, port: int) -> socket.socket:
        self.targets.append(f"{host}:{port}")
        server = socket.create_connection((host, port), timeout=10)
        server.settimeout(None)
        self._sockets.append(server)
        return server

    @staticmethod
    def pipe(client: socket.socket, server: socket.socket) -> None:
        def copy(source: socket.socket, sink: socket.socket) -> None:
            try:
                while piece := source.recv(65536):
                    sink.sendall(piece)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        back = threading.Thread(target=copy, args=(server, client), daemon=True)
        back.start()
        copy(client, server)
        back.join(10)
        server.close()


class ConnectProxy(LoopbackProxy):
    """An HTTP proxy. `refuse_with` is the status line of its own answer to everything."""

    scheme = "http"
    refuse_with: str | None = None

    def serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(65536)
            if not received:
                return
            head += received
        self.heads.append(head)
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        expected = b64encode(f"{self.user}:{self.password}".encode())
        if self.user and b"basic " + expected.lower() not in head.lower():
            answer = "407 Proxy Authentication Required"
        else:
            answer = self.refuse_with or ""
        if answer:
            body = head  # as some proxies do, what was sent is shown again
            client.sendall(f"HTTP/1.1 {answer}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            server = self.connect(host, int(port))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            parts = urlsplit(target)
            server = self.connect(parts.hostname or "", parts.port or 80)
            server.sendall(head.replace(target.encode(), target.partition(parts.netloc)[2].encode() or b"/", 1))
        self.pipe(client, server)


class SocksProxy(LoopbackProxy):
    """A SOCKS5 proxy (RFC 1928, RFC 1929). `refuse_with` is its reply code to every request."""

    scheme = "socks5"
    refuse_with = 0
    garbage = b""  # said instead of the first reply

    def serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        _, count = stream.read(2)
        methods = stream.read(count)
        if self.garbage:
            client.sendall(self.garbage)
            return
        wanted = 2 if self.user else 0
        if wanted not in methods:
            client.sendall(b"\x05\xff")
            return
        client.sendall(bytes([5, wanted]))
        if self.user:
            stream.read(1)
            user = stream.read(stream.read(1)[0])
            password = stream.read(stream.read(1)[0])
            self.heads.append(user + b":" + password)
            is_right = (user.decode(), password.decode()) == (self.user, self.password)
            client.sendall(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                return
        _, _, _, kind = stream.read(4)
        if kind == 3:
            host = stream.read(stream.read(1)[0]).decode()
        else:
            host = socket.inet_ntop(
                socket.AF_INET if kind == 1 else socket.AF_INET6, stream.read(4 if kind == 1 else 16)
            )
        port = int.from_bytes(stream.read(2), "big")
        if self.refuse_with:
            client.sendall(bytes([5, self.refuse_with, 0, 1, 0, 0, 0, 0, 0, 0]))
            return
        server = self.connect(host, port)
        client.sendall(b"\x05\x00\x00\x01" + bytes(6))
        self.pipe(client, server)
