"""The HTTP API of a node as an ASGI application: probes, metrics, and the fleet in numbers."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from crawlfleet import __version__
from crawlfleet.api.metrics import NodeMetrics
from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, DatabaseError
from crawlfleet.services import insights
from crawlfleet.services.node import Node

log = logging.getLogger(__name__)
T = TypeVar("T")

PREFIX = "/api/distribution"
OPEN_PATHS = frozenset({"/healthz"})  # what needs no token
QUESTIONS_AT_ONCE = 2  # threads at the database; more would only take the CPU from the node's own work
READY_SECONDS = 3.0  # patience of /readyz with the database


def make_app(node: Node, db: Database) -> FastAPI:
    """The application that serves `node`; `db` is the API's own pool, so no client can use up the node's."""
    token = node.settings.api_token
    app = FastAPI(title="crawlfleet", version=__version__, redoc_url=None)
    if token is not None:
        app.add_middleware(RequireToken, token=token)
        app.router.dependencies.append(Security(HTTPBearer(auto_error=False)))  # so that /openapi.json tells it
    app.add_exception_handler(DatabaseError, _database_error)
    app.add_exception_handler(Exception, _unexpected)
    desk = Desk(db)
    _add_probes(app, Readiness(node, db), NodeMetrics(node))
    app.include_router(_questions(desk))
    return app


class Desk:
    """Where questions to the database wait for a thread."""

    def __init__(self, db: Database, at_once: int = QUESTIONS_AT_ONCE) -> None:
        self._db = db
        self._limiter = CapacityLimiter(at_once)

    async def ask(self, question: Callable[[Database], T]) -> T:
        """The answer of `question(db)`, asked in a thread."""
        return await to_thread.run_sync(question, self._db, limiter=self._limiter)


class Readiness:
    """Whether this node can work. All who ask at once share one look at the database, which may hang."""

    def __init__(self, node: Node, db: Database) -> None:
        self._node = node
        self._desk = Desk(db, at_once=1)
        self._look: asyncio.Task[str | None] | None = None

    async def obstacle(self) -> str | None:
        """Why the node cannot work, or None."""
        if self._node.ending:
            return "the node is stopping"
        look = self._look
        if look is None or look.done():
            look = self._look = asyncio.create_task(self._desk.ask(self._find_obstacle))
        done, _ = await asyncio.wait({look}, timeout=READY_SECONDS)
        return look.result() if done else f"the database did not answer within {READY_SECONDS:g} s"

    def _find_obstacle(self, db: Database) -> str | None:
        manager = self._node.manager
        try:
            insights.check_lease(db, manager.device_id, manager.epoch)
        except CrawlfleetError as error:
            return str(error)
        except SQLAlchemyError as error:  # it answers, but not as ours would: a table is missing, say
            return f"the database refused the question: {type(error).__name__}"
        return None


def _add_probes(app: FastAPI, readiness: Readiness, metrics: NodeMetrics) -> None:
    @app.get("/healthz", tags=["probes"])
    async def healthz() -> dict[str, str]:
        """The process lives. Needs no token."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["probes"], responses={503: {"description": "It cannot work; `detail` says why"}})
    async def readyz() -> JSONResponse:
        """The database answers and the device holds its lease."""
        obstacle = await readiness.obstacle()
        if obstacle is not None:
            return JSONResponse({"status": "not ready", "detail": obstacle}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", tags=["probes"], response_class=Response)
    async def show_metrics() -> Response:
        """This node in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _questions(desk: Desk) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["fleet"])

    @router.get("/system/overview")
    async def system_overview() -> dict[str, Any]:
        """Tasks and devices by state, and one sentence on how the fleet stands."""
        return await desk.ask(insights.overview)

    @router.get("/tasks/stats")
    async def tasks_stats() -> dict[str, Any]:
        """How many tasks are in each state, their total, and the success rate of those that ended."""
        return await desk.ask(insights.task_stats)

    return router


async def _database_error(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed: method=%s path=%r", request.method, request.url.path, exc_info=error)
    return JSONResponse({"detail": "unexpected error: the node's log tells more"}, 500)


class RequireToken:
    """Lets a request pass that carries `Authorization: Bearer TOKEN`, or needs none."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        detail = "a token is needed: send the header Authorization: Bearer TOKEN with the node's api_token"
        refusal = JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)
