"""A PostgreSQL connection that gives up on a server which took a request and never answers.

libpq notices a dead machine (keepalives), but waits for ever for one that lives and is silent: frozen, or behind a
proxy that lost it. PyMySQL has `read_timeout` for this.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg

from crawlfleet.core import database_url


class _NoAnswer(Exception):
    pass


class PatientConnection(psycopg.Connection[Any]):
    """Closes itself and raises OperationalError when one request takes longer than ANSWER_SECONDS."""

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **named: Any) -> Any:
        seconds = database_url.ANSWER_SECONDS
        try:
            return super().wait(_until(gen, time.monotonic() + seconds), *arguments, **named)
        except _NoAnswer:
            self.close()
            raise psycopg.OperationalError(f"the server gave no answer within {seconds} s") from None


def _until(gen: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    """psycopg's own generator, which is asked again at least every 0.1 s while the server is silent."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise _NoAnswer
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value
