"""Server-sent events: one reader of the tables for all clients of this node, and no client that others wait for.

A client that takes its events too slowly is cut off and may come again with `Last-Event-ID`; what it missed is sent
as long as the node remembers it, else it is told (`missed`) to read the lists anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

from crawlfleet.api.query_runner import QueryRunner
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseError
from crawlfleet.core.json_text import json_text
from crawlfleet.insights.changes import News, NewsReader

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the tables, while anybody listens
LINGER_SECONDS = 60.0  # after the last client left: it may come again
REMEMBERED = 2000  # events for those that come again
MAX_CLIENTS = 20
LOOKS_BEHIND = 30  # whose events may wait for one client
COMMENT_SECONDS = 15.0  # without an event, after which a comment keeps proxies from closing the connection


class TooManyClients(Exception):
    """MAX_CLIENTS listen already."""


class _Client:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(LOOKS_BEHIND)
        self.is_cut = False

    def offer(self, events: bytes) -> None:
        try:
            self.queue.put_nowait(events)
        except asyncio.QueueFull:
            self.is_cut = True


class EventStream:
    """The events of the fleet. All methods run in the event loop of the API."""

    def __init__(self, db: Database, is_ending: Callable[[], bool]) -> None:
        self._queries = QueryRunner(db, at_once=1)  # of its own: it must not take a thread from questions
        self._is_ending = is_ending
        self._clients: set[_Client] = set()
        self._life = ""  # of the reader: ids of another one mean nothing here
        self._number = 0
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
        self._reading: asyncio.Task[None] | None = None

    def events(self, last_event_id: str | None) -> AsyncIterator[bytes]:
        """The events from now on, or those after the one of this id; raises TooManyClients."""
        if len(self._clients) >= MAX_CLIENTS:
            raise TooManyClients
        return self._send(_Client(), last_event_id)

    def _after(self, last_event_id: str | None) -> list[bytes]:
        """What a client has missed since the event of this id."""
        if last_event_id is None:
            return []
        life, _, number = last_event_id.partition("-")
        is_known = life == self._life and number.isdecimal() and len(number) < 20 and int(number) <= self._number
        oldest = self._recent[0][0] if self._recent else self._number + 1
        if not is_known or int(number) < oldest - 1:
            news = News("missed", {"why": "this node does not remember what came after: read the lists anew"})
            return [_written(news, f"{self._life}-{self._number}")]
        return [event for each, event in self._recent if each > int(number)]

    async def _send(self, client: _Client, last_event_id: str | None) -> AsyncIterator[bytes]:
        self._clients.add(client)
        if self._reading is None or self._reading.done():
            self._life, self._number = secrets.token_hex(4), 0
            self._recent.clear()
            self._reading = asyncio.create_task(self._read())
        missed = self._after(last_event_id)
        try:
            yield b": crawlfleet\nretry: 2000\n\n"
            for event in missed:
                yield event
            quiet_since = time.monotonic()
            while not client.is_cut and not self._is_ending():
                try:
                    events = await asyncio.wait_for(client.queue.get(), LOOK_SECONDS)
                except TimeoutError:
                    if time.monotonic() - quiet_since < COMMENT_SECONDS:
                        continue
                    events = b": still here\n\n"
                quiet_since = time.monotonic()
                yield events
        finally:
            self._clients.discard(client)

    async def _read(self) -> None:
        reader, wanted_at = NewsReader(), time.monotonic()
        is_failing = False
        while not self._is_ending() and (self._clients or time.monotonic() - wanted_at < LINGER_SECONDS):
            began = time.monotonic()
            if self._clients:
                wanted_at = began
            try:
                self._tell(await self._queries.ask(reader.look))
                is_failing = False
            except DatabaseError:
                pass  # the heartbeat and the scheduler tell; what happened meanwhile is found when it is back
            except Exception:
                if not is_failing:
                    log.exception("events cannot be read and will be tried again")
                is_failing = True
            self._clients = {client for client in self._clients if not client.is_cut}
            await asyncio.sleep(max(LOOK_SECONDS, time.monotonic() - began))

    def _tell(self, found: Iterable[News]) -> None:
        events = []
        for news in found:
            self._number += 1
            events.append(_written(news, f"{self._life}-{self._number}"))
            self._recent.append((self._number, events[-1]))
        if events:
            together = b"".join(events)
            for client in self._clients:
                client.offer(together)


def _written(news: News, event_id: str) -> bytes:
    return f"id: {event_id}\nevent: {news.kind}\ndata: {json_text(news.facts)}\n\n".encode()
