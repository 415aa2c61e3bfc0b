"""The database alone."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.place import Place

BATCHES = (1, 10, 100)
TABLE = "CREATE TABLE limit_task (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, task_type VARCHAR(64) NOT NULL)"
INDEX = "CREATE INDEX ix_limit_task ON limit_task (state, id)"


def limit(place: Place, rows: int) -> dict[str, float]:
    """How fast one connection adds rows to a table of three columns, and moves them through its states by index.

    Size: rows. They are added in one transaction, the fastest way that the driver has; then batches of them are claimed
    in one transaction and finished in another, with nothing between. No queue that keeps each task's state in this
    database can be faster, and one that also keeps runs, retries and results writes several times as much.
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
