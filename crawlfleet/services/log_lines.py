"""The wording of what a node's services tell its log, in one place, so that it is tested like code.

Each line goes to the logger of the service that it is about; scripts know the lines of a start by logger, wording and
order.
"""

from __future__ import annotations

import logging

_scheduler = logging.getLogger("crawlfleet.services.task_scheduler")
_manager = logging.getLogger("crawlfleet.services.device_manager")
_dispatcher = logging.getLogger("crawlfleet.services.dispatcher")


def node_initialized(mode: str, strategy: str | None) -> None:
    """All services of a node are made; a master has a strategy."""
    _scheduler.info("TaskScheduler initialized in %s mode", mode)
    _manager.info("DeviceManager initialized")
    if strategy is not None:
        _dispatcher.info("Load balance strategy: %s", strategy)


def device_manager_started() -> None:
    """The device is registered (`model.device` tells that), and it beats."""
    _manager.info("DeviceManager started")


def task_scheduler_started(mode: str) -> None:
    """Tasks are claimed from now on."""
    _scheduler.info("TaskScheduler started in %s mode", mode)
