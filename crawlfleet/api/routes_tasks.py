"""Tasks and their runs."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Response
from pydantic import SkipValidation

from crawlfleet.api import bodies, models
from crawlfleet.api.parameters import (
    CONFLICT,
    NOT_THERE,
    PRINTABLE,
    PROBLEMS,
    TOO_LARGE,
    Actor,
    After,
    AppId,
    Before,
    Context,
    DeviceFilter,
    PageLimit,
    RowId,
    Source,
    TaskType,
    Username,
    found,
    listed,
)
from crawlfleet.api.refusals import Refusal
from crawlfleet.api.strict_json import StrictRoute
from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.insights import tasks
from crawlfleet.insights.explain import explain
from crawlfleet.insights.forecast import picture
from crawlfleet.insights.task_logs import search_logs as lines_with
from crawlfleet.insights.task_logs import task_log
from crawlfleet.insights.tasks import TaskFilter
from crawlfleet.model.lifecycle import MOVES, AssignmentStatus, TaskStatus
from crawlfleet.model.task_insert import SHOWN_NOTES
from crawlfleet.model.task_spec import TaskSpec, parse_moment
from crawlfleet.services.fleet import Fleet

Level = Literal["debug", "info", "warning", "error", "critical"]

router = APIRouter(tags=["tasks"], responses=PROBLEMS, route_class=StrictRoute)


@router.get("/tasks", response_model=models.Tasks)
async def list_tasks(
    context: Context,
    status: TaskStatus | None = None,
    task_type: TaskType = None,
    username: Username = None,
    source: Source = None,
    app_id: AppId = None,
    device_id: DeviceFilter = None,
    since: Annotated[dt.datetime | None, Query(description="added from this moment on")] = None,
    until: Annotated[dt.datetime | None, Query(description="added before this moment")] = None,
    limit: PageLimit = 50,
    before: Before = None,
) -> Response:
    """Tasks, newest first; `device_id`: the one that has it, or had it last. A page looks at no more than 20,000 tasks:
    with several filters it may be short, or empty, and still have a `next`."""
    span = parse_moment(since, "since"), parse_moment(until, "until")
    wanted = TaskFilter(status, task_type, username, source, app_id, device_id, *span)
    return await context.queries.answer(lambda db: listed("tasks", tasks.tasks_page(db, wanted, limit, before)))


@router.post("/tasks", response_model=models.Ids, status_code=201, responses=TOO_LARGE)
async def add_tasks(
    context: Context,
    actor: Actor,
    tasks: Annotated[
        bodies.NewTasks,
        SkipValidation,  # read and checked as a line of `tasks add --from`, with the same words
        Body(
            openapi_examples={
                "one": {"summary": "one task", "value": bodies.TASK},
                "many": {"summary": "several, all or none of them", "value": [bodies.TASK, {"task_type": "noop"}]},
            }
        ),
    ],
    force: bool = False,
) -> Response:
    """Queue one task, or up to 5,000: all or none of them. A `unique_key` that is open already gives that task's id,
    and `notes` name it, and apps that their account's last list lacks. With `force` a type is queued although a known
    one has nearly the same name."""
    body: Any = tasks  # nothing has looked at it yet
    batch = body if isinstance(body, list) else [body]
    if isinstance(body, bytes):
        raise UsageError("the body must be JSON: send it with the header Content-Type: application/json")
    if not 1 <= len(batch) <= bodies.MAX_TASKS:
        raise UsageError(f"one request adds at least one task and at most {bodies.MAX_TASKS} (got {len(batch)})")

    def add(_db: object) -> dict[str, Any]:
        specs = []
        for number, task in enumerate(batch):
            try:
                specs.append(TaskSpec.from_mapping(task))
            except UsageError as error:
                raise UsageError(f"task {number}: {error}" if len(batch) > 1 else str(error)) from None
        return asdict(context.fleet.queue(specs, actor, force=force))

    return await context.queries.answer(add, 201)


@router.get("/tasks/stats", response_model=models.TaskStats)
async def tasks_stats(context: Context) -> Response:
    """How many tasks are in each state. The header `Age` says how many seconds ago they were counted."""
    return await context.cache.answer("task_stats", tasks.task_stats)


@router.get("/tasks/forecast", response_model=models.Forecast)
async def tasks_forecast(context: Context, username: Username = None) -> Response:
    """When the open tasks are done, and what limits them. `Age` says how many seconds ago this was reckoned."""
    kept = await context.cache.ask("forecast", picture)
    answer = await context.queries.answer(lambda _db: asdict(kept.value.forecast(username)))
    answer.headers.update(kept.age_header)
    return answer


@router.get("/tasks/logs", response_model=models.FoundLines)
async def search_logs(
    context: Context,
    text: Annotated[str | None, Query(max_length=200, pattern=PRINTABLE, description="that a line holds")] = None,
    level: Annotated[Level, Query(description="of this level or a graver one")] = "debug",
    before: Annotated[dt.datetime | None, Query(description="the `next` of the page before")] = None,
    limit: PageLimit = 100,
) -> Response:
    """What the runs of all tasks said, newest first, in capitals or not. A page looks at no more than 50,000 lines, so
    it may be short, or empty, and still have a `next`."""
    until = parse_moment(before, "before")

    def ask(db: Database) -> dict[str, Any]:
        page = lines_with(db, text, level, until, limit)
        return {"lines": [asdict(line) for line in page.lines], "next": page.before}

    return await context.queries.answer(ask)


@router.post("/tasks/retry", response_model=models.Moved, responses=NOT_THERE | CONFLICT | TOO_LARGE)
async def retry_tasks(context: Context, actor: Actor, choice: bodies.TaskChoice) -> Response:
    """Queue failed and cancelled tasks again, due now and with all attempts."""
    return await context.queries.answer(lambda _db: _move(context.fleet, "revive", choice, actor))


@router.post("/tasks/cancel", response_model=models.Moved, responses=NOT_THERE | CONFLICT | TOO_LARGE)
async def cancel_tasks(context: Context, actor: Actor, choice: bodies.TaskChoice) -> Response:
    """Cancel open tasks, running ones too."""
    return await context.queries.answer(lambda _db: _move(context.fleet, "cancel", choice, actor))


def _move(fleet: Fleet, move: str, choice: bodies.TaskChoice, actor: str) -> dict[str, Any]:
    filters = (choice.status, choice.task_type, choice.username)
    if (choice.ids is None) == (filters == (None, None, None)):
        raise UsageError("name tasks either by ids, or by status, task_type and username")
    more = False
    if choice.ids is not None:
        ids = list(dict.fromkeys(choice.ids))
        fleet.require_movable(move, ids)
    else:
        states = [choice.status] if choice.status else MOVES[move].task_from
        ids = fleet.tasks.ids_in(states, choice.task_type, choice.username, bodies.MAX_TASKS + 1)
        ids, more = ids[: bodies.MAX_TASKS], len(ids) > bodies.MAX_TASKS
    moved = (fleet.retry_tasks if move == "revive" else fleet.cancel_tasks)(ids, actor)
    left = [each for each in ids if each not in set(moved)]
    notes = fleet.open_elsewhere(left[:SHOWN_NOTES]) if move == "revive" and left else []
    return {"moved": moved, "left": len(left), "more": more, "notes": notes}


@router.get("/tasks/{task_id}", response_model=models.WholeTask, responses=NOT_THERE)
async def show_task(context: Context, task_id: RowId) -> Response:
    """A task with all its runs, oldest first, and its events."""
    return await context.queries.answer(lambda db: found(tasks.task_detail(db, task_id), f"task {task_id}"))


@router.get("/tasks/{task_id}/explain", response_model=models.Explanation, responses=NOT_THERE)
async def explain_task(context: Context, task_id: RowId) -> Response:
    """Why a task waits and until when, or what became of it."""
    timeout = context.settings.offline_timeout
    return await context.queries.answer(lambda db: asdict(found(explain(db, task_id, timeout), f"task {task_id}")))


@router.get("/tasks/{task_id}/events", response_model=models.Events)
async def task_events(context: Context, task_id: RowId, limit: PageLimit = 50, before: Before = None) -> Response:
    """What people did to a task, newest first."""
    return await context.queries.answer(lambda db: listed("events", tasks.task_events_page(db, task_id, limit, before)))


@router.get("/tasks/{task_id}/logs", response_model=models.TaskLog, responses=NOT_THERE)
async def task_logs(context: Context, task_id: RowId, after: After = None, limit: PageLimit = 1000) -> Response:
    """What the runs of a task said, and how each began and ended, oldest first. Asking again with `next` follows it."""

    def ask(db: Database) -> dict[str, Any]:
        page = found(task_log(db, task_id, after, limit, live=True), f"task {task_id}")
        lines = [asdict(line) for line in page.lines]
        return {"lines": lines, "next": page.after, "more": page.more, "ended": page.ended}

    return await context.queries.answer(ask)


@router.post("/tasks/{task_id}/retry", response_model=models.Moved, responses=NOT_THERE | CONFLICT)
async def retry_task(context: Context, actor: Actor, task_id: RowId) -> Response:
    """Queue a failed or cancelled task again; 409 for one that is neither, or whose unique key another one holds."""
    return await context.queries.answer(lambda _db: _move_one(context.fleet, "revive", task_id, actor))


@router.post("/tasks/{task_id}/cancel", response_model=models.Moved, responses=NOT_THERE | CONFLICT)
async def cancel_task(context: Context, actor: Actor, task_id: RowId) -> Response:
    """Cancel an open task; 409 for one that has ended."""
    return await context.queries.answer(lambda _db: _move_one(context.fleet, "cancel", task_id, actor))


def _move_one(fleet: Fleet, move: str, task_id: int, actor: str) -> dict[str, Any]:
    done = _move(fleet, move, bodies.TaskChoice(ids=[task_id]), actor)
    if not done["moved"]:
        [note] = done["notes"] or [f"task {task_id} was left as it was: it was moved meanwhile"]
        raise Refusal(409, note)
    return done


@router.get("/assignments", response_model=models.Runs)
async def list_assignments(
    context: Context,
    task_id: Annotated[int | None, Query(ge=1, le=bodies.MAX_ID, description="only of this task")] = None,
    device_id: DeviceFilter = None,
    status: AssignmentStatus | None = None,
    limit: PageLimit = 50,
    before: Before = None,
) -> Response:
    """Runs, the newest of each device first. A page looks at no more than 20,000 runs, so it may be short, or empty,
    and still have a `next`."""
    return await context.queries.answer(
        lambda db: listed("assignments", tasks.assignments_page(db, limit, before, task_id, device_id, status))
    )


@router.get("/assignments/{assignment_id}", response_model=models.WholeRun, responses=NOT_THERE)
async def show_assignment(context: Context, assignment_id: RowId) -> Response:
    """One run with its result."""
    return await context.queries.answer(
        lambda db: found(tasks.assignment(db, assignment_id), f"assignment {assignment_id}")
    )
