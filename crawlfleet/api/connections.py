"""HTTP connections that cannot harm the node: bounded in number, also of one address, and in patience.

uvicorn waits for ever for a request that never ends, and for a client that does not take its response. asyncio lets any
number of clients wait for a TLS handshake. A few thousand of either would use up the file descriptors with which the
node reaches its database. So each connection takes a place as soon as it is accepted. When all are taken, the address
that has the most loses the one that has kept us waiting longest: for its handshake, its request, or its next one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from crawlfleet.api.refusals import refusal, safe_headers
from crawlfleet.api.strangers import place_of
from crawlfleet.core.seldom import Seldom

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 100  # more than the requests that may be at work, so that a probe always finds room
REQUEST_SECONDS = 10.0  # in which a client has to come up with a (next) request, or to take something of its response
ACCEPTED_AT_ONCE = 32  # so many descriptors there may be beyond the limit for a moment
BODY_SECONDS = 60.0  # for a whole request
LEAST_RATE = 1024  # bytes a second, of a body or a response


class BoundedConnection(H11Protocol):
    """One connection. It is ended when it keeps us waiting for long, or is slower than LEAST_RATE."""

    transport: asyncio.Transport

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.asked_at = time.monotonic()  # when the newest request began, or the connection
        self.received_bytes = 0
        self._begun: object = None

    @property
    def waits_for_client(self) -> bool:
        """No request of it is at work: none came yet, it is not complete, or all were answered."""
        return self.cycle is None or self.cycle.more_body or self.cycle.response_complete

    @property
    def body_is_coming(self) -> bool:
        """The body of its request is not complete, and it has no answer yet."""
        return self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Take what came, and note when a request begins."""
        super().data_received(data)
        self.received_bytes += len(data)
        if self.cycle is not self._begun:
            if self._begun is not None:  # for the first one it waits from the beginning
                self.asked_at = time.monotonic()
            self._begun = self.cycle

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as a request is answered as every other error."""
        headers = {"Connection": "close", **safe_headers(self.scheme == "https")}
        answer = refusal(400, "the request cannot be read as HTTP/1.1", headers)
        head = h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Place:
    """A connection from the moment it is accepted until its descriptor is closed."""

    def __init__(self, transport: asyncio.Transport, connection: BoundedConnection) -> None:
        self.transport = transport
        self.address = place_of((transport.get_extra_info("peername") or ("",))[0])
        self._connection = connection
        self._socket = transport.get_extra_info("socket")
        self._seen: object = None  # at the last look: the request, and what was not sent or had come
        self._unsent_bytes = self._received_bytes = 0

    @property
    def is_taken(self) -> bool:
        """Whether there is still a descriptor: a closed transport keeps it until all is sent."""
        return int(self._socket.fileno()) >= 0

    @property
    def waits_since(self) -> float | None:
        """Since when it keeps us waiting; None while we owe it an answer."""
        waits = self._connection.waits_for_client or self.transport.is_closing()
        return self._connection.asked_at if waits else None

    def look(self) -> None:
        """End it when it kept us waiting or was too slow since the last look; else look again later."""
        if not self.is_taken:
            return
        connection, least_bytes = self._connection, LEAST_RATE * REQUEST_SECONDS
        unsent_bytes = self.transport.get_write_buffer_size()
        if connection.cycle is self._seen:
            is_late = connection.waits_for_client
            if unsent_bytes:
                is_late = 0 < self._unsent_bytes < unsent_bytes + least_bytes
            elif connection.body_is_coming:
                came_bytes = connection.received_bytes - self._received_bytes
                is_late = came_bytes < least_bytes or time.monotonic() - connection.asked_at > BODY_SECONDS
            if is_late:
                self.transport.abort()
                return
        self._seen, self._unsent_bytes = connection.cycle, unsent_bytes
        self._received_bytes = connection.received_bytes
        asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.look)


class Places:
    """All places, and who loses one when there are none left."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._crowded = Seldom()

    def take(self, place: Place) -> None:
        """Give the place to a new connection."""
        self._places = [each for each in self._places if each.is_taken]
        self._places.append(place)
        asyncio.get_running_loop().call_later(REQUEST_SECONDS, place.look)
        if len(self._places) <= MAX_CONNECTIONS:
            return
        counts = Counter(held.address for held in self._places)
        waiting = [(-counts[each.address], since, each) for each in self._places if (since := each.waits_since)]
        _, _, loser = min(waiting, key=lambda candidate: candidate[:2], default=(0, 0, place))
        self._places.remove(loser)  # at once: the next one must not choose it again
        loser.transport.abort()
        if count := self._crowded.count():
            log.warning(
                "connections ended: count=%d limit=%d most_from=%s: clients wait for nothing, or there are too many",
                count,
                MAX_CONNECTIONS,
                counts.most_common(1)[0][0],
            )


class Entrance(asyncio.Protocol):
    """What a connection meets first: it takes a place, and only then begins TLS or HTTP."""

    def __init__(self, places: Places, make: Callable[[], BoundedConnection], context: ssl.SSLContext | None) -> None:
        self._places = places
        self._connection = make()
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection on."""
        assert isinstance(transport, asyncio.Transport)
        self._places.take(Place(transport, self._connection))
        if transport.is_closing():
            return
        protocol: asyncio.BaseProtocol = self._connection
        if self._context is not None:
            options: Any = {"waiter": None, "server_side": True, "ssl_handshake_timeout": REQUEST_SECONDS}
            protocol = SSLProtocol(asyncio.get_running_loop(), self._connection, self._context, **options)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def guard_entrance(loop: asyncio.AbstractEventLoop) -> None:
    """Let every server that this loop makes have an entrance, and let its troubles be told seldom."""
    anything: Any = loop
    create_server, places, troubles = anything.create_server, Places(), Seldom()

    async def create(
        connection: Callable[[], BoundedConnection], sock: socket.socket, backlog: int, ssl: ssl.SSLContext | None
    ) -> Any:
        entrance = partial(Entrance, places, connection, ssl)
        server = await create_server(entrance, sock=sock, backlog=ACCEPTED_AT_ONCE)
        sock.listen(backlog)  # asyncio takes one number for how many may queue and for how many it accepts at once
        return server

    def tell(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if count := troubles.count():
            error = context.get("exception")
            is_own = error is not None and not isinstance(error, OSError)
            log.error(
                "HTTP API: %s: %s: count=%d", context["message"], error, count, exc_info=error if is_own else None
            )

    anything.create_server = create
    loop.set_exception_handler(tell)
