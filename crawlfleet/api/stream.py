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
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from crawlfleet.api.query_runner import QueryRunner
from crawlfleet.api.refusals import refusal
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseError
from crawlfleet.core.json_text import json_text
from crawlfleet.insights.changes import News, NewsReader

log = logging.getLogger(__name__)

MayListen = Callable[[], Awaitable[bool]]

LOOK_SECONDS = 1.0  # between two looks at the tables, while anybody listens
LINGER_SECONDS = 60.0  # after the last client left: it may come again
REMEMBERED = 2000  # events for those that come again
MAX_CLIENTS = 20
LOOKS_BEHIND = 30  # whose events may wait for one client
COMMENT_SECONDS = 15.0  # without an event, after which a comment keeps proxies from closing the connection


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

    def answer(self, last_event_id: str | None, may_listen: MayListen) -> Response:
        """The response that tells the events from now on, or those after the one of this id, while `may_listen`."""
        return _Answer(self, last_event_id, may_listen)

    def enter(self) -> _Client | None:
        """A place for a client, which has to leave it; None when there is none left."""
        if len(self._clients) >= MAX_CLIENTS:
            return None
        client = _Client()
        self._clients.add(client)
        return client

    def leave(self, client: _Client) -> None:
        """Give its place back."""
        self._clients.discard(client)

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
        return [event for event_number, event in self._recent if event_number > int(number)]

    async def events(
        self, client: _Client, last_event_id: str | None, may_listen: MayListen
    ) -> AsyncGenerator[bytes, None]:
        """What this client is sent."""
        if self._reading is None or self._reading.done():
            self._life, self._number = secrets.token_hex(4), 0
            self._recent.clear()
            self._reading = asyncio.create_task(self._read())
        missed = self._after(last_event_id)
        yield b": crawlfleet\nretry: 2000\n\n"
        for event in missed:
            yield event
        quiet_since = allowed_at = time.monotonic()
        while not client.is_cut and not self._is_ending():
            try:
                events = await asyncio.wait_for(client.queue.get(), LOOK_SECONDS)
            except TimeoutError:
                events = b""
            if time.monotonic() - allowed_at > LOOK_SECONDS:
                if not await may_listen():
                    return
                allowed_at = time.monotonic()
            if not events and time.monotonic() - quiet_since > COMMENT_SECONDS:
                events = b": still here\n\n"
            if events:
                quiet_since = time.monotonic()
                yield events

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

    def _tell(self, changes: Iterable[News]) -> None:
        events = []
        for news in changes:
            self._number += 1
            events.append(_written(news, f"{self._life}-{self._number}"))
            self._recent.append((self._number, events[-1]))
        if events:
            together = b"".join(events)
            for client in self._clients:
                client.offer(together)


class _Answer(Response):
    """Takes its place when it is sent: 60 clients at once would all find one of 20 free when they are only counted."""

    def __init__(self, stream: EventStream, last_event_id: str | None, may_listen: MayListen) -> None:
        super().__init__()
        self._stream = stream
        self._asked = last_event_id, may_listen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._stream.enter()
        if client is None:
            await refusal(503, f"{MAX_CLIENTS} clients listen to the events of this node already: ask another node")(
                scope, receive, send
            )
            return
        events = self._stream.events(client, *self._asked)
        try:
            answer = StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
            await answer(scope, receive, send)
        finally:
            self._stream.leave(client)
            await events.aclose()


def _written(news: News, event_id: str) -> bytes:
    return f"id: {event_id}\nevent: {news.kind}\ndata: {json_text(news.facts)}\n\n".encode()
