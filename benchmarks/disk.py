"""What the data takes."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from benchmarks.drain import drain
from benchmarks.place import Place
from benchmarks.store import fetch

SIZE = {
    "postgresql": "SELECT pg_database_size(current_database())",
    "mysql": "SELECT SUM(file_size) FROM information_schema.innodb_sys_tablespaces"
    " WHERE name LIKE CONCAT(DATABASE(), '/%')",
}


def disk(place: Place, count: int) -> dict[str, float]:
    """Bytes on the database's disk for each completed task, its run included, and for each row of figures.

    Size: tasks, and rows of one report of 20 columns. Space that updates have left free is counted, as a database that
    has just done so much work holds it; logs that the server keeps for itself are not.
    """
    empty = stored_bytes(place)
    drain(place, count, "noop", 50)
    with_tasks = stored_bytes(place)
    fetch(place, count, times=1)
    return {
        "bytes/task": (with_tasks - empty) / count,
        "bytes/row of figures": (stored_bytes(place) - with_tasks) / count,
    }


def stored_bytes(place: Place) -> int:
    """What the tables and indexes take now."""
    if place.fleet.db.family == "sqlite":
        path = Path(place.fleet.db.url.database or "")
        return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
    with place.fleet.db.read() as connection:
        return int(connection.execute(sa.text(SIZE[place.fleet.db.family])).scalar_one())
