"""Bodies on the workers of an existing Dask cluster, each in a process of its own there.

Dask finds a worker with a free thread; everything else stays with the node. A body begins only when the node says so,
once: a task that Dask runs a second time, because its worker was lost, is refused and its run ends as crashed, so the
gate decides about another one. Each call to a source is asked of the node, and rows come back in pieces.
While the scheduler is away, runs that have not begun wait, and the node goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import pickle
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crawlfleet.core.clock import SYSTEM_CLOCK
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CallRefused, UsageError, WaitError
from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.engines.dask.connection import ClusterConnection
from crawlfleet.engines.dask.messages import (
    AskBegin,
    AskLeave,
    CallAnswered,
    Interrupt,
    Leave,
    LeaveUnused,
    LogLine,
    Message,
    RowsReady,
    RunRequest,
    SchedulerLost,
    SealedRequest,
    TaskEnded,
    WorkerLost,
    from_event,
)
from crawlfleet.engines.dask.results import NotAResult, RowReader, read_outcome
from crawlfleet.engines.event_loop import LoopEngine
from crawlfleet.engines.processes import logger_of
from crawlfleet.engines.registry import EngineRequest, Engines
from crawlfleet.executors.outcome import clean, failed
from crawlfleet.executors.permit import RunPermit
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks at runs that wait for a worker
CANCEL_SECONDS = 10.0  # how long a worker may take to say that it has killed a body
PIECE_BYTES = 1024 * 1024  # of rows in one message
LONGEST_LEAVE_SECONDS = 3.0  # on its way to a worker; it is asked again for leave that was longer on its way


class RemoteRun:
    """One run on its way: as one Dask task after another until its body has begun, then on one worker."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.key = ""
        self.worker: str | None = None  # where the body began
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.rows: Spool | None = None
        self.rows_problem: str | None = None

    @property
    def began(self) -> bool:
        return self.worker is not None


