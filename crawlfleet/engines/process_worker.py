"""What runs inside a worker process: one body after the other, asked for and answered over a connection.

Imports no database driver; the node's main module is not imported either.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from types import FrameType

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CallRefused, UsageError
from crawlfleet.executors.body import run_body, run_body_async
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.executors.outcome import failed
from crawlfleet.executors.registry import executors
from crawlfleet.executors.run_log import is_note
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome

CALL = "call"  # the message of a body that is about to call its source and waits for leave
ANSWERED = "answered"  # ... and of one whose call was answered
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT_CHECK_SECONDS = 1.0


class NodeConnection:
    """The node's end of the connection; a body's threads may log while it ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def began(self) -> None:
        self._send(None)

    def ended(self, outcome: Outcome, context: TaskContext) -> None:
        rows = outcome.rows
        if isinstance(rows, Spool):
            outcome.rows = ()
            with self._lock:
                self._connection.send((outcome, len(rows)))
                send_handle(self._connection, rows.fileno(), os.getppid())
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
        """As the permit of a body: the node decides about each call."""
        with self._lock:
            self._connection.send((CALL, 0))
            answer = self._connection.recv()
        if isinstance(answer, CallRefused):
            raise answer
        return bool(answer)

    def answered(self) -> None:
        with self._lock:
            self._connection.send((ANSWERED, 0))

    def keep(self, record: logging.LogRecord) -> None:
        """As what keeps the lines of a run: a note goes to the node here, other lines go by QueueHandler."""
        if is_note(record):
            self._send(record)

    def put_nowait(self, record: logging.LogRecord) -> None:
        """As a queue, for QueueHandler."""
        self._send(record)

    def _send(self, message: Outcome | logging.LogRecord | None) -> None:
        with self._lock:
            self._connection.send((message, 0))


def main(descriptor: int, parent: int) -> None:
    """Serve the node at the other end of the socket `descriptor` until it closes; `parent` is its process id."""
    _die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_it_to_the_node)
    connection = Connection(descriptor)
    node = NodeConnection(connection)
    try:
        modules, levels = connection.recv()
        _log_to(node, levels)
        known, problem = _load(modules)
        while True:
            name, context = connection.recv()
            node.began()
            context.permit = node
            context.open_task_log = lambda: node.keep
            executor = known.get(name)
            if executor is None:
                node.ended(Outcome(EndingKind.PERMANENT, problem or _unknown(name)), context)
            elif executor.asynchronous:
                node.ended(asyncio.run(run_body_async(executor, context.task, context)), context)
            else:
                node.ended(run_body(executor, context.task, context), context)
    except (EOFError, OSError):  # the node is gone
        os._exit(0)


def _load(modules: list[str]) -> tuple[dict[str, Executor], str | None]:
    try:
        return executors(modules), None
    except UsageError as error:
        return {}, f"the worker process lacks its executors: {error}"


def _unknown(name: str) -> str:
    return f"executor {name!r} is unknown in a worker process: define it in a module given with --executors"


def _log_to(node: NodeConnection, levels: Mapping[str, int]) -> None:
    """Every line goes to the node, which formats and redacts it."""
    logging.getLogger().addHandler(QueueHandler(node))  # type: ignore[arg-type]  # all it needs is put_nowait
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _leave_it_to_the_node(_number: int, _frame: FrameType | None) -> None:
    """A stop meant for the whole service must not break off the body that the node still waits for.

    A function and not SIG_IGN, which the programs that a body starts would inherit.
    """


def _die_with(parent: int) -> None:
    """End this process when its node ends, however it ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(0)


def _watch(parent: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(PARENT_CHECK_SECONDS)
    os._exit(0)
