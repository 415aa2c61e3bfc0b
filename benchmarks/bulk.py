"""Rows that the database itself makes in bulk, as the program would have made them one by one."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.model import schema


def insert_select(table: sa.Table, values: Mapping[str, str], source: str) -> str:
    """INSERT ... SELECT of all columns, from `values` or as the source `t` has them; no running id."""
    stored = [column.name for column in table.c if column.computed is None]
    names = [name for name in stored if name != "id" or "id" in values]
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) SELECT "
        + ", ".join(values.get(name, f"t.{name}") for name in names)
        + f" FROM {source}"
    )


def run(db: Database, statement: str, parameters: Mapping[str, object]) -> int:
    """Run a statement with those of the parameters that it names, in a transaction of its own; rows changed."""
    used = {name: value for name, value in parameters.items() if f":{name}" in statement}
    return db.write(lambda connection: connection.execute(sa.text(statement), used).rowcount)


def tidy(db: Database) -> None:
    """What a database that has grown over a week has done by itself: statistics, and on PostgreSQL a vacuum."""
    statements = {
        "sqlite": ["PRAGMA wal_checkpoint(TRUNCATE)"],
        "postgresql": ["VACUUM ANALYZE"],
        "mysql": [f"ANALYZE TABLE {', '.join(schema.metadata.tables)}"],
    }
    with db.connect() as connection:
        for statement in statements[db.family]:
            connection.exec_driver_sql(statement)
