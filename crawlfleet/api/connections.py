"""HTTP connections that cannot harm the node: bounded in number and in patience.

uvicorn waits for ever for a request that never ends, and for a client that does not take its response. A few thousand
such clients would use up the file descriptors with which the node reaches its database.
"""

from __future__ import annotations

import asyncio
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 100
REQUEST_SECONDS = 10.0  # in which a client has to come up with a (next) request, or to take something of its response


class BoundedConnection(H11Protocol):
    """One connection. Of too many, the one that has been idle longest has to go."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types it
        super().connection_made(transport)
        self._quiet_since = time.monotonic()
        self._seen: object = None
        self._unsent_bytes = 0
        if len(self.connections) > MAX_CONNECTIONS:
            idle = [each for each in self.connections if isinstance(each, BoundedConnection) and each.idle]
            min(idle, key=lambda each: each._quiet_since, default=self)._end()
        self.loop.call_later(REQUEST_SECONDS, self._look)

    @property
    def idle(self) -> bool:
        """No request waits for its response: none came yet, it is not complete, or all were answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        unsent_bytes = self.transport.get_write_buffer_size()
        is_stuck = 0 < self._unsent_bytes <= unsent_bytes
        if is_stuck or (self.idle and self._seen is self.cycle):
            self._end()
            return
        self._unsent_bytes = unsent_bytes
        if self._seen is not self.cycle:
            self._seen, self._quiet_since = self.cycle, time.monotonic()
        self.loop.call_later(REQUEST_SECONDS, self._look)

    def _end(self) -> None:
        self.connections.discard(self)  # at once: the next one must not choose it again
        self.transport.abort()
