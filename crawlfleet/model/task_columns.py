"""What is read of a task for its body. Large task_data is read of tasks that were picked, not of all candidates."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from crawlfleet.core.sql import day, json_rows, json_value, sql
from crawlfleet.core.transaction import Answer, AnyRow, Transaction
from crawlfleet.model.task_spec import Task

TASK_COLUMNS = (
    "t.id, t.lane_id, t.ready_key, t.task_type, t.source, t.username, t.app_id, t.report, t.start_date, t.end_date,"
    " t.priority, t.execution_timeout, t.retry, t.label"
)
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
    found = transaction.execute(sql(statement), {"rows": json_rows([each] for each in ids)})
    return found.map(lambda result: {task_id: json_value(data) for task_id, data in result})


def task_of(row: AnyRow) -> Task:
    """A row with `task_columns` as a body sees it, still without large task_data."""
    return Task(
        id=row["id"],
        task_type=row["task_type"],
        username=row["username"],
        source=row["source"],
        app_id=row["app_id"],
        start_date=day(row["start_date"]),
        end_date=day(row["end_date"]),
        report=row["report"],
        priority=row["priority"],
        task_data=json_value(row["task_data"]) or {},
        execution_timeout=row["execution_timeout"],
        attempt=row["retry"] + 1,
    )
