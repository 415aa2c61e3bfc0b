"""What runs on a worker of a Dask cluster: a body in a process of its own, in touch with the node it belongs to.

A process, because it can be killed, and because a body that crashes must not take the worker and everybody else's
work with it. Messages to the node are events of its Dask client, those from the node arrive by `deliver`; so
everything passes through connections that Dask has anyway. Nothing here is imported before a node uses the cluster.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

from crawlfleet.core.clock import SYSTEM_CLOCK
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CallRefused, UsageError, WaitError
from crawlfleet.core.logs import redact
from crawlfleet.engines.dask.messages import (
    AskBegin,
    AskLeave,
    CallAnswered,
    FromWorker,
    Leave,
    LeaveUnused,
    LogLine,
    RowsReady,
    RunRequest,
    SealedRequest,
    as_event,
)
from crawlfleet.engines.dask.results import outcome_text, row_lines
from crawlfleet.engines.processes import Worker, WorkerDied
from crawlfleet.executors.contract import TaskContext
from crawlfleet.executors.outcome import clean, failed
from crawlfleet.executors.registry import executors
from crawlfleet.executors.run_log import is_note
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome

VERSION: str = import_module("crawlfleet").__version__
LOOK_SECONDS = 1.0  # between two looks whether the node still waits for a body
IDLE_SECONDS = 60.0  # how long a process waits for the next body
LEAVE_TRIES = 5  # for one call
LEAVE_PAUSE_SECONDS = 30.0  # of a task whose calls got no leave in time

_lock = threading.Lock()
_bodies: dict[str, RemoteBody] = {}  # the bodies of this worker, by the key of their Dask task
_idle: list[tuple[float, str, Worker]] = []  # since when, and for which modules and log levels
_watcher: threading.Thread | None = None
_problems: dict[tuple[str, ...], str | None] = {}


@dataclass(frozen=True)
class Description:
    """What must be equal on all sides, and what is wrong with this one."""

    versions: Mapping[str, str]
    problem: str | None = None


def describe(modules: Sequence[str] = ()) -> Description:
    """The versions here, and whether the executors' modules can be loaded."""
    import distributed

    python = ".".join(platform.python_version_tuple()[:2])
    versions = {"crawlfleet": VERSION, "python": python, "distributed": distributed.__version__}
    if tuple(modules) not in _problems:
        _problems[tuple(modules)] = _problem_with(modules)
    return Description(versions, _problems[tuple(modules)])


def _problem_with(modules: Sequence[str]) -> str | None:
    if os.name != "posix":
        return "it needs Linux, macOS or another POSIX system"
    try:
        executors(modules)
    except UsageError as error:
        return str(error)
    return None


class RemoteBody:
    """One body on this worker, and its end of the conversation with the node; also the permit of the body's calls."""

    def __init__(self, dask_worker: Any, key: str, request: RunRequest) -> None:
        self._dask_worker = dask_worker
        self._key = key
        self._request = request
        self._replies: SimpleQueue[Any] = SimpleQueue()
        self._process: Worker | None = None
        self.cancelled = threading.Event()
        self.spool: Spool | None = None

    def tell(self, message: FromWorker) -> None:
        """Send the node a message."""
        self._dask_worker.log_event(self._request.topic, as_event(message, self._key))

    def ask(self, message: FromWorker) -> Any:
        """Send the node a message and wait for its reply; None when nobody waits for this body any more."""
        self.tell(message)
        while not self.cancelled.is_set():
            try:
                return self._replies.get(timeout=LOOK_SECONDS)
            except Empty:
                pass
        return None

    def reply(self, message: Any) -> None:
        self._replies.put(message)

    def cancel(self) -> None:
        """End the body by killing its process."""
        self.cancelled.set()
        with _lock:
            if self._process is not None:
                self._process.kill()

    @property
    def wanted(self) -> bool:
        """False once the scheduler took the task back, as when the node was lost."""
        state = self._dask_worker.state.tasks.get(self._key)
        return state is not None and state.state in {"executing", "long-running"}

    def take(self, _cancelled: threading.Event) -> bool:
        """Ask the node for leave to call the source; see `executors.permit.Permit`.

        The node counts a call as sent when it gives leave, so leave that was long on its way is not used: it holds
        until a moment of this worker's clock, which the node reckons from the moment that the question bears. The call
        is given back then, and leave is asked for again.
        """
        for _ in range(LEAVE_TRIES):
            leave: Leave | None = self.ask(AskLeave(SYSTEM_CLOCK.monotonic()))
            if leave is None:
                return False
            if isinstance(leave.allowed, CallRefused):
                raise leave.allowed
            if not leave.allowed or SYSTEM_CLOCK.monotonic() <= leave.until:
                return leave.allowed
            if not self.ask(LeaveUnused()):
                return False
        raise CallRefused(
            f"the node's leave for a call took too long to reach the Dask worker, {LEAVE_TRIES} times in a row:"
            " nothing was sent",
            retry_after=LEAVE_PAUSE_SECONDS,
        )

    def answered(self) -> None:
        self.tell(CallAnswered())

    def log(self, record: logging.LogRecord) -> None:
        """Let the node log a line, without its secrets already here."""
        text = redact(record.getMessage())
        for secret in self._request.context.secrets():
            text = text.replace(secret, "***")
        self.tell(LogLine(self._dask_worker.address, record.name, record.levelno, text, is_note(record)))

    def perform(self) -> Outcome:
        """Run the body in a process."""
        context = self._request.context
        context.permit = self
        kind = repr((self._request.modules, self._request.levels))
        try:
            process = _idle_process(kind) or Worker(self._request.modules, self._request.levels)
        except OSError as error:  # the system gives no more processes
            return failed(error, context)
        with _lock:
            self._process = process
        try:
            if self.cancelled.is_set():
                raise WorkerDied
            outcome = process.perform(self._request.executor, context, lambda: None, self.log)
        except WorkerDied:
            outcome = None
        with _lock:
            self._process = None
            if outcome is not None and process.usable:
                _idle.append((time.monotonic(), kind, process))
                return outcome
        ending = process.end()
        if outcome is not None:
            return outcome
        if self.cancelled.is_set():
            return Outcome(EndingKind.CANCELLED, "the run was cancelled and its process on the Dask worker killed")
        return Outcome(EndingKind.CRASHED, f"the process on the Dask worker {ending}")

    @property
    def context(self) -> TaskContext:
        return self._request.context

    def hand_over(self, spool: Spool, count: int) -> None:
        """Keep the lines of so many rows until the node has fetched them."""
        self.spool = spool
        size = os.fstat(spool.fileno()).st_size
        try:
            self.ask(RowsReady(count, size))
        finally:
            self.spool = None
            spool.close()


