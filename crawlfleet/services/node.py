"""The composition root: the only module that names concrete engines and puts a node together."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from crawlfleet import __version__
from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.process import own_identity
from crawlfleet.core.system_metrics import capabilities, local_ip
from crawlfleet.core.wakeup import Wakeup
from crawlfleet.core.wording import counted
from crawlfleet.engines.contract import Engine, Reports, Slots
from crawlfleet.engines.registry import EngineRequest, Engines, make_engines
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.executors.permit import Permit
from crawlfleet.insights import overview
from crawlfleet.model.claims import Claim
from crawlfleet.model.device import DeviceInfo
from crawlfleet.model.next_move import RetryPolicy
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.planning.tariff import Tariff, all_source_settings
from crawlfleet.services import log_lines
from crawlfleet.services.device_manager import DeviceManager
from crawlfleet.services.dispatcher import Dispatcher
from crawlfleet.services.fleet_metrics_reader import FleetMetricsReader
from crawlfleet.services.inbox import Inbox
from crawlfleet.services.lease import Lease
from crawlfleet.services.queue_watcher import QueueWatcher
from crawlfleet.services.scheduler_options import LoadBalanceStrategy, SchedulerOptions
from crawlfleet.services.task_log_writer import TaskLogWriter
from crawlfleet.services.task_scheduler import TaskScheduler
from crawlfleet.services.vital_signs import VitalSigns
from crawlfleet.settings.definitions import Settings
from crawlfleet.sources.contract import SourceSettings

log = logging.getLogger(__name__)

LOGS_SECONDS = 3.0  # that storing the last log lines may take
IDLE_LOOK_SECONDS = 1.0  # how often a node that runs until idle asks whether it is
DEFAULT_PORT = Settings().port  # what a device registers when it listens on none


class Node:
    """One device: its registration, its scheduler and its engines. Ends on a signal, when idle, or when it must.

    `listener` is the socket on which others will serve this node's API: the device registers its port.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        executors: Mapping[str, Executor],
        until_idle: bool = False,
        takeover: bool = False,
        listener: socket.socket | None = None,
    ) -> None:
        assert settings.device_id is not None
        self.db = db
        self.settings = settings
        self.until_idle = until_idle
        self._takeover = takeover
        self.listener = listener
        self._executors = executors
        self._sources = all_source_settings(settings)
        tariff = Tariff(self._sources, lambda: executors)
        self._direct: set[str] = set()  # sources that were noticed to have no proxy
        self._ending = False
        self._wakeup = Wakeup()
        self._fatal: str | None = None
        self._started_at: datetime | None = None
        self._inbox = Inbox()
        self._engines = self._make_engines()
        self.logs = TaskLogWriter(db, settings.task_log_lines, settings.task_log_line_bytes)
        self._signs = VitalSigns(settings.enable_monitoring)
        options = scheduler_options(settings, tariff)
        self.lease = Lease(
            db,
            DeviceInfo(
                device_id=settings.device_id,
                device_name=settings.device_name,
                device_type=settings.mode,
                ip_address=local_ip(db.url.host),
                port=DEFAULT_PORT if listener is None else listener.getsockname()[1],
                max_concurrent_tasks=options.concurrent_tasks,
                process=own_identity(),
                version=__version__,
                capabilities=capabilities(executors, settings.labels, db.url.host, settings.heartbeat_interval),
            ),
            self._signs,
            settings.offline_timeout,
        )
        self.scheduler = TaskScheduler(
            db,
            lease=self.lease,
            inbox=self._inbox,
            executors=executors,
            engine_of=self._engine_of,
            make_context=self._make_context,
            options=options,
            on_fatal=self.end,
        )
        self.manager = DeviceManager(db, self.lease, settings, on_beat=self._inbox.request_reconcile, on_fatal=self.end)
        self.figures = FleetMetricsReader(db)
        strategy = LoadBalanceStrategy(settings.load_balance_strategy) if settings.mode == "master" else None
        self.dispatcher = None
        if strategy is not None:
            self.dispatcher = Dispatcher(db, self.lease, strategy, settings.dispatch_interval, tariff.limit_of)
        doer = self.dispatcher or self.scheduler
        self.watcher = QueueWatcher(db, doer.sees_work, lambda: doer.hungry, doer.queue_changed)
        log_lines.node_initialized(settings.mode, strategy)

    def _make_engines(self) -> Engines:
        settings = self.settings
        request = EngineRequest(
            Slots(settings.slots),
            Reports(self._inbox.run_began, self._inbox.run_ended),
            threads=settings.slots,
            processes=settings.effective_processes,
            modules=settings.executors,
            has_coroutines=any(executor.asynchronous for executor in self._executors.values()),
            address=settings.dask_scheduler,
        )
        return make_engines(settings.engine, request)

    def _engine_of(self, executor: Executor) -> Engine:
        return self._engines.coroutines if executor.asynchronous else self._engines.plain

    def _make_context(self, claim: Claim, permit: Permit | None) -> TaskContext:
        context = self._context_of(claim, permit)
        context.open_task_log = partial(self.logs.of_run, claim.task.id, claim.assignment_id)
        return context

    def _context_of(self, claim: Claim, permit: Permit | None) -> TaskContext:
        name = claim.task.source
        if name is None:
            return TaskContext(claim.task)
        source = self._sources.get(name, SourceSettings())
        account = None if claim.account is None else usable_account(claim.account, self.settings)
        if account is not None and self.settings.use_proxy and not (account.proxy or source.proxy):
            self._notice_direct(name)
        return TaskContext(claim.task, account, source, permit)

    def _notice_direct(self, source: str) -> None:
        if source not in self._direct:
            self._direct.add(source)
            log.warning("use_proxy is on, but no proxy is known for an account: source=%s goes direct", source)

    def start(self) -> None:
        """Register and start everything; raises DeviceRefused when the id is alive elsewhere.

        Engines come first: a device whose bodies cannot run anywhere must not appear in the fleet. Raises what they do.
        """
        with self.db.read() as reader:
            self._started_at = reader.now
        try:
            for engine in set(self._engines):
                engine.start()
            self.lease.register(self._takeover, self.settings.database_wait, lambda: self._ending)
            if not self._ending:
                self._start_services()
        except BaseException:
            if self.lease.epoch:
                self.stop()
            for engine in set(self._engines):
                engine.stop()
            raise

    def _start_services(self) -> None:
        self._signs.work = self.scheduler.report
        self.manager.start()
        log_lines.device_manager_started()
        self.logs.start()
        self.scheduler.start()
        log_lines.task_scheduler_started(self.settings.mode)
        if self.dispatcher is not None:
            self.dispatcher.start()
        self.watcher.start()

    def end(self, reason: str | None = None) -> None:
        """Make `wait` return; with a reason the node ends because it must, exit code 1."""
        if reason is not None and self._fatal is None:
            self._fatal = reason
            log.error("node ends: %s", reason)
        self._ending = True
        self._wakeup.wake()

    @property
    def ending(self) -> bool:
        """True once the node was told to end."""
        return self._ending

    def wait(self) -> int:
        """Wait for the end, stop gracefully, and return the exit code."""
        code = 0
        while not self._ending:
            if not self.until_idle:
                self._wakeup.wait()
            elif self._idle.wait(IDLE_LOOK_SECONDS) and not self._ending:
                finished = self._idle_exit_code()
                if finished is not None:
                    code, self._ending = finished, True
                else:
                    self._wakeup.wait(IDLE_LOOK_SECONDS)
        is_gone = self.db.is_gone
        self.stop()
        if is_gone:
            return DatabaseUnreachable.exit_code
        return 1 if self._fatal is not None else code

    def stop(self) -> None:
        """The graceful stop: no new tasks, running ones end or go back, then the device leaves the fleet."""
        for service in (self.figures, self.watcher, self.dispatcher):
            if service is not None:
                service.stop()
        if self.dispatcher is not None:
            self.dispatcher.join(5)
        self.scheduler.drain(0.0 if self.db.is_gone else self.settings.shutdown_grace)
        for engine in set(self._engines):
            engine.stop()
        self.logs.stop()
        self.logs.join(LOGS_SECONDS)
        self.manager.stop()
        self.watcher.join(5)
        self.db.close()

    @property
    def _idle(self) -> threading.Event:
        return (self.dispatcher or self.scheduler).idle

    def _idle_exit_code(self) -> int | None:
        """None while something is left that can run by itself."""
        try:
            left = overview.backlog(self.db)
            if left.open_tasks:
                self._idle.clear()
                return None
            assert self._started_at is not None
            failed = overview.failed_since(self.db, self._started_at)
        except DatabaseUnreachable:
            return None
        for line in left.blocked:
            log.warning("waits for a person: %s", line)
        if failed:
            log.warning("nothing is left to do; %s failed", counted(failed, "task"))
        return 1 if failed or left.blocked else 0


def scheduler_options(settings: Settings, tariff: Tariff) -> SchedulerOptions:
    """The scheduler's share of the settings."""
    return SchedulerOptions(
        concurrent_tasks=0 if settings.mode == "master" else settings.slots,
        schedule_interval=settings.schedule_interval,
        dispatch_interval=settings.dispatch_interval,
        heartbeat_interval=settings.heartbeat_interval,
        retry=RetryPolicy(settings.retry_delay_seconds),
        defaults=TaskDefaults(settings.execution_timeout, settings.max_retry, tariff.cost_of),
        limit_of=tariff.limit_of,
        mode=settings.mode,
        claim_without_master=settings.claim_without_master,
        labels=settings.labels,
        usable=partial(usable_account, settings=settings),
    )


def usable_account(account: Account, settings: Settings) -> Account:
    """The account as this node uses it: within the node's reach, and with its proxy only if proxies are used at all."""
    proxy = account.proxy if settings.use_proxy else None
    return replace(account, proxy=proxy, reach=settings.reach)