class DaskEngine(LoopEngine):
    """As many bodies at once as there are slots and the cluster has threads; `interrupt` kills a body's process.

    `scheduler` is an address such as tcp://host:8786, or tls://... with the certificates of Dask's own configuration.
    `modules` are the executor modules that a worker imports, as the node did.
    """

    def __init__(self, slots: Slots, reports: Reports, scheduler: str, modules: Sequence[str]) -> None:
        super().__init__(slots, reports)
        self._modules = tuple(modules)
        self._levels = {name: logging.getLogger(name).getEffectiveLevel() for name in ("", "crawlfleet")}
        self._session = uuid.uuid4().hex[:8]
        self._by_key: dict[str, RemoteRun] = {}
        self._by_run: dict[Run, RemoteRun] = {}
        self._cluster = ClusterConnection(
            scheduler,
            modules,
            on_event=self._hear,
            on_scheduler_lost=self._lose_scheduler,
            on_workers_lost=self._lose_workers,
            workers_in_use=self._workers_in_use,
        )
        self._asides: set[asyncio.Task[None]] = set()  # the event loop itself would forget them
        self._permits = ThreadPoolExecutor(max(1, slots.count), thread_name_prefix="dask-permit")

    def start(self) -> None:
        """Connect; raises UsageError when Dask is not installed or the cluster does not fit, ClusterUnreachable."""
        try:
            import distributed  # noqa: F401  (half a second)
        except ImportError:
            raise UsageError("engine dask needs the package distributed: pip install 'crawlfleet[dask]'") from None
        for name in ("distributed", "distributed.client"):  # what they say in pages, this engine says in a line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        super().start()
        try:
            asyncio.run_coroutine_threadsafe(self._open(), self.loop).result()
        except BaseException:
            self.stop()
            raise
        log.info("Dask cluster connected: scheduler=%s", self._cluster.scheduler)

    def stop(self) -> None:
        super().stop()
        self._permits.shutdown(wait=False, cancel_futures=True)

    # -- in the loop's thread

    async def _open(self) -> None:
        await self._cluster.connect()
        self._aside(self._cluster.watch())

    def _aside(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _hear(self, event: tuple[float, Any]) -> None:
        """An event from a worker."""
        heard = from_event(event[1])
        remote = None if heard is None else self._by_key.get(heard[0])
        if heard is not None and remote is not None:
            message = heard[1]
            if isinstance(message, AskLeave):
                message = replace(message, heard_at=SYSTEM_CLOCK.monotonic())
            remote.inbox.put_nowait(message)

    def _lose_scheduler(self) -> None:
        for remote in self._by_key.values():
            remote.inbox.put_nowait(SchedulerLost())

    def _workers_in_use(self) -> frozenset[str]:
        return frozenset(remote.worker for remote in self._by_key.values() if remote.worker is not None)

    def _lose_workers(self, lost: frozenset[str]) -> None:
        for remote in self._by_key.values():
            if remote.worker in lost:
                remote.inbox.put_nowait(WorkerLost())

    async def _send(self, remote: RemoteRun, function: Callable[..., Any], *arguments: Any, worker: str = "") -> Any:
        return await self._cluster.run_on(worker or remote.worker or "", function, remote.key, *arguments)

    def admits(self, run: Run) -> bool:
        return not run.withdrawn  # it begins when a worker has a thread for it; until then it may be withdrawn

    async def play(self, run: Run) -> None:
        remote = self._by_run[run] = RemoteRun(run)
        try:
            outcome = await self._outcome(remote)
        finally:
            del self._by_run[run]
        if outcome is None:
            return
        if not remote.began:
            if not run.begin():
                return
            self.reports.began(run)
        run.ends_now()
        self.reports.ended(run, outcome)

    async def _outcome(self, remote: RemoteRun) -> Outcome | None:
        """How the body ended; None when it was withdrawn before it began."""
        number = 0
        while not remote.run.withdrawn:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._cluster.is_up.wait(), LOOK_SECONDS)
            client = self._cluster.client
            if client is None:
                continue
            number += 1
            run = remote.run
            remote.key = f"crawlfleet-{run.executor.name}-{self._session}-{run.assignment_id}-{number}"
            remote.inbox = asyncio.Queue()
            self._by_key[remote.key] = remote
            try:
                outcome = await self._attempt(remote, client)
            finally:
                del self._by_key[remote.key]
            if outcome is not None:
                return outcome
            await asyncio.sleep(LOOK_SECONDS)
        return None

    async def _attempt(self, remote: RemoteRun, client: Client) -> Outcome | None:
        """One Dask task of the run; None when the run was withdrawn or may be tried once more."""
        from crawlfleet.engines.dask.worker import VERSION, perform

        run = remote.run
        try:
            context = run.context.with_secrets()
            request = RunRequest(client.id, run.executor.name, context, self._modules, self._levels, VERSION)
            sealed = SealedRequest(pickle.dumps(request))
        except Exception as error:  # no token here, or its context cannot be pickled
            return failed(error, run.context)
        try:
            future = client.submit(perform, sealed, key=remote.key, pure=False, retries=0)
        except Exception as error:  # it was closed just now
            log.debug("Dask task not submitted: key=%s reason=%s", remote.key, error)
            return None
        self._aside(_tell_end(future, remote.inbox))
        try:
            return await self._converse(remote)
        finally:
            if remote.rows is not None:
                remote.rows.close()
            if future.done():
                future.release()
            else:
                with contextlib.suppress(Exception):  # it was closed just now
                    await client.cancel([future], force=True)

    async def _converse(self, remote: RemoteRun) -> Outcome | None:
        """Listen and answer until the body has ended."""
        from crawlfleet.engines.dask.worker import cancel

        run = remote.run
        give_up_at: float | None = None
        while give_up_at is None or time.monotonic() < give_up_at:
            try:
                message = await asyncio.wait_for(remote.inbox.get(), LOOK_SECONDS)
            except TimeoutError:
                if run.withdrawn:
                    return None
                continue
            match message:
                case AskBegin():
                    if remote.began:  # Dask runs it again
                        return _crashed(remote, "was lost")
                    if not self._begin(remote, message.worker):
                        return None
                case AskLeave():
                    self._aside(self._give_leave(remote, message))
                case LeaveUnused():
                    self._take_back_leave(remote)
                case CallAnswered():
                    run.context.after_answer()
                case LogLine():
                    _log(run, message)
                case RowsReady():
                    await self._fetch_rows(remote, message)
                case Interrupt():
                    if not remote.began:
                        return None
                    give_up_at = time.monotonic() + CANCEL_SECONDS
                    self._aside(self._send(remote, cancel))
                case TaskEnded():
                    return _ended(remote, message)
                case WorkerLost() | SchedulerLost() if not remote.began:
                    return None
                case WorkerLost():
                    return _crashed(remote, "was lost")
                case SchedulerLost():
                    return _crashed(remote, "was lost with its scheduler")
        return Outcome(EndingKind.CANCELLED, f"the run was cancelled; Dask worker {remote.worker} did not answer")

    def _begin(self, remote: RemoteRun, worker: str) -> bool:
        """Let the body begin, unless the run was withdrawn or is to end."""
        from crawlfleet.engines.dask.worker import deliver

        begins = not self.is_stopping and remote.run.begin()
        if begins:
            remote.worker = worker
            self.reports.began(remote.run)
        self._aside(self._send(remote, deliver, begins, worker=worker))
        return begins

    async def _give_leave(self, remote: RemoteRun, asked: AskLeave) -> None:
        """Answer a body that is about to call its source."""
        from crawlfleet.engines.dask.worker import deliver

        context = remote.run.context

        def take() -> tuple[bool | CallRefused, float]:
            try:
                allowed: bool | CallRefused = context.permit is None or context.permit.take(context.cancelled)
            except CallRefused as error:
                allowed = error
            until = context.permit.leave_until if isinstance(context.permit, RunPermit) else math.inf
            return allowed, min(until, SYSTEM_CLOCK.monotonic() + LONGEST_LEAVE_SECONDS)

        try:
            allowed, until = await self.loop.run_in_executor(self._permits, take)
        except RuntimeError:  # stopped
            return
        # The worker's clock read `asked_at` before we heard it, so the leave ends there no later than meant here.
        await self._send(remote, deliver, Leave(allowed, asked.asked_at + (until - asked.heard_at)))

    def _take_back_leave(self, remote: RemoteRun) -> None:
        """The body's call was counted as sent, and was not."""
        from crawlfleet.engines.dask.worker import deliver

        if isinstance(remote.run.context.permit, RunPermit):
            remote.run.context.permit.give_back()
        self._aside(self._send(remote, deliver, True))

    async def _fetch_rows(self, remote: RemoteRun, ready: RowsReady) -> None:
        """Fetch the rows piece by piece into a file of this node."""
        from crawlfleet.engines.dask.worker import deliver, read_rows

        remote.rows = spool = Spool()
        reader = RowReader()
        try:
            fetched = 0
            while fetched < ready.size:
                piece = await self._send(remote, read_rows, fetched, PIECE_BYTES)
                if not piece:
                    remote.rows_problem = f"Dask worker {remote.worker} did not hand over its rows"
                    break
                spool.append(reader.read(piece))
                fetched += len(piece)
            if len(spool) != ready.rows and remote.rows_problem is None:
                raise NotAResult(f"{len(spool)} rows instead of {ready.rows}")
        except NotAResult as error:
            remote.rows_problem = f"Dask worker {remote.worker} did not hand over its rows: {error}"
        except WaitError as error:  # no room
            remote.rows_problem = f"the rows cannot be kept on this node: {error}"
        self._aside(self._send(remote, deliver, True))

    def cancel(self, run: Run) -> None:
        remote = self._by_run.get(run)
        if remote is not None:
            remote.inbox.put_nowait(Interrupt())

    def prepare_stop(self) -> None:
        self._cluster.is_up.set()
        for remote in self._by_run.values():
            remote.run.withdraw()

    async def close(self) -> None:
        for task in self._asides:
            task.cancel()
        await self._cluster.close()


