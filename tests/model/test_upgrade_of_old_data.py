"""A database of 2026-11-30, filled by a node of that day that was killed at its work, comes up to date and goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from crawlfleet.core import sql
from crawlfleet.core.db import Database
from crawlfleet.model import migrations, schema
from crawlfleet.model.column_types import Day, Moment
from crawlfleet.services.fleet import connect
from tests.conftest import Backend
from tests.nodes import NodeProcess

ROWS = json.loads((Path(__file__).parents[1] / "fixtures" / "database_2026_11_30.json").read_text(encoding="utf-8"))
KILLED_TASK = 7  # it ran when its node was killed


@pytest.fixture
def old(empty_backend: Backend) -> Iterator[Database]:
    """That database, on this server."""
    db = Database(empty_backend.url).open()
    with db.plain.begin() as connection:
        configuration = migrations._configuration()
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0001")
        connection.execute(sa.delete(schema.fleet_state))
        for name, rows in ROWS.items():
            table = schema.metadata.tables[name]
            if rows:
                columns = [sa.column(column, table.c[column].type) for column in rows[0]]
                bare = sa.table(name, *columns)  # without the columns and defaults of later migrations
                connection.execute(sa.insert(bare), [read(db, table, row) for row in rows])
            if db.family == "postgresql" and name != "cl_task_assignment" and "id" in table.c:
                statement = f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT MAX(id) + 1 FROM {name}))"
                connection.exec_driver_sql(statement)
    yield db
    db.close()


def read(db: Database, table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    """A row as SQLite holds it, with the values that the columns take."""

    def value(name: str, found: Any) -> Any:
        kind = table.c[name].type
        if found is None:
            return None
        if isinstance(kind, Moment):
            return sql.utc(found)
        if isinstance(kind, Day):
            return date.fromisoformat(found)
        if isinstance(kind, sa.JSON):
            return json.loads(found)
        if isinstance(kind, sa.Boolean):
            return bool(found)
        if isinstance(kind, sa.LargeBinary) and db.family != "sqlite":
            return bytes.fromhex(found)
        return found

    return {name: value(name, found) for name, found in row.items()}


def counts(db: Database) -> dict[str, int]:
    with db.plain.connect() as connection:
        query = "SELECT COUNT(*) FROM "
        return {name: connection.exec_driver_sql(query + name).scalar_one() for name in ROWS}


@pytest.mark.slow
def test_a_filled_database_is_upgraded_without_losing_a_row_and_its_work_goes_on(old: Database, tmp_path: Path) -> None:
    before = counts(old)
    assert before == {name: len(rows) for name, rows in ROWS.items()}
    assert migrations.upgrade(old) is True
    assert migrations.check(old) == schema.HEAD
    assert counts(old) == before
    url = old.url.render_as_string(hide_password=False)
    options = ("--executors", "tests.faults.bodies")
    with contextlib.closing(connect(url)) as fleet, NodeProcess(tmp_path, url, *options, device_id="old-node") as node:
        node.wait_for(f"Task {KILLED_TASK} completed successfully")
        task = fleet.tasks.get(KILLED_TASK)
        assert task is not None
        assert task["task_ret"] == {"n": 7}
        newest = fleet.add_task("quick", task_data={"n": 8})
        node.wait_for(f"Task {newest} completed successfully")
        days = stored_days(fleet.db)
    assert len(days) == len(ROWS["cl_app_data"])
    assert min(days) == date.fromisoformat(min(row["date"] for row in ROWS["cl_app_data"]))


def test_what_was_denied_before_answers_were_doubted_is_asked_once_more(old: Database) -> None:
    """A page of a CDN could deny a feed for up to thirty days."""
    with old.plain.begin() as connection:
        connection.exec_driver_sql("UPDATE cl_feed SET denials = 5, denied_until = '2026-12-30 00:00:00.000000'")
    migrations.upgrade(old)
    with old.read() as reader:
        denied = reader.execute(sa.text("SELECT COUNT(*) FROM cl_feed WHERE denials > 0 OR denied_until IS NOT NULL"))
        assert denied.scalar_one() == 0


def stored_days(db: Database) -> list[date]:
    with db.read() as reader:
        return [row.date for row in reader.execute(sa.select(schema.app_data.c.date))]
