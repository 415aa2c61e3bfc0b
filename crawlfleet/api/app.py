"""The HTTP API of a node as an ASGI application: probes, metrics, the fleet, and its events."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Request, Response, Security
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from crawlfleet import __version__
from crawlfleet.api import routes_data, routes_fleet, routes_tasks, routes_who
from crawlfleet.api.docs_page import add_docs
from crawlfleet.api.guard import Guard, Keys, still_may_read
from crawlfleet.api.metrics import NodeMetrics
from crawlfleet.api.parameters import PREFIX, PROBLEMS
from crawlfleet.api.query_runner import QueryRunner, RouteContext
from crawlfleet.api.refusals import MAX_BODY_BYTES, add_handlers, told
from crawlfleet.api.strangers import Strangers
from crawlfleet.api.stream import EventStream
from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, DatabaseError
from crawlfleet.core.hosts import is_loopback
from crawlfleet.insights import devices
from crawlfleet.services.node import Node

log = logging.getLogger(__name__)

READY_SECONDS = 3.0  # patience of /readyz with the database
ABOUT = """
The fleet behind this node: what it does, why, and what it should do. docs/api.md tells more.

Errors are `{"error": code, "detail": sentence}`. Moments are UTC. Lists come in pages: give `next` of a page as
`before` (or `after`) to get the one behind it. Reading needs a token of the role `read`, changing `operate`, what
cannot be undone `admin`.
"""


def make_app(node: Node, db: Database) -> FastAPI:
    """The application that serves `node`; `db` is the API's own pool, so no client can use up the node's."""
    settings = node.settings
    app = FastAPI(
        title="crawlfleet",
        version=__version__,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        dependencies=[Security(HTTPBearer(auto_error=False))],  # so that /openapi.json tells it; the guard looks
    )
    app.state.context = RouteContext(settings, db)
    is_reachable = node.listener is not None and not is_loopback(node.listener.getsockname()[0])
    strangers = Strangers()
    app.add_middleware(
        Guard,
        keys=Keys(db, settings.api_token, demanded=is_reachable),
        strangers=strangers,
        is_tls=settings.tls_certificate is not None,
    )
    add_handlers(app)
    add_docs(app)
    _add_probes(app, Readiness(node, db), NodeMetrics(node, strangers.counts))
    for router in (
        routes_tasks.router,
        routes_fleet.device_routes,
        routes_fleet.statistics,
        routes_fleet.management,
        routes_who.router,
        routes_data.accounts,
        routes_data.data,
        _events(EventStream(db, lambda: node.ending)),
    ):
        app.include_router(router, prefix=PREFIX, max_body_size=MAX_BODY_BYTES)
    return app


class Readiness:
    """Whether this node can work. All who ask at once share one look at the database, which may hang."""

    def __init__(self, node: Node, db: Database) -> None:
        self._node = node
        self._queries = QueryRunner(db, at_once=1)
        self._look: asyncio.Task[str | None] | None = None

    async def obstacle(self) -> str | None:
        """Why the node cannot work, or None."""
        if self._node.ending:
            return "the node is stopping"
        look = self._look
        if look is None or look.done():
            look = self._look = asyncio.create_task(self._queries.ask(self._find_obstacle))
        done, _ = await asyncio.wait({look}, timeout=READY_SECONDS)
        return look.result() if done else f"the database did not answer within {READY_SECONDS:g} s"

    def _find_obstacle(self, db: Database) -> str | None:
        lease = self._node.lease
        try:
            devices.check_lease(db, lease.device_id, lease.epoch)
        except DatabaseError as error:
            return told(error)
        except CrawlfleetError as error:
            return str(error)
        except SQLAlchemyError as error:  # it answers, but not as ours would: a table is missing, say
            return f"the database refused the question: {type(error).__name__}"
        return self._node.scheduler.obstacle


def _add_probes(app: FastAPI, readiness: Readiness, metrics: NodeMetrics) -> None:
    @app.get("/healthz", tags=["probes"])
    async def healthz() -> dict[str, str]:
        """The process lives. Needs no token."""
        return {"status": "ok"}

    @app.get(
        "/readyz",
        tags=["probes"],
        responses={503: {"description": "It cannot work; `detail` says why"}},
        response_model=dict[str, str],
    )
    async def readyz() -> JSONResponse:
        """The database answers and takes this node's work, and the device holds its lease."""
        obstacle = await readiness.obstacle()
        if obstacle is not None:
            return JSONResponse({"status": "not ready", "detail": obstacle}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", tags=["probes"], response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """This node in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _events(stream: EventStream) -> APIRouter:
    router = APIRouter(tags=["events"], responses=PROBLEMS)

    @router.get("/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
    async def events(
        request: Request,
        last_event_id: Annotated[str | None, Header(max_length=64, description="go on behind this event")] = None,
    ) -> Response:
        """Server-sent events: `run` (a run was assigned, began or ended), `task` (cancelled or revived by a person),
        `added` (tasks were added), `device`, `queue` (paused or open), and `missed` (read the lists anew). An event
        may come twice. At most 20 clients; one that is too slow is cut off."""
        return stream.answer(last_event_id, lambda: still_may_read(request))

    return router
