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
import pickle
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CallRefused, ClusterUnreachable, UsageError
from crawlfleet.engines.asyncio_loop import AsyncioEngine
from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.engines.processes import logger_of
from crawlfleet.executors.outcome import clean, failed
from crawlfleet.executors.permit import RunPermit
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0  # how long a starting node tries to reach the scheduler
LOOK_SECONDS = 0.5  # between two looks at the connection, and at runs that wait for a worker
CANCEL_SECONDS = 10.0  # how long a worker may take to say that it has killed a body
PIECE_BYTES = 1024 * 1024  # of rows in one message
LONGEST_LEAVE_SECONDS = 3.0  # of a call without a budget


class Flight:
    """One run on its way: as one Dask task after another until its body has begun, then on one worker."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.key = ""
        self.worker: str | None = None  # where the body began
        self.words: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.rows: Spool | None = None
        self.rows_problem: str | None = None

    @property
    def began(self) -> bool:
        return self.worker is not None


class DaskEngine(AsyncioEngine):
    """As many bodies at once as there are slots and the cluster has threads; `interrupt` kills a body's process.

    `scheduler` is an address such as tcp://host:8786, or tls://... with the certificates of Dask's own configuration.
    `modules` are the executor modules that a worker imports, as the node did.
    """

    def __init__(self, slots: Slots, reports: Reports, scheduler: str, modules: Sequence[str]) -> None:
        super().__init__(slots, reports)
        self._scheduler = scheduler
        self._modules = tuple(modules)
        self._levels = {name: logging.getLogger(name).getEffectiveLevel() for name in ("", "crawlfleet")}
        self._session = uuid.uuid4().hex[:8]
        self._flights: dict[str, Flight] = {}
        self._by_run: dict[Run, Flight] = {}
        self._client: Client | None = None
        self._connection: object = None
        self._connected = asyncio.Event()
        self._tries = 0
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
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        except BaseException:
            self.stop()
            raise
        log.info("Dask cluster connected: scheduler=%s", self._scheduler)

    def stop(self) -> None:
        super().stop()
        self._permits.shutdown(wait=False, cancel_futures=True)

    # -- in the loop's thread: the connection

    async def _open(self) -> None:
        await self._connect()
        self._aside(self._watch())

    def _aside(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _connect(self) -> None:
        """Raises ClusterUnreachable, UsageError."""
        import dask.config
        from distributed import Client

        # A client keeps its last messages for a debugger, and tokens are among them.
        with dask.config.set({"distributed.admin.low-level-log-length": 0}):
            client = Client(
                self._scheduler, asynchronous=True, timeout=CONNECT_SECONDS, set_as_default=False, name="crawlfleet"
            )
            try:
                await client
            except (OSError, ImportError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ClusterUnreachable(f"Dask scheduler {self._scheduler} cannot be reached: {reason}") from None
            except (ValueError, TypeError, RuntimeError) as error:  # a kind of address, certificates that are missing
                await _close(client)
                raise UsageError(f"dask_scheduler {self._scheduler} cannot be used: {error}") from None
        try:
            await self._check(client)
        except BaseException:
            await _close(client)
            raise
        client.subscribe_topic(client.id, self._hear)
        self._client = client
        self._connection = client.scheduler_comm
        self._connected.set()

    async def _check(self, client: Client) -> None:
        """Raises UsageError when a side of the cluster does not fit."""
        from crawlfleet.engines.dask_worker import describe

        own = describe().versions
        try:
            sides = {"scheduler": await client.run_on_scheduler(describe)}
            workers = await client.run(describe, self._modules, on_error="return")
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"Dask scheduler {self._scheduler} lacks crawlfleet {own['crawlfleet']} ({error}): install the same "
                f"version on the scheduler and all workers"
            ) from None
        sides |= {f"worker {address}": each for address, each in workers.items()}
        for name, side in sides.items():
            problem = str(side) if isinstance(side, Exception) else side.problem
            if problem is not None:
                raise UsageError(f"Dask {name} cannot run tasks of this node: {problem}")
            for package, version in own.items():
                if side.versions[package] != version:
                    raise UsageError(
                        f"Dask {name} has {package} {side.versions[package]}, this node has {version}: "
                        f"install the same version on all sides"
                    )

    async def _watch(self) -> None:
        """See that the connection or a worker was lost; connect again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            client = self._client
            if client is None:
                await self._reconnect()
            elif client.status != "running" or client.scheduler_comm is not self._connection:
                log.warning("Dask scheduler away, waiting for it: scheduler=%s", self._scheduler)
                self._client = None
                self._connected.clear()
                for flight in self._flights.values():
                    flight.words.put_nowait({"word": "away"})
                await _close(client)
            elif any(flight.began for flight in self._flights.values()):
                await self._look_for_lost_workers(client)

    async def _reconnect(self) -> None:
        try:
            await self._connect()
        except (ClusterUnreachable, UsageError) as error:
            self._tries += 1
            if self._tries == 1 or isinstance(error, UsageError):
                log.warning("%s; trying again", error)
        else:
            self._tries = 0
            log.info("Dask scheduler back: scheduler=%s", self._scheduler)

    async def _look_for_lost_workers(self, client: Client) -> None:
        begun = [flight for flight in self._flights.values() if flight.began]  # a worker may join while we ask
        try:
            alive = await client.nthreads()
        except Exception as error:  # whatever it is, a broken connection is seen by `_watch`
            log.debug("Dask scheduler did not tell its workers: %s", error)
            return
        for flight in begun:
            if flight.worker not in alive:
                flight.words.put_nowait({"word": "lost"})

    def _hear(self, event: tuple[float, Any]) -> None:
        """An event from a worker."""
        from crawlfleet.engines.dask_worker import EVENT

        message = event[1]
        if isinstance(message, dict) and EVENT in message:
            flight = self._flights.get(message["key"])
            if flight is not None:
                flight.words.put_nowait({**message, "word": message[EVENT], "heard_at": time.monotonic()})

    async def _send(self, flight: Flight, function: Callable[..., Any], *arguments: Any, worker: str = "") -> Any:
        """What the function returns on the worker; None when the worker cannot be reached, which `_watch` sees, too."""
        address, client = worker or flight.worker, self._client
        if client is None:
            return None
        try:
            found = await client.run(function, flight.key, *arguments, workers=[address])
        except Exception as error:
            log.debug("Dask worker not reached: worker=%s reason=%s", address, error)
            return None
        return found.get(address)

    # -- in the loop's thread: runs

    def _admits(self, run: Run) -> bool:
        return not run.withdrawn  # it begins when a worker has a thread for it; until then it may be withdrawn

    async def _play(self, run: Run) -> None:
        flight = self._by_run[run] = Flight(run)
        try:
            outcome = await self._outcome(flight)
        finally:
            del self._by_run[run]
        if outcome is None:
            return
        if not flight.began:
            if not run.begin():
                return
            self._reports.began(run)
        run.ends_now()
        self._reports.ended(run, outcome)

    async def _outcome(self, flight: Flight) -> Outcome | None:
        """How the body ended; None when it was withdrawn before it began."""
        number = 0
        while not flight.run.withdrawn:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._connected.wait(), LOOK_SECONDS)
            client = self._client
            if client is None:
                continue
            number += 1
            run = flight.run
            flight.key = f"crawlfleet-{run.executor.name}-{self._session}-{run.assignment_id}-{number}"
            flight.words = asyncio.Queue()
            self._flights[flight.key] = flight
            try:
                outcome = await self._attempt(flight, client)
            finally:
                del self._flights[flight.key]
            if outcome is not None:
                return outcome
            await asyncio.sleep(LOOK_SECONDS)
        return None

    async def _attempt(self, flight: Flight, client: Client) -> Outcome | None:
        """One Dask task of the run; None when the run was withdrawn or may be tried once more."""
        from crawlfleet.engines.dask_worker import Letter, Parcel, perform

        run = flight.run
        try:
            letter = Letter(client.id, run.executor.name, run.context.bearing(), self._modules, self._levels)
            parcel = Parcel(pickle.dumps(letter))
        except Exception as error:  # no token here, or its context cannot be pickled
            return failed(error, run.context)
        try:
            future = client.submit(perform, parcel, key=flight.key, pure=False, retries=0)
        except Exception as error:  # it was closed just now
            log.debug("Dask task not submitted: key=%s reason=%s", flight.key, error)
            return None
        self._aside(_tell_end(future, flight.words))
        try:
            return await self._converse(flight)
        finally:
            if flight.rows is not None:
                flight.rows.close()
            if future.done():
                future.release()
            else:
                with contextlib.suppress(Exception):  # it was closed just now
                    await client.cancel([future], force=True)

    async def _converse(self, flight: Flight) -> Outcome | None:
        """Listen and answer until the body has ended."""
        from crawlfleet.engines.dask_worker import cancel

        run = flight.run
        give_up_at: float | None = None
        while give_up_at is None or time.monotonic() < give_up_at:
            try:
                said = await asyncio.wait_for(flight.words.get(), LOOK_SECONDS)
            except TimeoutError:
                if run.withdrawn:
                    return None
                continue
            word = said["word"]
            if word == "begin":
                if flight.began:  # Dask runs it again
                    return _crashed(flight, "was lost")
                if not self._begin(flight, said["worker"]):
                    return None
            elif word == "call":
                self._aside(self._give_leave(flight, said))
            elif word == "answered":
                run.context.after_answer()
            elif word == "log":
                _log(run, said)
            elif word == "rows":
                await self._fetch_rows(flight, said["rows"], said["size"])
            elif word == "cancel":
                if not flight.began:
                    return None
                give_up_at = time.monotonic() + CANCEL_SECONDS
                self._aside(self._send(flight, cancel))
            elif word == "ended":
                return _ended(flight, said)
            elif not flight.began:
                return None
            else:
                return _crashed(flight, "was lost" if word == "lost" else "was lost with its scheduler")
        return Outcome(EndingKind.CANCELLED, f"the run was cancelled; Dask worker {flight.worker} did not answer")

    def _begin(self, flight: Flight, worker: str) -> bool:
        """Let the body begin, unless the run was withdrawn or is to end."""
        from crawlfleet.engines.dask_worker import deliver

        begins = not self._stopping and flight.run.begin()
        if begins:
            flight.worker = worker
            self._reports.began(flight.run)
        self._aside(self._send(flight, deliver, begins, worker=worker))
        return begins

    async def _give_leave(self, flight: Flight, said: dict[str, Any]) -> None:
        """Answer a body that is about to call its source."""
        from crawlfleet.engines.dask_worker import deliver

        context = flight.run.context

        def take() -> tuple[bool | CallRefused, float]:
            try:
                allowed: bool | CallRefused = context.permit is None or context.permit.take(context.cancelled)
            except CallRefused as error:
                allowed = error
            return allowed, time.monotonic()

        try:
            allowed, taken_at = await self._loop.run_in_executor(self._permits, take)
        except RuntimeError:  # stopped
            return
        way = context.permit.way_seconds / 2 if isinstance(context.permit, RunPermit) else LONGEST_LEAVE_SECONDS
        # The worker's clock read `asked_at` before we heard it, so the leave ends there no later than meant here.
        until = said["asked_at"] + (taken_at - said["heard_at"]) + min(way, LONGEST_LEAVE_SECONDS)
        await self._send(flight, deliver, (allowed, until))

    async def _fetch_rows(self, flight: Flight, count: int, size: int) -> None:
        """Fetch the rows piece by piece into a file of this node."""
        from crawlfleet.engines.dask_worker import deliver, read_rows

        file: IO[bytes] = tempfile.TemporaryFile(prefix="crawlfleet-")  # noqa: SIM115  (open until close)
        flight.rows = Spool(file, count)
        try:
            fetched = 0
            while fetched < size:
                piece = await self._send(flight, read_rows, fetched, PIECE_BYTES)
                if not piece:
                    flight.rows_problem = f"Dask worker {flight.worker} did not hand over its rows"
                    break
                file.write(piece)
                fetched += len(piece)
        except OSError as error:  # the disk is full
            flight.rows_problem = f"the rows cannot be kept on this node: {error}"
        self._aside(self._send(flight, deliver, True))

    def _cancel(self, run: Run) -> None:
        flight = self._by_run.get(run)
        if flight is not None:
            flight.words.put_nowait({"word": "cancel"})

    def _stop(self) -> None:
        self._connected.set()
        for flight in self._by_run.values():
            flight.run.withdraw()
        super()._stop()

    async def _live(self) -> None:
        await super()._live()
        for task in self._asides:
            task.cancel()
        if self._client is not None:
            await _close(self._client)


