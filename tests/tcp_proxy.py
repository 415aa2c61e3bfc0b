"""A loopback proxy that plays a far or broken network between a client and its database.

    with TcpProxy("127.0.0.1", server.port) as proxy:
        url = backend.url_at(proxy.port)
        proxy.delay_seconds = 0.05                          # a round trip of 100 ms
        cut = proxy.cut_after_request(b"COMMIT")            # executed, but the client never hears of it

It knows bytes, not protocols. All methods may be called from any thread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.ports import free_port

CHUNK_BYTES = 256 * 1024
LONGEST_PATTERN_BYTES = 4096
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger


@dataclass
class Cut:
    """A cut that is to come. `happened` is set once the connection has been reset."""

    pattern: bytes
    nth: int
    deliver: bool
    happened: threading.Event = field(default_factory=threading.Event)
    seen: int = 0


class TcpProxy:
    """Listens on `port` from the start; `close()` or the end of the with block resets what is still open."""

    def __init__(self, target_host: str, target_port: int, delay_seconds: float = 0.0, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = free_port()
        self.delay_seconds = delay_seconds  # one way; may be changed at any time, holds for bytes that arrive later
        self.round_trips = 0  # requests of all clients so far; what is sent before an answer came counts once
        self._target = (target_host, target_port)
        self._links: set[_Link] = set()
        self._cuts: list[Cut] = []
        self._bytes_left: int | None = None  # until a connection is cut, wherever in a message that is
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._passable = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"tcp-proxy-{self.port}", daemon=True)
        self._thread.start()
        self.accept()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def accept(self) -> None:
        """Take connections and let bytes pass; ends `refuse` and `blackhole`."""
        self._run(self._accept())

    def refuse(self) -> None:
        """Refuse new connections, as if nobody listened. Those that are open stay open."""
        self._run(self._refuse())

    def blackhole(self) -> None:
        """Let nothing pass in either direction, without an error to anybody.

        New connections are taken but get no answer. As in a real network the bytes are late, not lost: `accept()`
        delivers them, unless the connection was cut before.
        """
        self._run(self._blackhole())

    def cut(self) -> None:
        """Reset all open connections, on both sides. New ones are taken as before."""
        self._run(self._cut())

    def cut_after_request(self, pattern: bytes, nth: int = 1, deliver: bool = True) -> Cut:
        """Reset one connection when a client sends the `nth` request from now that contains `pattern`.

        With `deliver` the server gets the request and answers it, but the answer is not passed on. Without, the server
        never sees the request. It is the first answer after the request that counts, so a client must not send further
        requests before it has the answers to earlier ones (pipelining).
        """
        assert 0 < len(pattern) <= LONGEST_PATTERN_BYTES
        cut = Cut(pattern, nth, deliver)
        self._run(self._add(cut))
        return cut

    def cut_after_bytes(self, count: int) -> None:
        """Reset the connection that carries the byte after the next `count`, counted over all, right before it."""
        self._run(self._count_down(count))

    def close(self) -> None:
        """Reset all connections and stop listening. Fine when closed already."""
        if not self._thread.is_alive():
            return
        self._run(self._refuse())
        self._run(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _accept(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, self.host, self.port, limit=CHUNK_BYTES)
        self._passable.set()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _blackhole(self) -> None:
        self._passable.clear()

    async def _cut(self) -> None:
        links = list(self._links)
        for link in links:
            link.reset()
        await asyncio.gather(*(link.ended.wait() for link in links))

    async def _add(self, cut: Cut) -> None:
        self._cuts.append(cut)

    async def _count_down(self, count: int) -> None:
        self._bytes_left = count

    def before_cut(self, chunk: bytes) -> bytes:
        """What of it passes; less than all of it when the connection is to be cut there."""
        if self._bytes_left is None:
            return chunk
        passes = chunk[: self._bytes_left]
        self._bytes_left = None if len(passes) < len(chunk) else self._bytes_left - len(chunk)
        return passes

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run()
        except asyncio.CancelledError:  # by `reset`; asyncio would log it
            pass
        finally:
            self._links.discard(link)
            link.ended.set()

    async def connect_to_target(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server, once the packets of a handshake from afar would have crossed three times."""
        await asyncio.sleep(3 * self.delay_seconds)
        await self._passable.wait()
        return await asyncio.open_connection(*self._target, limit=CHUNK_BYTES)

    async def arrival(self, arrives_at: float) -> None:
        """Wait for the moment when bytes arrive on the other side."""
        await asyncio.sleep(arrives_at - self._loop.time())
        await self._passable.wait()

    def cut_due(self, earlier: bytes, request: bytes) -> Cut | None:
        """The cut that `request` brings about, taken off the list. `earlier` are the bytes sent just before."""
        for cut in self._cuts:
            # a pattern may be spread over two chunks, but one that ended in the earlier chunk was counted then
            overlap = earlier[-(len(cut.pattern) - 1) :] if len(cut.pattern) > 1 else b""
            cut.seen += (overlap + request).count(cut.pattern)
            if cut.seen >= cut.nth:
                self._cuts.remove(cut)
                return cut
        return None


class _Link:
    """One client's connection and the one to the server that goes with it."""

    def __init__(self, proxy: TcpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self._proxy = proxy
        self._client = (reader, writer)
        self._writers = [writer]
        self._answer_cut: Cut | None = None  # the next bytes from the server are not passed on
        self._asking = False  # a request is on its way, and no answer has come yet
        self._task = asyncio.current_task()

    def reset(self) -> None:
        """End both connections with a reset, so that both sides see an error and not an orderly end."""
        assert self._task is not None
        self._task.cancel()

    async def run(self) -> None:
        try:
            server = await self._proxy.connect_to_target()
            self._writers.append(server[1])
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._carry(self._client[0], server[1], is_request=True))
                directions.create_task(self._carry(server[0], self._client[1], is_request=False))
        except* OSError:  # one side reset its connection: pass that on
            pass
        finally:
            for writer in self._writers:
                connection = writer.get_extra_info("socket")
                if connection is not None and connection.fileno() >= 0:  # it may be closed already
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                writer.transport.abort()
            if self._answer_cut is not None:
                self._answer_cut.happened.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_request: bool) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._deliver(on_the_way, writer, is_request))
            while chunk := await reader.read(CHUNK_BYTES):
                if not is_request and self._answer_cut is not None:
                    self.reset()
                    return
                if is_request and not self._asking:
                    self._proxy.round_trips += 1
                self._asking = is_request
                on_the_way.put_nowait((asyncio.get_running_loop().time() + self._proxy.delay_seconds, chunk))
            on_the_way.put_nowait((asyncio.get_running_loop().time() + self._proxy.delay_seconds, b""))

    async def _deliver(
        self, on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, is_request: bool
    ) -> None:
        earlier = b""
        while True:
            arrives_at, chunk = await on_the_way.get()
            await self._proxy.arrival(arrives_at)
            if not chunk:
                writer.write_eof()
                return
            if is_request and (cut := self._proxy.cut_due(earlier, chunk)) is not None:
                self._answer_cut = cut
                if not cut.deliver:
                    self.reset()
                    return
            earlier = (earlier + chunk)[-LONGEST_PATTERN_BYTES:]
            passes = self._proxy.before_cut(chunk)
            writer.write(passes)
            await writer.drain()
            if len(passes) < len(chunk):
                self.reset()
                return
