"""Loopback ports for servers that tests start, stop and start again."""

from __future__ import annotations

import random
import socket

# Below the range that systems hand to outgoing connections: a port of that range can be taken by a client while its
# server is down, and a client that retries such a port can even reach itself.
FIRST_PORT, LAST_PORT = 20_000, 32_000


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now; another process may still be faster."""
    while True:
        port = random.randint(FIRST_PORT, LAST_PORT)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
