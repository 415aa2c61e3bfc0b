"""Answers that cost much: asked for once by all, kept for a while, never kept for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from crawlfleet.api import query_runner
from crawlfleet.api.query_runner import AnswerCache, QueryRunner
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable

Run = Callable[[Callable[[AnswerCache], Awaitable[None]]], None]


class Counting:
    """A question that is answered with how often it was asked; it waits for `open`."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = threading.Event()
        self.open.set()

    def __call__(self, _db: object) -> int:
        self.asked += 1
        self.open.wait(20)
        return self.asked


@pytest.fixture
def run() -> Run:
    """Runs a coroutine function with a cache of its own; the database is never really asked."""
    nothing: Any = None

    def go(work: Callable[[AnswerCache], Awaitable[None]]) -> None:
        async def main() -> None:
            await work(AnswerCache(QueryRunner(nothing)))

        asyncio.run(main())

    return go


def test_all_who_ask_at_once_share_one_look(run: Run) -> None:
    question = Counting()

    async def work(cache: AnswerCache) -> None:
        found = await asyncio.gather(*(cache.ask("key", question) for _ in range(20)))
        assert {kept.value for kept in found} == {1}
        assert (await cache.ask("other", question)).value == 2

    run(work)


def test_an_answer_is_kept_for_a_multiple_of_what_it_took(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    question = Counting()

    async def work(cache: AnswerCache) -> None:
        monkeypatch.setattr(query_runner, "SHARE", 1e-9)
        assert [(await cache.ask("key", question)).value for _ in range(3)] == [1, 1, 1]
        monkeypatch.setattr(query_runner, "SHARE", 1e9)
        assert [(await cache.ask("key", question)).value for _ in range(3)] == [2, 3, 4]
        monkeypatch.setattr(query_runner, "SHARE", 1e-9)
        monkeypatch.setattr(query_runner, "LONGEST_KEPT", 0.0)
        assert (await cache.ask("key", question)).value == 5

    run(work)


def test_while_a_look_takes_long_the_former_answer_is_given(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_runner, "SHARE", 1e9)
    monkeypatch.setattr(query_runner, "PATIENCE", 0.01)
    question = Counting()

    async def work(cache: AnswerCache) -> None:
        await cache.ask("key", question)
        question.open.clear()
        assert [(await cache.ask("key", question)).value for _ in range(3)] == [1, 1, 1]
        assert question.asked == 2
        monkeypatch.setattr(query_runner, "LONGEST_KEPT", 0.0)
        waiting = asyncio.create_task(cache.ask("key", question))
        await asyncio.sleep(0)
        assert not waiting.done()
        question.open.set()
        assert (await waiting).value == 2

    run(work)


def test_a_failed_look_is_an_error_for_those_who_wait_and_is_not_kept(run: Run) -> None:
    answers = iter([DatabaseUnreachable("away"), 7])

    def question(_db: Database) -> int:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    async def work(cache: AnswerCache) -> None:
        with pytest.raises(DatabaseUnreachable):
            await cache.ask("key", question)
        assert (await cache.ask("key", question)).value == 7

    run(work)


def test_only_so_many_answers_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_runner, "KEPT_ANSWERS", 3)
    monkeypatch.setattr(query_runner, "SHARE", 1e-9)
    question = Counting()

    async def work(cache: AnswerCache) -> None:
        for key in range(5):
            await cache.ask(key, question)
        assert (await cache.ask(4, question)).value == 5
        assert (await cache.ask(0, question)).value == 6

    run(work)