async def _close(client: Client) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.close(), CANCEL_SECONDS)


async def _tell_end(future: Future[bytes | None], words: asyncio.Queue[dict[str, Any]]) -> None:
    try:
        words.put_nowait({"word": "ended", "result": await future})
    except BaseException as error:
        words.put_nowait({"word": "away"} if future.cancelled() else {"word": "ended", "error": error})


def _crashed(flight: Flight, how: str) -> Outcome:
    return Outcome(EndingKind.CRASHED, f"Dask worker {flight.worker} {how} while the body ran")


def _ended(flight: Flight, said: dict[str, Any]) -> Outcome | None:
    """What became of the Dask task."""
    error = said.get("error")
    if error is not None:
        message = clean(f"the Dask cluster failed the task: {type(error).__name__}: {error}", flight.run.context)
        return Outcome(EndingKind.CRASHED if flight.began else EndingKind.WAIT, message)
    if said.get("result") is None:  # cancelled, or refused by a worker that nobody answered
        return _crashed(flight, "was lost") if flight.began else None
    outcome: Outcome = pickle.loads(said["result"])
    if flight.rows is not None and outcome.kind == EndingKind.OK:
        if flight.rows_problem is not None:
            return Outcome(EndingKind.TRANSIENT, flight.rows_problem)
        outcome.rows, flight.rows = flight.rows, None
    return outcome


def _log(run: Run, said: dict[str, Any]) -> None:
    """Log a line of a body as if it had run here."""
    logger = logger_of(run, said["name"])
    if said["note"] or logger.isEnabledFor(said["level"]):
        record = logger.makeRecord(said["name"], said["level"], said["worker"], 0, said["text"], (), None)
        record.is_note = said["note"]
        logger.handle(record)
