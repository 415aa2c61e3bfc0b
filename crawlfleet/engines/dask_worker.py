"""What runs on a worker of a Dask cluster: a body in a process of its own, in touch with the node it belongs to.

A process, because it can be killed, and because a body that crashes must not take the worker and everybody else's
work with it. Words to the node are events of its Dask client, words from the node arrive by `deliver`; so everything
passes through connections that Dask has anyway. Nothing here is imported before a node uses the cluster.
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

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CallRefused, UsageError
from crawlfleet.core.logs import redact
from crawlfleet.engines.processes import Worker, WorkerDied
from crawlfleet.executors.contract import TaskContext
from crawlfleet.executors.outcome import clean, failed
from crawlfleet.executors.registry import executors
from crawlfleet.executors.run_log import is_note
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome

VERSION: str = import_module("crawlfleet").__version__
EVENT = "crawlfleet"  # the key that marks our events among Dask's own
LOOK_SECONDS = 1.0  # between two looks whether the node still waits for a body
IDLE_SECONDS = 60.0  # how long a process waits for the next body

_lock = threading.Lock()
_seats: dict[str, Seat] = {}  # the bodies of this worker, by the key of their Dask task
_idle: list[tuple[float, str, Worker]] = []  # since when, and for which modules and log levels
_watcher: threading.Thread | None = None
_problems: dict[tuple[str, ...], str | None] = {}


@dataclass(frozen=True)
class Parcel:
    """A pickled `Letter`. It may hold a token, and Dask prints the arguments of its tasks: this prints nothing."""

    content: bytes

    def __repr__(self) -> str:
        return "Parcel(...)"


@dataclass(frozen=True)
class Letter:
    """A body to run, and how to reach its node: `topic` is the id of its Dask client."""

    topic: str
    executor: str
    context: TaskContext
    modules: Sequence[str]
    levels: Mapping[str, int]
    version: str = VERSION


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


class Seat:
    """One body on this worker, and its end of the conversation with the node; also the permit of the body's calls."""

    def __init__(self, dask_worker: Any, key: str, letter: Letter) -> None:
        self._dask_worker = dask_worker
        self._key = key
        self._letter = letter
        self._replies: SimpleQueue[Any] = SimpleQueue()
        self._process: Worker | None = None
        self.cancelled = threading.Event()
        self.spool: Spool | None = None

    def tell(self, word: str, **more: Any) -> None:
        """Send an event to the node; values are text, numbers and the like."""
        message = {EVENT: word, "key": self._key, "worker": self._dask_worker.address, **more}
        self._dask_worker.log_event(self._letter.topic, message)

    def ask(self, word: str, **more: Any) -> Any:
        """Send an event and wait for the node's reply; None when nobody waits for this body any more."""
        self.tell(word, **more)
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
        until a moment of this worker's clock, which the node reckons from the moment that the question bears.
        """
        leave = self.ask("call", asked_at=time.monotonic())
        if leave is None:
            return False
        allowed, until = leave
        if isinstance(allowed, CallRefused):
            raise allowed
        if allowed and time.monotonic() > until:
            raise CallRefused("the node's leave for a call took too long to reach the Dask worker")
        return bool(allowed)

    def answered(self) -> None:
        self.tell("answered")

    def log(self, record: logging.LogRecord) -> None:
        """Let the node log a line, without its secrets already here."""
        text = redact(record.getMessage())
        for secret in self._letter.context.secrets():
            text = text.replace(secret, "***")
        self.tell("log", name=record.name, level=record.levelno, text=text, note=is_note(record))

    def perform(self) -> Outcome:
        """Run the body in a process."""
        context = self._letter.context
        context.permit = self
        kind = repr((self._letter.modules, self._letter.levels))
        try:
            process = _idle_process(kind) or Worker(self._letter.modules, self._letter.levels)
        except OSError as error:  # the system gives no more processes
            return failed(error, context)
        with _lock:
            self._process = process
        try:
            if self.cancelled.is_set():
                raise WorkerDied
            outcome = process.perform(self._letter.executor, context, lambda: None, self.log)
        except WorkerDied:
            outcome = None
        with _lock:
            self._process = None
            if outcome is not None and process.usable:
                _idle.append((time.monotonic(), kind, process))
                return outcome
        ending = process.bury()
        if outcome is not None:
            return outcome
        if self.cancelled.is_set():
            return Outcome(EndingKind.CANCELLED, "the run was cancelled and its process on the Dask worker killed")
        return Outcome(EndingKind.CRASHED, f"the process on the Dask worker {ending}")

    def hand_over(self, spool: Spool) -> None:
        """Keep the rows until the node has fetched them."""
        self.spool = spool
        size = os.fstat(spool.fileno()).st_size
        try:
            self.ask("rows", rows=len(spool), size=size)
        finally:
            self.spool = None
            spool.close()


def perform(parcel: Parcel) -> bytes | None:
    """The Dask task of one run: its pickled outcome without the rows of a spool, None when it must not begin."""
    from distributed import get_worker

    letter: Letter = pickle.loads(parcel.content)
    dask_worker = get_worker()
    problem = describe(letter.modules).problem
    if letter.version != VERSION:
        problem = f"it has crawlfleet {VERSION}, the node {letter.version}"
    if problem is not None:
        return pickle.dumps(Outcome(EndingKind.WAIT, f"Dask worker {dask_worker.address} cannot run it: {problem}"))
    key = dask_worker.get_current_task()
    seat = Seat(dask_worker, key, letter)
    with _lock:
        _seats[key] = seat
    _watch()
    try:
        if not seat.ask("begin"):
            return None
        outcome = seat.perform()
        if isinstance(outcome.rows, Spool):
            spool, outcome.rows = outcome.rows, ()
            seat.hand_over(spool)
        return _pickled(outcome, letter.context)
    finally:
        with _lock:
            del _seats[key]


def _pickled(outcome: Outcome, context: TaskContext) -> bytes:
    try:
        return pickle.dumps(outcome)
    except Exception as error:  # pickle raises whatever a value raises
        message = clean(f"the result cannot be sent to the node: {error}", context)
        return pickle.dumps(Outcome(EndingKind.PERMANENT, message))


# -- called by the node, in the event loop of the worker


def deliver(key: str, message: Any) -> None:
    """Hand the node's reply to a body."""
    seat = _seats.get(key)
    if seat is not None:
        seat.reply(message)


def cancel(key: str) -> None:
    """End a body."""
    seat = _seats.get(key)
    if seat is not None:
        seat.cancel()


def read_rows(key: str, offset: int, size: int) -> bytes:
    """A piece of the rows that a body left; empty when they are gone."""
    seat = _seats.get(key)
    spool = None if seat is None else seat.spool
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
            seats = list(_seats.values())
            rested = [each for each in _idle if time.monotonic() - each[0] > IDLE_SECONDS]
            _idle[:] = [each for each in _idle if each not in rested]
            finished = not (seats or _idle)
            if finished:
                _watcher = None
        for seat in seats:
            if not seat.wanted:
                seat.cancel()
        for _, _, process in rested:
            process.bury()
        if finished:
            return
