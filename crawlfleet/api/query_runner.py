"""The API asks the database in threads, and keeps answers that took long for a while."""

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
SHARE = 0.05  # of the time, at most, that the database spends on one question which is asked again and again
LONGEST_KEPT = 60.0  # seconds; an older answer is never given
PATIENCE = 0.1  # seconds, after which a caller gets the former answer while the database still looks
KEPT_ANSWERS = 100  # the ones asked for last


class QueryRunner:
    """Asks the database in threads, at most `at_once` at a time; other questions wait."""

    def __init__(self, db: Database, at_once: int = QUESTIONS_AT_ONCE) -> None:
        self._db = db
        self._limiter = CapacityLimiter(at_once)

    async def ask(self, question: Callable[[Database], T]) -> T:
        """Run `question(db)` in a thread and return what it returns."""
        return await to_thread.run_sync(question, self._db, limiter=self._limiter)

    async def answer(self, question: Question, status: int = 200) -> Response:
        """Run `question(db)` in a thread, which makes the JSON, too, and return the response."""
        body = await self.ask(lambda db: json_text(question(db)).encode())
        return Response(body, status, media_type="application/json")


@dataclass(frozen=True)
class Kept(Generic[T]):
    """An answer, the monotonic moment when it was asked for, and the seconds that it took."""

    value: T
    asked_at: float
    took: float

    @property
    def age_header(self) -> dict[str, str]:
        """Return the HTTP header that says how many seconds old the answer is."""
        return {"Age": str(int(time.monotonic() - self.asked_at))}


class AnswerCache:
    """Keeps answers to questions that may count a big table.

    Callers who ask the same question at once share one look at the database. Each question costs the database at most
    SHARE of the time: an answer that took 5 ms is kept for 0.1 s, one that took 1 s for 20 s. The header `Age` says how
    many seconds old an answer is.
    """

    def __init__(self, queries: QueryRunner) -> None:
        self._queries = queries
        self._kept: OrderedDict[object, Kept[Any]] = OrderedDict()
        self._looks: dict[object, asyncio.Task[Kept[Any]]] = {}

    async def answer(self, key: object, question: Question) -> Response:
        """Return the response to the question; questions with equal keys share their answer."""
        kept = await self.ask(key, lambda db: json_text(question(db)).encode())
        return Response(kept.value, media_type="application/json", headers=kept.age_header)

    async def ask(self, key: object, question: Callable[[Database], T]) -> Kept[T]:
        """Return the answer to the question, kept or new; questions with equal keys share it."""
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
        kept = self._kept[key] = Kept(value, began, time.monotonic() - began)
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT_ANSWERS:
            self._kept.popitem(last=False)
        return kept


class RouteContext:
    """What each route works with: the settings, the query runner, the cache of answers, and the fleet for changes."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self.settings = settings
        self.queries = QueryRunner(db)
        self.cache = AnswerCache(self.queries)
        self._db = db

    @cached_property
    def fleet(self) -> Fleet:
        """The fleet, for changes; it uses the API's own pool of connections."""
        return Fleet(self._db, task_defaults(self.settings))

    @cached_property
    def reports_of(self) -> ReportsOf:
        """The function that names the reports of a source, for the sources that this node knows."""
        return tariff_of(self.settings).reports_of