def perform(sealed: SealedRequest) -> bytes | None:
    """The Dask task of one run: its outcome as JSON, without the rows of a spool; None when it must not begin."""
    from distributed import get_worker

    request: RunRequest = pickle.loads(sealed.content)
    dask_worker = get_worker()
    problem = describe(request.modules).problem
    if request.version != VERSION:
        problem = f"it has crawlfleet {VERSION}, the node {request.version}"
    if problem is not None:
        return outcome_text(Outcome(EndingKind.WAIT, f"Dask worker {dask_worker.address} cannot run it: {problem}"))
    key = dask_worker.get_current_task()
    body = RemoteBody(dask_worker, key, request)
    with _lock:
        _bodies[key] = body
    _watch()
    try:
        if not body.ask(AskBegin(dask_worker.address)):
            return None
        outcome = body.perform()
        if isinstance(outcome.rows, Spool):
            spool, outcome.rows = outcome.rows, ()
            outcome = _hand_over(body, spool, outcome)
        return _as_text(outcome, request.context)
    finally:
        with _lock:
            del _bodies[key]


def _hand_over(body: RemoteBody, rows: Spool, outcome: Outcome) -> Outcome:
    """Keep the rows until the node has fetched them; the outcome, another when they cannot be sent."""
    try:
        lines = Spool()
        count = len(rows)
        try:
            for batch in rows.batches():
                lines.add_bytes(row_lines(batch))
        except BaseException:
            lines.close()
            raise
        finally:
            rows.close()
    except Exception as error:  # no room, or a value that cannot be sent
        return _not_sent(error, body.context)
    body.hand_over(lines, count)
    return outcome


def _as_text(outcome: Outcome, context: TaskContext) -> bytes:
    try:
        return outcome_text(outcome)
    except Exception as error:  # a value may raise what it likes
        return outcome_text(_not_sent(error, context))


def _not_sent(error: Exception, context: TaskContext) -> Outcome:
    if isinstance(error, WaitError):
        return failed(error, context)
    return Outcome(EndingKind.PERMANENT, clean(f"the result cannot be sent to the node: {error}", context))


# -- called by the node, in the event loop of the worker


def deliver(key: str, message: Any) -> None:
    """Hand the node's reply to a body."""
    body = _bodies.get(key)
    if body is not None:
        body.reply(message)


def cancel(key: str) -> None:
    """End a body."""
    body = _bodies.get(key)
    if body is not None:
        body.cancel()


def read_rows(key: str, offset: int, size: int) -> bytes:
    """A piece of the rows that a body left; empty when they are gone."""
    body = _bodies.get(key)
    spool = None if body is None else body.spool
    return b"" if spool is None else os.pread(spool.fileno(), size, offset)


# -- processes without a body, and bodies without a node


def _idle_process(kind: str) -> Worker | None:
    with _lock:
        for position in range(len(_idle) - 1, -1, -1):
            if _idle[position][1] == kind:
                return _idle.pop(position)[2]
    return None


def _watch() -> None:
    global _watcher
    with _lock:
        if _watcher is None:
            _watcher = threading.Thread(target=_look_now_and_then, name="crawlfleet-watch", daemon=True)
            _watcher.start()


def _look_now_and_then() -> None:
    """End bodies that nobody waits for, and processes that nobody needs; leave when nothing is left."""
    global _watcher
    pause = threading.Event()
    while True:
        pause.wait(LOOK_SECONDS)
        with _lock:
            bodys = list(_bodies.values())
            rested = [each for each in _idle if time.monotonic() - each[0] > IDLE_SECONDS]
            _idle[:] = [each for each in _idle if each not in rested]
            finished = not (bodys or _idle)
            if finished:
                _watcher = None
        for body in bodys:
            if not body.wanted:
                body.cancel()
        for _, _, process in rested:
            process.end()
        if finished:
            return
