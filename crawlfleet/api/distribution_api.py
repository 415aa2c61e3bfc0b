"""Making the services of a node: tables first, then scheduler and device manager, and at last its API."""

from __future__ import annotations

import logging
import os

from sqlalchemy.exc import SQLAlchemyError

from crawlfleet.api.listener import open_listener
from crawlfleet.api.server import ApiServer
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseError
from crawlfleet.doctor.exposures import exposures
from crawlfleet.executors.registry import executors as all_executors
from crawlfleet.model import migrations
from crawlfleet.model.api_token import ApiTokenDAO
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import DeviceHeartbeatDAO
from crawlfleet.model.task_assignment import TaskAssignmentDAO
from crawlfleet.planning.tariff import Tariff, all_source_settings
from crawlfleet.services.node import Node
from crawlfleet.settings.definitions import Settings
from crawlfleet.settings.layers import load_settings, require_device_id

log = logging.getLogger(__name__)


def init_distribution_services(
    mode: str = "standalone",
    device_id: str | None = None,
    settings: Settings | None = None,
    until_idle: bool = False,
    takeover: bool = False,
) -> Node:
    """A node with its tables, a TaskScheduler and a DeviceManager for the device id; not started yet.

    Without `settings` they come from the environment; `mode` and `device_id` only count then.
    Raises UsageError for a broken executor module, for settings that a source cannot use and for an address on which
    the API may not or cannot listen, before anything is touched; DatabaseUnreachable after `settings.database_wait`
    seconds, DatabaseRefused for a database that this program must not use.
    """
    if settings is None:
        settings = load_settings(overrides={"mode": mode, "device_id": device_id})
        require_device_id(settings)
    executors = all_executors(settings.executors)
    Tariff(all_source_settings(settings), lambda: executors).check()
    listener = open_listener(settings, lambda: _has_tokens(settings))
    try:
        db = Database(settings.database_url).open(settings.database_wait)
        for text, advice in exposures(settings):
            log.warning("%s: %s", text, advice)
        migrations.upgrade(db)
        for dao in (DeviceDAO(db), TaskAssignmentDAO(db), DeviceHeartbeatDAO(db), CrawlTaskDAO(db)):
            dao.init_table()
        return Node(db, settings, executors, until_idle, takeover, listener)
    except BaseException:
        if listener is not None:
            listener.close()
        raise


def _has_tokens(settings: Settings) -> bool:
    """Whether the database has tokens of the API; nothing is made there, and one that cannot be used has none."""
    db = Database(settings.database_url, pool_size=1)
    if db.family == "sqlite" and not os.path.exists(db.url.database or ""):
        return False
    try:
        db.open(settings.database_wait)
        return migrations.current(db) is not None and bool(ApiTokenDAO(db).find())
    except (DatabaseError, SQLAlchemyError):  # a table of an older version is missing, say
        return False
    finally:
        db.close()


def start_distribution_services(node: Node) -> ApiServer | None:
    """Register the device, start all threads, and wait until the API is served.

    Returns the server, to be stopped after the node; None for a node without one. Tasks are claimed before the API
    is there. Raises DeviceRefused when the id is alive elsewhere.
    """
    try:
        node.start()
    except BaseException:
        if node.listener is not None:
            node.listener.close()
        raise
    log.info("Distribution services started")
    if node.listener is None:
        return None
    server = ApiServer(node, node.listener)
    try:
        server.start()
    except BaseException:
        node.stop()
        raise
    if server.wait_until_serving():
        log.info("HTTP API available at %s", server.url)
        log.info("API documentation available at %s/docs", server.url)
    return server
