"""Where questions to the database wait for a thread, and where answers that cost much are kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Response

from crawlfleet.core.db import Database
from crawlfleet.core.json_text import json_text
from crawlfleet.insights.feeds import ReportsOf
from crawlfleet.planning.tariff import tariff_of, task_defaults
from crawlfleet.services.fleet import Fleet
from crawlfleet.settings.definitions import Settings

T = TypeVar("T")
Question = Callable[[Database], Any]

QUESTIONS_AT_ONCE = 2  # threads at the database; more would only take the CPU from the node's own work
SHARE = 0.05  # of the time, at most, in which one question is asked anew and anew
LONGEST_KEPT = 60.0  # seconds; an older answer is never given
PATIENCE = 0.1  # seconds, after which the former answer is given while a new one is looked for
KEPT_ANSWERS = 100


class QueryRunner:
    """Asks the database in threads, a few at a time."""

    def __init__(self, db: Database, at_once: int = QUESTIONS_AT_ONCE) -> None:
        self._db = db
        self._limiter = CapacityLimiter(at_once)

    async def ask(self, question: Callable[[Database], T]) -> T:
        """The answer of `question(db)`, asked in a thread."""
        return await to_thread.run_sync(question, self._db, limiter=self._limiter)

    async def answer(self, question: Question, status: int = 200) -> Response:
        """The same as a response; its JSON is made in the thread, too."""
        body = await self.ask(lambda db: json_text(question(db)).encode())
        return Response(body, status, media_type="application/json")


@dataclass(frozen=True)
class Kept(Generic[T]):
    """An answer, when it was asked for, and how long that took; on the monotonic clock."""

    value: T
    asked_at: float
    took: float

    @property
    def age_header(self) -> dict[str, str]:
        """How old it is, in seconds, as HTTP tells it."""
        return {"Age": str(int(time.monotonic() - self.asked_at))}


class AnswerCache:
    """Answers to questions that may have to count a big table.

    All who ask the same at once share one look, and each question costs the database at most SHARE of the time: what
    took 5 ms is asked anew after 0.1 s, what took 1 s after 20 s. The header `Age` says how many seconds old an answer
    is.
    """

    def __init__(self, queries: QueryRunner) -> None:
        self._queries = queries
        self._kept: OrderedDict[object, Kept[Any]] = OrderedDict()
        self._looks: dict[object, asyncio.Task[Kept[Any]]] = {}

    async def answer(self, key: object, question: Question) -> Response:
        """The response to the question of this key."""
        kept = await self.ask(key, lambda db: json_text(question(db)).encode())
        return Response(kept.value, media_type="application/json", headers=kept.age_header)

    async def ask(self, key: object, question: Callable[[Database], T]) -> Kept[T]:
        """The answer to the question of this key."""
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() < kept.asked_at + min(kept.took / SHARE, LONGEST_KEPT):
            return kept
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = asyncio.create_task(self._look(key, question))
            look.add_done_callback(lambda done: self._forget(key, done))
        is_usable = kept is not None and time.monotonic() < kept.asked_at + LONGEST_KEPT
        done, _ = await asyncio.wait({look}, timeout=PATIENCE if is_usable else None)
        return kept if kept is not None and not done else look.result()

    def _forget(self, key: object, done: asyncio.Task[Kept[Any]]) -> None:
        del self._looks[key]
        if not done.cancelled():
            done.exception()  # perhaps nobody waited for it; asyncio would complain

    async def _look(self, key: object, question: Question) -> Kept[Any]:
        began = time.monotonic()
        value = await self._queries.ask(question)
        found = self._kept[key] = Kept(value, began, time.monotonic() - began)
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT_ANSWERS:
            self._kept.popitem(last=False)
        return found


class RouteContext:
    """What the routes work with: the node's settings, a queries, and a fleet handle for changes."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self.settings = settings
        self.queries = QueryRunner(db)
        self.cache = AnswerCache(self.queries)
        self._db = db

    @cached_property
    def fleet(self) -> Fleet:
        """The fleet of the API's own pool of connections."""
        return Fleet(self._db, task_defaults(self.settings))

    @cached_property
    def reports_of(self) -> ReportsOf:
        """The reports of each source that this node knows."""
        return tariff_of(self.settings).reports_of
