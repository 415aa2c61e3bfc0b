"""Databases without our tables: what `core` promises does not depend on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from crawlfleet.core.db import Database
from tests.conftest import Backend


@pytest.fixture
def open_database() -> Iterator[Callable[[str], Database]]:
    """Opens the database behind a URL and closes it after the test."""
    opened: list[Database] = []

    def open_it(url: str) -> Database:
        opened.append(Database(url))
        return opened[-1].open()

    yield open_it
    for db in opened:
        db.close()


@pytest.fixture
def db(backend: Backend, open_database: Callable[[str], Database]) -> Database:
    """A database with one table: `cl_note` (id, word, at)."""
    found = open_database(backend.url)
    make_notes(found)
    return found


def make_notes(db: Database) -> None:
    """The table of the tests, made like our own."""
    types = {"sqlite": "TEXT", "mysql": "DATETIME(6)", "postgresql": "timestamptz"}
    options = " ENGINE=InnoDB CHARSET=utf8mb4 COLLATE=utf8mb4_bin" if db.family == "mysql" else ""
    with db.plain.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE cl_note (id INTEGER PRIMARY KEY, word VARCHAR(50), at {types[db.family]} NULL){options}"
        )
