"""What the API gives, for its documentation."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from crawlfleet.api.bodies import MAX_TASKS, TASK
from crawlfleet.api.row_models import fields_of, row_model
from crawlfleet.insights.explain import Reason
from crawlfleet.insights.forecast import AccountForecast
from crawlfleet.insights.task_logs import LogLine
from crawlfleet.insights.tasks import LONG_TASK_COLUMNS
from crawlfleet.model import schema
from crawlfleet.model.lifecycle import AssignmentStatus, DeviceStatus, TaskEvent, TaskStatus

Next = Annotated[str | None, Field(description="where the next page begins; null on the last one")]

RUN: dict[str, Any] = {
    "id": 8589934593,
    "task_id": 17,
    "device_id": "fetcher-01",
    "device_epoch": 4,
    "status": AssignmentStatus.COMPLETED,
    "retry_count": 0,
    "assigned_at": "2026-02-01T02:00:00.120000Z",
    "taken_at": "2026-02-01T02:00:00.120000Z",
    "started_at": "2026-02-01T02:00:00.140000Z",
    "completed_at": "2026-02-01T02:00:03.200000Z",
    "error_kind": None,
    "error_message": None,
    "created_at": "2026-02-01T02:00:00.120000Z",
    "updated_at": "2026-02-01T02:00:03.200000Z",
}


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": values})


class Problem(BaseModel):
    """Every error."""

    model_config = _example(error="not_found", detail="there is no task 17")
    error: str = Field(description="a stable code")
    detail: str = Field(description="what is wrong, which value, what to do")


class Ids(BaseModel):
    model_config = _example(ids=[17, 18], notes=["unique key nightly is already open as task 17 of demo_agency"])
    ids: list[int] = Field(description="ids of the tasks, in the order of the request")
    notes: list[str] = Field(description="what a person should know: open keys, unknown types and apps")


class Moved(BaseModel):
    model_config = _example(
        moved=[17],
        left=1,
        more=False,
        notes=["task 18 was left as it was: its unique key is already open as task 17 of demo_agency"],
    )
    moved: list[int] = Field(description="ids of the tasks that were")
    left: int = Field(description="how many were left as they were: another state by now, or their unique key is taken")
    more: bool = Field(description=f"more tasks than {MAX_TASKS} were meant: ask again")
    notes: list[str] = Field(description="which tasks were not retried since another one has their unique key")


class CleanedUp(BaseModel):
    model_config = _example(heartbeats=50_000, assignments=1200)
    heartbeats: int
    assignments: int


class Rebalanced(BaseModel):
    model_config = _example(tasks=3)
    tasks: int = Field(description="so many went back to the queue")


class Changed(BaseModel):
    model_config = _example(changed=True)
    changed: bool = Field(description="false when it was so already")


# -- tasks


_TASK_FIELDS = fields_of(schema.crawl_task, without=LONG_TASK_COLUMNS, status=TaskStatus)
Task = row_model(
    "Task",
    "A task as a list shows it: without `task_data` and `task_ret`, its error cut after 300 characters.",
    _TASK_FIELDS,
    {"id": 17, **TASK, "status": TaskStatus.COMPLETED},
)
_TAKEN = Field(description="null: a master assigned it and its device has not seen it yet")
_RUN_FIELDS = fields_of(
    schema.task_assignment,
    without={"result_data"},
    status=AssignmentStatus,
    taken_at=Annotated[dt.datetime | None, _TAKEN],
)
Run = row_model("Run", "A run as a list shows it: without `result_data`.", _RUN_FIELDS, RUN)
WholeRun = row_model("WholeRun", "", {**_RUN_FIELDS, "result_data": Any}, RUN)
Event = row_model(
    "Event",
    "",
    fields_of(schema.task_event),
    {"id": 3, "task_id": 17, "event": TaskEvent.CANCELLED, "actor": "token deploy", "detail": None},
)
_HISTORY: dict[str, Any] = {"assignments": list[WholeRun], "events": list[Event]}  # type: ignore[valid-type]
WholeTask = row_model(
    "WholeTask",
    "",
    {**_TASK_FIELDS, "task_data": Any, "task_ret": Any, **_HISTORY},
    {"id": 17, **TASK, "status": TaskStatus.COMPLETED},
)


class Tasks(BaseModel):
    tasks: list[Task]  # type: ignore[valid-type]
    next: Next


class Runs(BaseModel):
    assignments: list[Run]  # type: ignore[valid-type]
    next: Next


class Events(BaseModel):
    events: list[Event]  # type: ignore[valid-type]
    next: Next


LOG_LINE = {
    "task_id": 17,
    "assignment_id": 8589934593,
    "device_id": "fetcher-01",
    "at": "2026-02-01T02:00:01Z",
    "level": "info",
    "message": "page 2 of 3",
}
LoggedLine = Annotated[LogLine, Field(json_schema_extra={"example": LOG_LINE})]


class TaskLog(BaseModel):
    lines: list[LoggedLine]
    next: str = Field(description="give it as `after` for the lines that follow, now or later")
    more: bool = Field(description="there are some already")
    ended: bool = Field(description="the task is over; the last lines may still come for some seconds")


class FoundLines(BaseModel):
    lines: list[LoggedLine]
    next: dt.datetime | None = Field(description="give it as `before` for older lines; null: all were looked at")


class Explanation(BaseModel):
    model_config = _example(
        task_id=17,
        reason="budget_used_up",
        sentence="the budget aggregate-app of appsflyer (com.example.app) is used up until 2026-02-02 00:00:00 UTC",
        until="2026-02-02T00:00:00Z",
        blocked_by={},
    )
    task_id: int
    reason: Reason
    sentence: str
    until: dt.datetime | None
    blocked_by: dict[str, Any] = Field(description="what the sentence is made of: budget, account, devices, ahead")


class TaskStats(BaseModel):
    model_config = _example(
        pending=20,
        assigned=2,
        running=3,
        completed=70,
        failed=4,
        cancelled=1,
        total=100,
        success_rate=0.9459,
        avg_execution_time=2.125,
    )
    pending: int
    assigned: int
    running: int
    completed: int
    failed: int
    cancelled: int
    total: int
    success_rate: float | None = Field(description="of those that completed or failed, 0 to 1")
    avg_execution_time: float | None = Field(description="seconds, of the newest 500 runs that completed")


class Forecast(BaseModel):
    now: dt.datetime
    open_tasks: int
    done_at: dt.datetime | None = Field(description="null: never, as things stand")
    accounts: list[AccountForecast]
    budgets: list[dict[str, Any]]
    slots: int
    work: list[dict[str, Any]]


# -- devices


class Device(BaseModel):
    model_config = ConfigDict(extra="allow", json_schema_extra={"example": {"device_id": "fetcher-01"}})
    device_id: str
    device_name: str
    device_type: str
    ip_address: str | None
    port: int | None
    status: DeviceStatus
    draining: bool
    capabilities: dict[str, Any]
    max_concurrent_tasks: int
    current_tasks: int = Field(description="runs that it holds now")
    epoch: int = Field(description="grows with each registration")
    version: str
    last_heartbeat: dt.datetime
    registered_at: dt.datetime


class DeviceNow(Device):
    heartbeat: dict[str, Any] | None = Field(description="its latest beat")
    silent_seconds: float | None = Field(
        description="for how long it has missed its beats, three or more, although it counts as online; else null"
    )


class Devices(BaseModel):
    devices: list[DeviceNow]


class RunStats(BaseModel):
    model_config = ConfigDict(extra="allow")
    runs: int
    success_rate: float | None
    avg_execution_time: float | None


class DeviceStats(BaseModel):
    device_info: Device
    task_stats: RunStats = Field(description="of its newest 1,000 runs, by what became of them")
    health_stats: dict[str, Any]
    uptime: float | None = Field(description="seconds since it registered; null while it is offline")


class Performance(BaseModel):
    device_id: str
    hours: int
    span_seconds: int
    points: list[dict[str, Any]] = Field(
        description="averages of the beats in each span; spans without any are left out"
    )


class DeviceCounts(BaseModel):
    total: int
    online: int
    offline: int


class Verdict(BaseModel):
    verdict: str
    blocked: list[str]


class Overview(BaseModel):
    task_stats: TaskStats
    device_stats: DeviceCounts
    system_overview: Verdict


class SchedulerStatus(BaseModel):
    paused: bool
    reason: str | None
    since: dt.datetime | None
    devices_claiming: int
    slots: int = Field(description="of the devices that claim")
    slots_busy: int


# -- changes


AuditRow = row_model(
    "AuditRow",
    "",
    fields_of(schema.audit, detail=dict[str, Any]),
    {"id": 5, "actor": "token deploy", "action": "queue.pause", "target": None, "detail": {"reason": "upgrade"}},
)


class Audit(BaseModel):
    audit: list[AuditRow]  # type: ignore[valid-type]
    next: Next
