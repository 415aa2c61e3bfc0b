"""Serves a node's API from a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from crawlfleet.api.listener import BACKLOG, tls_context, url_of
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseError
from crawlfleet.model.api_token import ApiTokenDAO
from crawlfleet.services.node import Node

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger(__name__)

GRACE_SECONDS = 2  # that requests get when the server stops
STOP_SECONDS = 5.0
SWITCH_SECONDS = 0.001  # between threads: a beat changes threads fifty times, and readers take all they get
START_SECONDS = 30.0


class ApiServer:
    """The server of one node. `start` returns at once, since its imports take a second; see `wait_until_serving`."""

    def __init__(self, node: Node, listener: socket.socket) -> None:
        self._is_tls = node.settings.tls_certificate is not None
        self.url = url_of(listener, "https" if self._is_tls else "http")
        self._node = node
        self._listener = listener
        self._lock = threading.Lock()
        self._stopping = False
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving = asyncio.Event()
        self._settled = threading.Event()  # it serves, or it never will
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)

    @property
    def serving(self) -> bool:
        """True while requests are answered."""
        return self._server is not None and self._server.started and self._thread.is_alive()

    def start(self) -> None:
        """Begin to import and then to serve."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.start()

    def wait_until_serving(self) -> bool:
        """Wait for it; False when it does not come up, or when the node ends before."""
        deadline = time.monotonic() + START_SECONDS
        while not self._settled.wait(0.05) and not self._node.ending and time.monotonic() < deadline:
            pass
        return self.serving

    def stop(self) -> None:
        """Answer what is being answered, then close everything; a request that hangs is left behind."""
        with self._lock:
            self._stopping = True
            if self._server is not None:
                self._server.should_exit = True
                if self._loop is not None:
                    with suppress(RuntimeError):  # it has ended by itself
                        self._loop.call_soon_threadsafe(self._leaving.set)
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)
        self._listener.close()

    def _run(self) -> None:
        db = Database(self._node.settings.database_url, pool_size=2)
        try:
            if self._node.settings.api_token is not None:
                _demand_tokens(db)
            server = self._make_server(db)
            if server is not None:
                server.run([self._listener])
        except Exception:  # a broken installation, most likely: the node works without
            log.exception("HTTP API is off: it failed")
        finally:
            self._settled.set()
            self._listener.close()
            db.close()

    def _make_server(self, db: Database) -> uvicorn.Server | None:
        """The server, with everything imported; None when the node stopped meanwhile."""
        import uvicorn

        from crawlfleet.api.app import make_app
        from crawlfleet.api.connections import BoundedConnection, guard_entrance

        here, settled, settings, is_tls = self, self._settled, self._node.settings, self._is_tls

        class Server(uvicorn.Server):
            async def main_loop(self) -> None:
                """uvicorn's own looks ten times a second whether to end: a third of what an idle node takes."""
                here._loop = asyncio.get_running_loop()
                while not await self.on_tick(0):  # as if a second had passed: brings the Date header up to date
                    with suppress(TimeoutError):
                        await asyncio.wait_for(here._leaving.wait(), 1)

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                guard_entrance(asyncio.get_running_loop())
                await super().startup(sockets)
                settled.set()

        config = uvicorn.Config(
            make_app(self._node, db),
            ssl_context_factory=(lambda *_: tls_context(settings)) if is_tls else None,
            loop="asyncio",
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # clients must not be able to fill the log; the application reports its own failures
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        with self._lock:
            if not self._stopping:
                self._server = Server(config)
            return self._server


def _demand_tokens(db: Database) -> None:
    """A fleet that has the setting's token does not open again when a later start lacks it."""
    try:
        ApiTokenDAO(db).demand()
    except (DatabaseError, SQLAlchemyError) as error:  # the next start tries again; this node demands it anyway
        log.warning("the database does not know yet that tokens are demanded: %s", error)
