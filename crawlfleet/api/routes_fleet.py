"""Devices, the fleet in numbers, and what an operator does to it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from crawlfleet.api import bodies, models
from crawlfleet.api.guard import admin_only
from crawlfleet.api.parameters import (
    CONFLICT,
    NOT_THERE,
    PROBLEMS,
    Actor,
    Before,
    Context,
    DeviceId,
    PageLimit,
    listed,
)
from crawlfleet.api.strict_json import StrictRoute
from crawlfleet.core.db import Database
from crawlfleet.insights import devices, overview
from crawlfleet.insights.audit import audit_page
from crawlfleet.services.fleet import Fleet, no_device

device_routes = APIRouter(tags=["devices"], responses=PROBLEMS, route_class=StrictRoute)
statistics = APIRouter(tags=["statistics"], responses=PROBLEMS, route_class=StrictRoute)
management = APIRouter(tags=["management"], responses=PROBLEMS, route_class=StrictRoute)
ADMIN = [Depends(admin_only)]


@device_routes.get("/devices", response_model=models.Devices)
async def list_devices(context: Context) -> Response:
    """All devices, with their latest heartbeat."""
    return await context.queries.answer(lambda db: {"devices": devices.devices(db)})


@device_routes.get("/devices/{device_id}", response_model=models.DeviceNow, responses=NOT_THERE)
async def show_device(context: Context, device_id: DeviceId) -> Response:
    """One device with its latest heartbeat."""
    return await context.queries.answer(lambda db: _known(devices.device(db, device_id), device_id))


@device_routes.get("/devices/{device_id}/stats", response_model=models.DeviceStats, responses=NOT_THERE)
async def device_stats(context: Context, device_id: DeviceId) -> Response:
    """How one device does: its newest 1,000 runs and its latest heartbeat."""
    return await context.queries.answer(lambda db: _known(devices.device_stats(db, device_id), device_id))


@device_routes.post("/devices/{device_id}/drain", response_model=models.Changed, responses=NOT_THERE)
async def drain_device(context: Context, actor: Actor, device_id: DeviceId) -> Response:
    """Let a device finish what it runs and claim nothing more, until `resume` or its next start."""
    return await context.queries.answer(lambda _db: _set_draining(context.fleet, device_id, True, actor))


@device_routes.post("/devices/{device_id}/resume", response_model=models.Changed, responses=NOT_THERE)
async def resume_device(context: Context, actor: Actor, device_id: DeviceId) -> Response:
    """Let a draining device claim again."""
    return await context.queries.answer(lambda _db: _set_draining(context.fleet, device_id, False, actor))


@device_routes.delete(
    "/devices/{device_id}", response_model=models.Changed, responses=NOT_THERE | CONFLICT, dependencies=ADMIN
)
async def remove_device(context: Context, actor: Actor, device_id: DeviceId) -> Response:
    """Forget a device that is offline; 409 while it is online. Needs the role `admin`."""

    def remove(_db: Database) -> dict[str, Any]:
        context.fleet.remove_device(device_id, actor)
        return {"changed": True}

    return await context.queries.answer(remove)


def _known(value: Any, device_id: str) -> Any:
    if value is None:
        raise no_device(device_id)
    return value


def _set_draining(fleet: Fleet, device_id: str, draining: bool, actor: str) -> dict[str, Any]:
    fleet.set_draining(device_id, draining, actor)
    return {"changed": True}


# -- statistics


@statistics.get("/stats/overview", response_model=models.Overview)
@statistics.get("/system/overview", response_model=models.Overview)
async def system_overview(context: Context) -> Response:
    """Tasks and devices by state, and one sentence on how the fleet stands. `Age` says how many seconds old it is."""
    return await context.cache.answer("overview", lambda db: overview.overview(db, context.reports_of))


@statistics.get("/stats/performance/{device_id}", response_model=models.Performance)
async def performance(
    context: Context,
    device_id: DeviceId,
    hours: Annotated[int, Query(ge=1, le=168, description="so many hours back; heartbeats are kept for 7 days")] = 24,
) -> Response:
    """A device's heartbeats as a curve of about 120 points."""
    return await context.queries.answer(lambda db: devices.performance(db, device_id, hours))


# -- management


@management.get("/management/scheduler/status", response_model=models.SchedulerStatus)
async def scheduler_status(context: Context) -> Response:
    """Whether the queue is paused, and how many slots the devices have that claim."""
    return await context.queries.answer(overview.scheduler_status)


@management.post("/management/pause", response_model=models.Changed)
async def pause(context: Context, actor: Actor, why: bodies.Why) -> Response:
    """Let no device claim anything until `resume`; running tasks go on."""
    return await context.queries.answer(lambda _db: {"changed": context.fleet.set_paused(True, why.reason, actor)})


@management.post("/management/resume", response_model=models.Changed)
async def resume(context: Context, actor: Actor) -> Response:
    """Let devices claim again."""
    return await context.queries.answer(lambda _db: {"changed": context.fleet.set_paused(False, None, actor)})


@management.post("/management/rebalance", response_model=models.Rebalanced)
async def rebalance(context: Context, actor: Actor) -> Response:
    """Give tasks that wait at busy workers back to the queue, as many as idle workers could run now. A master does so
    by itself; tasks that have begun stay where they are."""
    return await context.queries.answer(lambda _db: {"tasks": context.fleet.rebalance(actor)})


@management.post("/management/cleanup", response_model=models.CleanedUp, dependencies=ADMIN)
async def clean_up(context: Context, actor: Actor, what: bodies.CleanUp) -> Response:
    """Delete heartbeats, and runs that ended, that are older than so many days: at most about 50,000 of each, so ask
    again until nothing is left. Nodes do it each hour by themselves. Needs the role `admin`."""
    return await context.queries.answer(lambda _db: context.fleet.clean_up(what.days, actor))


@management.get("/audit", response_model=models.Audit, dependencies=ADMIN)
async def audit(context: Context, limit: PageLimit = 50, before: Before = None) -> Response:
    """Who changed what, newest first. Needs the role `admin`."""
    return await context.queries.answer(lambda db: listed("audit", audit_page(db, limit, before)))