async def _tell_end(future: Future[bytes | None], inbox: asyncio.Queue[Message]) -> None:
    try:
        inbox.put_nowait(TaskEnded(await future))
    except BaseException as error:
        inbox.put_nowait(SchedulerLost() if future.cancelled() else TaskEnded(error=error))


def _crashed(remote: RemoteRun, how: str) -> Outcome:
    return Outcome(EndingKind.CRASHED, f"Dask worker {remote.worker} {how} while the body ran")


def _ended(remote: RemoteRun, ended: TaskEnded) -> Outcome | None:
    """What became of the Dask task."""
    if (error := ended.error) is not None:
        message = clean(f"the Dask cluster failed the task: {type(error).__name__}: {error}", remote.run.context)
        return Outcome(EndingKind.CRASHED if remote.began else EndingKind.WAIT, message)
    if ended.result is None:  # cancelled, or refused by a worker that nobody answered
        return _crashed(remote, "was lost") if remote.began else None
    try:
        outcome = read_outcome(ended.result)
    except NotAResult as error:
        return Outcome(EndingKind.CRASHED, f"Dask worker {remote.worker} did not hand over a result: {error}")
    if remote.rows is not None and outcome.kind == EndingKind.OK:
        if remote.rows_problem is not None:
            return Outcome(EndingKind.TRANSIENT, remote.rows_problem)
        outcome.rows, remote.rows = remote.rows, None
    return outcome


def _log(run: Run, line: LogLine) -> None:
    """Log a line of a body as if it had run here."""
    logger = logger_of(run, line.name)
    if line.is_note or logger.isEnabledFor(line.level):
        record = logger.makeRecord(line.name, line.level, line.worker, 0, line.text, (), None)
        record.is_note = line.is_note
        logger.handle(record)


def make(request: EngineRequest) -> Engines:
    """The entry point `dask`: one engine for all bodies."""
    assert request.address is not None, "the settings ask for it"
    engine = DaskEngine(request.slots, request.reports, request.address, request.modules)
    return Engines(engine, engine)
