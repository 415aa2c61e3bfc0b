"""What runs inside a worker process: one body after the other, each asked for by the node over a connection.

It imports neither a database driver nor the node's main module.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from types import FrameType

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CallRefused, UsageError
from crawlfleet.core.wakeup import ending_signals
from crawlfleet.engines.process_messages import BodyRequest, Notice, Said, SpooledOutcome, WorkerSetup
from crawlfleet.executors.body import run_body, run_body_async
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.executors.outcome import failed
from crawlfleet.executors.permit import FORKED
from crawlfleet.executors.registry import executors
from crawlfleet.executors.run_log import is_note
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT_CHECK_SECONDS = 1.0


class NodeConnection:
    """The worker's end of its connection.

    It has a lock, since threads of a body may log while the body ends. A process that a body forks has a copy, and says
    nothing: what it wrote would mix with the words of this one.
    """

    def __init__(self, connection: Connection) -> None:
        self.number = 0  # of the run that is asked for
        self._connection = connection
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that the node talks to."""
        return os.getpid() == self._process

    def receive(self) -> BodyRequest:
        """The next body to run."""
        request: BodyRequest = self._connection.recv()
        with self._lock:
            self.number = request.number
        return request

    def send(self, content: Outcome | Notice | logging.LogRecord, number: int | None = None) -> None:
        """Say it in the run of this number, or in the one of now; nothing when that is over."""
        if self.is_ours:
            with self._lock:
                if number in (None, self.number):
                    self._connection.send(Said(self._process, self.number, content))

    def send_rows(self, outcome: Outcome, rows: Spool) -> None:
        """Say how a run ended whose rows are in a file; hand that over."""
        with self._lock:
            self._connection.send(Said(self._process, self.number, SpooledOutcome(outcome, len(rows))))
            send_handle(self._connection, rows.fileno(), os.getppid())

    def may_call(self, number: int) -> bool | CallRefused:
        """The node's answer to a call of the run of this number; False when that is over."""
        if not self.is_ours:
            return CallRefused(FORKED)
        with self._lock:
            if number != self.number:
                return False
            self._connection.send(Said(self._process, number, Notice.CALL_WANTED))
            answer: bool | CallRefused = self._connection.recv()
            return answer

    def put_nowait(self, record: logging.LogRecord) -> None:
        """As a queue: QueueHandler puts every log line here."""
        self.send(record)


class RunConnection:
    """What one run says to the node; also the permit of its calls. Threads that its body left behind may hold it."""

    def __init__(self, node: NodeConnection, number: int) -> None:
        self._node = node
        self._number = number

    def began(self) -> None:
        self._send(Notice.BODY_BEGAN)

    def ended(self, outcome: Outcome, context: TaskContext) -> None:
        rows = outcome.rows
        if isinstance(rows, Spool):
            outcome.rows = ()
            self._node.send_rows(outcome, rows)
            rows.close()
            return
        try:
            self._send(outcome)
        except OSError:
            raise
        except Exception as error:  # pickle raises whatever a value raises; nothing was sent
            message = f"the result cannot be sent to the node: {failed(error, context).message}"
            self._send(Outcome(EndingKind.PERMANENT, message))

    def take(self, _cancelled: threading.Event) -> bool:
        """As `Permit.take`: the node decides about each call."""
        answer = self._node.may_call(self._number)
        if isinstance(answer, CallRefused):
            raise answer
        return answer

    def answered(self) -> None:
        """As `Permit.answered`."""
        self._send(Notice.CALL_ANSWERED)

    def write_note(self, record: logging.LogRecord) -> None:
        """As the log of a task: only notes are sent from here, since QueueHandler sends every other line."""
        if is_note(record):
            self._send(record)

    def _send(self, content: Notice | Outcome | logging.LogRecord) -> None:
        self._node.send(content, self._number)


def main(descriptor: int, node_pid: int) -> None:
    """Run bodies for the node at the other end of the socket `descriptor`, until the node closes it or ends."""
    _end_with(node_pid)
    for number in ending_signals():
        signal.signal(number, _leave_it_to_the_node)
    os.register_at_fork(after_in_child=_take_signals)
    connection = Connection(descriptor)
    node = NodeConnection(connection)
    try:
        setup: WorkerSetup = connection.recv()
        _log_to(node, setup.log_levels)
        by_type, problem = _load(setup.modules)
        while True:
            _run(node, by_type, problem)
    except (EOFError, OSError):  # the node is gone
        os._exit(0)


def _run(node: NodeConnection, by_type: Mapping[str, Executor], problem: str | None) -> None:
    """Run the next body that the node asks for."""
    request = node.receive()
    context, run = request.context, RunConnection(node, request.number)
    run.began()
    context.permit = run
    context.open_task_log = lambda: run.write_note
    executor = by_type.get(request.executor)
    if executor is None:
        run.ended(Outcome(EndingKind.PERMANENT, problem or _unknown(request.executor)), context)
    elif executor.asynchronous:
        run.ended(asyncio.run(run_body_async(executor, context.task, context)), context)
    else:
        run.ended(run_body(executor, context.task, context), context)


def _load(modules: Sequence[str]) -> tuple[dict[str, Executor], str | None]:
    """The executors by task type, and what is wrong with them."""
    try:
        return executors(modules), None
    except UsageError as error:
        return {}, f"the worker process lacks its executors: {error}"


def _unknown(name: str) -> str:
    return f"executor {name!r} is unknown in a worker process: define it in a module given with --executors"


def _log_to(node: NodeConnection, levels: Mapping[str, int]) -> None:
    """Send every log line to the node, which formats it and hides secrets in it."""
    logging.getLogger().addHandler(QueueHandler(node))  # type: ignore[arg-type]  # all it needs is put_nowait
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _leave_it_to_the_node(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: a signal to the whole service must not end a body that the node still waits for.

    A function and not SIG_IGN, which the programs that a body starts would inherit.
    """


def _take_signals() -> None:
    """In a process that a body forks: SIGTERM ends it, as the body may expect."""
    for number in ending_signals():
        signal.signal(number, signal.SIG_DFL)


def _end_with(node_pid: int) -> None:
    """End this process when its node ends, however it ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(node_pid,), daemon=True).start()
    if os.getppid() != node_pid:
        os._exit(0)


def _watch(node_pid: int) -> None:
    pause = threading.Event()
    while os.getppid() == node_pid:
        pause.wait(PARENT_CHECK_SECONDS)
    os._exit(0)
