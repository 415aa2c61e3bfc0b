"""What is read of a task for its body. Large task_data is read of tasks that were picked, not of all candidates."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from crawlfleet.core.sql import day, json_rows, json_value, sql
from crawlfleet.core.transaction import Answer, AnyRow, Transaction
from crawlfleet.model.column_types import Day
from crawlfleet.model.schema import crawl_task
from crawlfleet.model.task_spec import Task

_OF_BODIES = [each.name for each in fields(Task) if each.name in crawl_task.c and each.name != "task_data"]
_DAYS = [name for name in _OF_BODIES if isinstance(crawl_task.c[name].type, Day)]
TASK_COLUMNS = ", ".join(f"t.{name}" for name in (*_OF_BODIES, "lane_id", "ready_key", "retry", "label"))
SMALL_DATA_BYTES = 2000


def task_columns(family: str) -> str:
    """The columns of a task that `task_of` needs; its task_data only where that is small."""
    size = {
        "sqlite": "LENGTH(CAST(t.task_data AS BLOB))",
        "mysql": "LENGTH(t.task_data)",
        "postgresql": "octet_length(CAST(t.task_data AS text))",
    }[family]
    small = f"CASE WHEN {size} <= {SMALL_DATA_BYTES} THEN t.task_data END"
    return f"{TASK_COLUMNS}, {small} AS task_data, {size} AS data_bytes"


def ask_large_data(transaction: Transaction, rows: Collection[AnyRow]) -> Answer[dict[int, Any]]:
    """Ask for the task_data of those of these tasks that have a large one, by their ids."""
    ids = [row["id"] for row in rows if (row["data_bytes"] or 0) > SMALL_DATA_BYTES]
    if not ids:
        return Answer.of({})
    statement = (
        f"SELECT t.id, t.task_data FROM {transaction.dialect.rows(id='int')} JOIN cl_crawl_task t ON t.id = v.id"
    )
    reply = transaction.execute(sql(statement), {"rows": json_rows([each] for each in ids)})
    return reply.map(lambda result: {task_id: json_value(data) for task_id, data in result})


def task_of(row: AnyRow) -> Task:
    """A row with `task_columns` as a body sees it, still without large task_data."""
    given = {name: row[name] for name in _OF_BODIES}
    for name in _DAYS:
        given[name] = day(given[name])
    return Task(**given, task_data=json_value(row["task_data"]) or {}, attempt=row["retry"] + 1)
