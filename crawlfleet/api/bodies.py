"""What the API takes: the bodies of requests, checked."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictInt, Tag

from crawlfleet.model.lifecycle import TaskStatus
from crawlfleet.model.task_spec import MAX_PRIORITY

MAX_TASKS = 5_000  # that one request adds, retries or cancels
MAX_ID = 2**63 - 1
Id = Annotated[StrictInt, Field(ge=1, le=MAX_ID)]
Label = Annotated[str, Field(max_length=190)]

TASK: dict[str, Any] = {
    "task_type": "app_data",
    "username": "demo_agency",
    "source": "appsflyer",
    "app_id": "com.example.app",
    "start_date": "2026-01-01",
    "end_date": "2026-01-31",
    "priority": 5,
}


class NewTask(BaseModel):
    """A task to be added: the keys of a line of `tasks add --from`. Only `task_type` is required."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": TASK})
    task_type: Annotated[str, Field(min_length=1, max_length=64)]
    username: Label | None = None
    source: Annotated[str, Field(max_length=64)] | None = None
    app_id: Label | None = None
    start_date: dt.date | None = Field(None, description="first day")
    end_date: dt.date | None = Field(None, description="last day, included")
    report: Annotated[str, Field(max_length=64)] | None = None
    priority: StrictInt = Field(
        0, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="each step overtakes ten minutes of waiting"
    )
    run_at: dt.datetime | None = Field(None, description="not before this moment; UTC without a zone")
    task_data: dict[str, Any] | None = Field(None, description="for the executor; at most 256 KiB of JSON")
    label: Annotated[str, Field(max_length=64)] | None = Field(None, description="only for devices that have it")
    unique_key: Label | None = Field(None, description="at most one open task has this key")
    execution_timeout: Annotated[StrictInt, Field(ge=1, le=604_800)] | None = Field(None, description="seconds")
    max_retry_count: Annotated[StrictInt, Field(ge=0, le=100)] | None = None


ONE, MANY = "one", "many"  # which of the two a body is, so that an error is of that one alone
NewTasks = Annotated[
    Annotated[NewTask, Tag(ONE)]
    | Annotated[Annotated[list[NewTask], Field(min_length=1, max_length=MAX_TASKS)], Tag(MANY)],
    Discriminator(lambda body: MANY if isinstance(body, list) else ONE),
]


class TaskChoice(BaseModel):
    """Tasks by their ids, or by what they have in common."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"ids": [17, 18]}, {"status": TaskStatus.FAILED, "username": "demo"}]},
    )
    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_TASKS)] | None = None
    status: TaskStatus | None = None
    task_type: Annotated[str, Field(max_length=64)] | None = None
    username: Label | None = None


class Why(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"reason": "the vendor is down"}})
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


class CleanUp(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"days": 7}})
    days: StrictInt = Field(7, ge=1, le=3650, description="older rows are deleted")
