"""What the API takes and gives, for its documentation and for checking bodies."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictInt, Tag

from crawlfleet.insights.explain import Reason
from crawlfleet.insights.forecast import Bottleneck
from crawlfleet.model.lifecycle import AssignmentStatus, DeviceStatus, TaskEvent, TaskStatus
from crawlfleet.model.task_spec import MAX_PRIORITY

MAX_TASKS = 5_000  # that one request adds, retries or cancels
MAX_ID = 2**63 - 1
Id = Annotated[StrictInt, Field(ge=1, le=MAX_ID)]
Label = Annotated[str, Field(max_length=190)]
Next = Annotated[str | None, Field(description="where the next page begins; null on the last one")]

TASK: dict[str, Any] = {
    "task_type": "app_data",
    "username": "demo_agency",
    "source": "appsflyer",
    "app_id": "com.example.app",
    "start_date": "2026-01-01",
    "end_date": "2026-01-31",
    "priority": 5,
}
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


# -- bodies


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


class Ids(BaseModel):
    model_config = _example(ids=[17, 18])
    ids: list[int] = Field(description="ids of the tasks, in the order of the request")


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


class Moved(BaseModel):
    model_config = _example(moved=[17], left=1, more=False)
    moved: list[int] = Field(description="ids of the tasks that were")
    left: int = Field(description="how many were left as they were: another state by now, or their unique key is taken")
    more: bool = Field(description=f"more tasks than {MAX_TASKS} were meant: ask again")


class Why(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"reason": "the vendor is down"}})
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


class CleanUp(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"days": 7}})
    days: StrictInt = Field(7, ge=1, le=3650, description="older rows are deleted")


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


class Task(BaseModel):
    """A task as a list shows it: without `task_data` and `task_ret`, its error cut after 300 characters."""

    model_config = _example(id=17, **TASK, status=TaskStatus.COMPLETED)
    id: int
    task_type: str
    source: str | None
    username: str | None
    app_id: str | None
    report: str | None
    label: str | None
    start_date: dt.date | None
    end_date: dt.date | None
    status: TaskStatus
    priority: int
    lane_id: int
    order_key: int
    ready_key: int | None
    ready_lane_id: int | None
    wake_at: dt.datetime | None
    next_run_at: dt.datetime
    assignment_id: int | None
    assigned_device_id: str | None
    assigned_at: dt.datetime | None
    execution_timeout: int
    max_retry_count: int
    retry: int
    crash_count: int
    unique_key: str | None
    open_key: str | None
    parent_id: int | None
    error_kind: str | None
    error_message: str | None
    created_at: dt.datetime
    updated_at: dt.datetime
    completed_at: dt.datetime | None


class Run(BaseModel):
    """A run as a list shows it: without `result_data`."""

    model_config = _example(**RUN)
    id: int
    task_id: int
    device_id: str
    device_epoch: int
    status: AssignmentStatus
    retry_count: int
    assigned_at: dt.datetime
    taken_at: dt.datetime | None = Field(description="null: a master assigned it and its device has not seen it yet")
    started_at: dt.datetime | None
    completed_at: dt.datetime | None
    error_kind: str | None
    error_message: str | None
    created_at: dt.datetime
    updated_at: dt.datetime


class WholeRun(Run):
    result_data: Any


class Event(BaseModel):
    model_config = _example(id=3, task_id=17, event=TaskEvent.CANCELLED, actor="token deploy", detail=None)
    id: int
    task_id: int
    event: str
    actor: str | None
    detail: str | None
    created_at: dt.datetime


class WholeTask(Task):
    task_data: Any
    task_ret: Any
    assignments: list[WholeRun]
    events: list[Event]


class Tasks(BaseModel):
    tasks: list[Task]
    next: Next


class Runs(BaseModel):
    assignments: list[Run]
    next: Next


class Events(BaseModel):
    events: list[Event]
    next: Next


class LogLine(BaseModel):
    model_config = _example(
        task_id=17,
        assignment_id=8589934593,
        device_id="fetcher-01",
        at="2026-02-01T02:00:01Z",
        level="info",
        message="page 2 of 3",
    )
    task_id: int
    assignment_id: int | None
    device_id: str | None
    at: dt.datetime
    level: str
    message: str


class TaskLog(BaseModel):
    lines: list[LogLine]
    next: str = Field(description="give it as `after` for the lines that follow, now or later")
    more: bool = Field(description="there are some already")
    ended: bool = Field(description="the task is over; the last lines may still come for some seconds")


class FoundLines(BaseModel):
    lines: list[LogLine]
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


class AccountForecast(BaseModel):
    source: str | None
    username: str | None
    open_tasks: int
    not_due: int
    limit: Bottleneck
    done_at: dt.datetime | None
    why: str
    budget: dict[str, Any] | None


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


# -- accounts and data


class Account(BaseModel):
    """Where a token is (variable, file, or sealed in the database), never the token."""

    model_config = ConfigDict(extra="allow")
    source: str
    username: str
    kind: str
    token_env: str | None
    token_file: str | None
    token_sealed: bool
    status: str
    status_reason: str | None
    health: dict[str, Any] = Field(description="state, since, until, reason")


class Accounts(BaseModel):
    accounts: list[Account]


class WholeAccount(Account):
    budgets: list[dict[str, Any]]
    denied: list[dict[str, Any]] = Field(description="what its vendor does not let it have")


class App(BaseModel):
    source: str
    username: str
    app_id: str
    app_name: str | None
    platform: str | None
    timezone: str | None
    currency: str | None
    app_status: str
    extra: Any
    first_seen_at: dt.datetime
    fetched_at: dt.datetime


class Apps(BaseModel):
    apps: list[App]
    next: Next


class Row(BaseModel):
    """Figures of one day. null is a value that the vendor did not give; amounts have all their digits."""

    source: str
    username: str
    app_id: str
    report: str
    date: dt.date
    agency: str | None
    media_source: str | None
    campaign: str | None
    country: str | None
    impressions: int | None
    clicks: int | None
    installs: int | None
    sessions: int | None
    loyal_users: int | None
    revenue: float | None
    cost: float | None
    extra: Any


class Rows(BaseModel):
    rows: list[Row]
    next: Next


class CoveredDay(BaseModel):
    day: dt.date
    state: Literal["missing", "thin", "settling", "final", "impossible"]
    rows: int | None
    fetched_at: dt.datetime | None
    settles_at: dt.datetime


class CoveredFeed(BaseModel):
    source: str
    username: str
    report: str
    app_id: str
    refusal: str | None
    days: list[CoveredDay]


class Coverage(BaseModel):
    start_date: dt.date
    end_date: dt.date
    feeds: list[CoveredFeed]
    next: Next


class Gap(BaseModel):
    source: str
    username: str
    app_id: str
    report: str
    start_date: dt.date
    end_date: dt.date
    days: int
    state: str
    why: str


class Gaps(BaseModel):
    start_date: dt.date
    end_date: dt.date
    gaps: list[Gap]
    next: Next


class Budget(BaseModel):
    source: str
    limit: str
    username: str | None
    app_id: str | None
    report: str | None
    used: int
    allowed: int | None
    seconds: float = Field(description="of the window; 86400 is the UTC day")
    opens_at: dt.datetime | None
    closed_until: dt.datetime | None
    reason: str | None
    learned_calls: int | None
    last_call_at: dt.datetime | None
    waiting: int = Field(description="due tasks that need it")


class Budgets(BaseModel):
    budgets: list[Budget]
    next: Next


class AuditRow(BaseModel):
    model_config = _example(id=5, actor="token deploy", action="queue.pause", target=None, detail={"reason": "upgrade"})
    id: int
    actor: str
    action: str
    target: str | None
    detail: dict[str, Any]
    created_at: dt.datetime


class Audit(BaseModel):
    audit: list[AuditRow]
    next: Next
