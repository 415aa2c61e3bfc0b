"""The database alone."""

from __future__ import annotations

import random
import select
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from benchmarks.latency import PAUSE_SECONDS
from benchmarks.place import Place

BATCHES = (1, 10, 100)
MOST_TOLD = 50  # rows that one connection adds and another is told of
TABLE = "CREATE TABLE limit_task (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, task_type VARCHAR(64) NOT NULL)"
INDEX = "CREATE INDEX ix_limit_task ON limit_task (state, id)"


def limit(place: Place, rows: int) -> dict[str, float]:
    """How fast one connection adds rows to a table of three columns, and moves them through its states by index.

    Size: rows. They are added in one transaction, the fastest way that the driver has; then batches of them are claimed
    in one transaction and finished in another, with nothing between. No queue that keeps each task's state in this
    database can be faster, and one that also keeps runs, retries and results writes several times as much. On
    PostgreSQL also how soon a connection that is told of one row has claimed it.
    """
    figures: dict[str, float] = {}
    with place.fleet.db.connect() as connection:
        raw: Any = connection.connection.driver_connection
        cursor = raw.cursor()
        cursor.execute(TABLE)
        cursor.execute(INDEX)
        began = time.perf_counter()
        add(place.fleet.db.family, cursor, rows)
        figures["added, rows/s"] = rows / (time.perf_counter() - began)
        for batch in BATCHES:
            moved = min(rows // len(BATCHES), 1000 * batch)
            began = time.perf_counter()
            for _ in range(0, moved, batch):
                claim_and_finish(place.fleet.db.family, cursor, batch)
            figures[f"claimed and finished by {batch}, tasks/s"] = moved / (time.perf_counter() - began)
        if place.fleet.db.family == "postgresql":
            cursor.execute("TRUNCATE limit_task")
            with place.fleet.db.connect() as other:
                waits = tell_and_claim(cursor, other.connection.driver_connection, min(rows, MOST_TOLD))
            figures["told of one and claimed it, half within, ms"] = median(waits) * 1000
    return figures


def add(family: str, cursor: Any, rows: int) -> None:
    """All in one transaction."""
    cursor.execute("BEGIN")
    if family == "postgresql":
        with cursor.copy("COPY limit_task FROM STDIN") as copy:
            for number in range(rows):
                copy.write_row((number, 0, "noop"))
    else:
        mark = "?" if family == "sqlite" else "%s"
        cursor.executemany(
            f"INSERT INTO limit_task VALUES ({mark}, {mark}, {mark})", [(number, 0, "noop") for number in range(rows)]
        )
    cursor.execute("COMMIT")


def claim_and_finish(family: str, cursor: Any, batch: int) -> None:
    """Two transactions; only one connection is at work, so what is claimed is ours."""
    if family == "mysql":
        cursor.execute("BEGIN")
        cursor.execute(f"UPDATE limit_task SET state = 1 WHERE state = 0 ORDER BY id LIMIT {batch}")
        cursor.execute("SELECT id, task_type FROM limit_task WHERE state = 1")
        taken = cursor.fetchall()
        cursor.execute("COMMIT")
    else:
        cursor.execute(
            "UPDATE limit_task SET state = 1 WHERE id IN"
            f" (SELECT id FROM limit_task WHERE state = 0 ORDER BY id LIMIT {batch}) RETURNING id, task_type"
        )
        taken = cursor.fetchall()
    assert len(taken) == batch
    cursor.execute("UPDATE limit_task SET state = 2 WHERE state = 1")


def tell_and_claim(adder: Any, listener: Any, rows: int) -> list[float]:
    """Seconds from adding a row to its claim on the other connection: a statement and a commit each, both at rest."""
    dice = random.Random(1)
    waits = []
    listener.execute("LISTEN limit_task")
    with ThreadPoolExecutor(1) as thread:
        for number in range(rows):
            claimed = thread.submit(claim_when_told, listener)
            time.sleep(dice.uniform(*PAUSE_SECONDS))
            began = time.perf_counter()
            adder.execute(
                "WITH added AS (INSERT INTO limit_task VALUES (%s, 0, 'noop') RETURNING id)"
                " SELECT pg_notify('limit_task', '') FROM added",
                [number],
            )
            waits.append(claimed.result() - began)
    return waits


def claim_when_told(listener: Any) -> float:
    """Wait for a notification, then claim the one row that waits; the moment at which it is ours."""
    select.select([listener.fileno()], [], [])
    assert any(True for _ in listener.notifies(timeout=0))
    claimed = listener.execute("UPDATE limit_task SET state = 1 WHERE state = 0 RETURNING id").fetchall()
    assert len(claimed) == 1
    return time.perf_counter()
