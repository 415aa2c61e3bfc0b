"""Bodies in worker processes: CPU-heavy ones side by side, and every one of them can be killed.

A worker is started when one is needed (about 0.2 s) and kept for further bodies; a run costs 0.25 to 0.5 ms. Node and
worker talk over a socket pair (`process_messages`). Needs POSIX.

This is not pebble or concurrent.futures: a body must report when it really begins, a worker that dies by SIGKILL must
not leave a lock that all workers share, and a worker must not import the node's main module, which would bring the
database driver with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.reduction import recv_handle

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CallRefused, UsageError
from crawlfleet.core.secrets import KEY_VARIABLE
from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.engines.process_messages import BodyRequest, Notice, Said, SpooledOutcome, WorkerSetup
from crawlfleet.engines.thread_pool import ThreadPool
from crawlfleet.executors.contract import TaskContext
from crawlfleet.executors.outcome import failed
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome
from crawlfleet.settings.definitions import ENVIRONMENT_PREFIX, RULES

ALIVE_CHECK_SECONDS = 1.0  # a dead worker is noticed at once, unless a child of its body holds the connection
REAP_SECONDS = 5.0
_BOOT = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from crawlfleet.engines.process_worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


def environment_of_workers() -> dict[str, str]:
    """The environment without what a body has no need of, nor the programs that it starts: database, keys, API."""
    secret = {KEY_VARIABLE, "PGPASSWORD", "MYSQL_PWD"}
    secret |= {ENVIRONMENT_PREFIX + name.upper() for name, rule in RULES.items() if rule.secret}
    return {name: value for name, value in os.environ.items() if name not in secret}


class WorkerDied(Exception):
    """The worker process ended while something was expected of it."""


class Worker:
    """One worker process, in a session of its own: Ctrl+C does not reach it, and killing it kills its children."""

    def __init__(self, modules: Sequence[str], levels: Mapping[str, int] | None = None) -> None:
        """`levels` of loggers; those of this process unless given."""
        self.usable = True
        self._number = 0  # of the run
        self._connection, theirs = Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *sys.path],
                env=environment_of_workers(),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()
        levels = levels or {name: logging.getLogger(name).getEffectiveLevel() for name in ("", "crawlfleet")}
        with contextlib.suppress(OSError):  # it died already: the first run finds out
            self._connection.send(WorkerSetup(list(modules), levels))

    def perform(
        self,
        name: str,
        context: TaskContext,
        began: Callable[[], None],
        logged: Callable[[logging.LogRecord], None],
    ) -> Outcome:
        """Run the body of executor `name`, and allow or refuse its calls to its source; raises WorkerDied."""
        self._number += 1
        self._send(BodyRequest(self._number, name, context.for_worker()))
        while True:
            match self._receive():
                case Outcome() as outcome:
                    return outcome
                case Notice.BODY_BEGAN:
                    began()
                case Notice.CALL_WANTED:
                    self._send(_may_call(context))
                case Notice.CALL_ANSWERED:
                    context.after_answer()
                case logging.LogRecord() as record:
                    logged(record)

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise WorkerDied from error

    def _receive(self) -> Outcome | Notice | logging.LogRecord:
        """The worker's next message about this run; raises WorkerDied."""
        try:
            while True:
                while not self._connection.poll(ALIVE_CHECK_SECONDS):
                    if self._process.poll() is not None and not self._connection.poll():
                        raise WorkerDied
                said: Said = self._connection.recv()
                content = said.content
                if isinstance(content, SpooledOutcome):
                    content.outcome.rows = Spool.adopt(recv_handle(self._connection), content.row_count)
                    content = content.outcome
                if (said.process, said.number) == (self._process.pid, self._number):
                    return content
        except WorkerDied:
            raise
        except Exception as error:  # the connection broke, or what came is no pickle
            raise WorkerDied from error

    def kill(self) -> None:
        """End it and the processes of its body; harmless when they have ended."""
        self.usable = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> str:
        """Kill what is left of it and wait for it. Returns how it ended, in words."""
        self.kill()  # before it is waited for: until then nobody else can get its id
        self._connection.close()
        try:
            code = self._process.wait(REAP_SECONDS)
        except subprocess.TimeoutExpired:
            return "does not end"
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"


def _may_call(context: TaskContext) -> bool | CallRefused:
    try:
        return context.permit is None or context.permit.take(context.cancelled)
    except CallRefused as error:
        return error


def logger_of(run: Run, name: str) -> logging.Logger:
    """The logger of this name; for lines that the body wrote to `context.log` it is the run's own."""
    return run.context.log if name == run.context.log.name else logging.getLogger(name)


class ProcessesEngine:
    """At most `processes` bodies at once, each alone in a worker process; `interrupt` kills it.

    `modules` are the executor modules that a worker imports, as the node did.
    """

    def __init__(self, slots: Slots, reports: Reports, processes: int, modules: Sequence[str]) -> None:
        self._reports = reports
        self._modules = modules
        self._pool = ThreadPool("process", processes, slots, self._perform)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._worker_of: dict[Run, Worker] = {}  # read under the lock, so that no later run's worker is killed
        self._stopped = False

    def start(self) -> None:
        """Raises UsageError on a system without worker processes. Workers are started when they are needed."""
        if os.name != "posix":
            raise UsageError("engine processes needs Linux, macOS or another POSIX system: use engine threads")

    def submit(self, runs: Sequence[Run]) -> None:
        self._pool.submit(runs)

    def interrupt(self, run: Run) -> bool:
        run.context.cancelled.set()
        with self._lock:
            worker = self._worker_of.get(run)
            if worker is not None:
                worker.kill()
        return True

    def stop(self) -> None:
        self._pool.stop()
        with self._lock:
            self._stopped = True
            idle, self._idle = self._idle, []
            for run, worker in self._worker_of.items():
                run.context.cancelled.set()
                worker.kill()
        for worker in idle:
            worker.end()

    def _perform(self, run: Run) -> None:
        """Give the run to a worker and wait until it ends; called in a thread of the pool."""
        began, outcome = self._run_in_worker(run)
        if not began and outcome.kind == EndingKind.CRASHED:
            began, outcome = self._run_in_worker(run)  # the worker had died while it was idle
        if not began:
            self._reports.began(run)
        run.ends_now()
        self._reports.ended(run, outcome)

    def _run_in_worker(self, run: Run) -> tuple[bool, Outcome]:
        """Whether the body began, and how it ended. Reports the beginning, but not the end."""
        began = False
        outcome: Outcome | None = None

        def on_begin() -> None:
            nonlocal began
            began = True
            run.begins_now()
            self._reports.began(run)

        try:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            worker = worker or Worker(self._modules)
        except OSError as error:  # the system gives no more processes
            return began, failed(error, run.context)
        with self._lock:
            self._worker_of[run] = worker
            if self._stopped:
                run.context.cancelled.set()
        try:
            run.context.check()
            outcome = worker.perform(
                run.executor.name, run.context, on_begin, lambda record: logger_of(run, record.name).handle(record)
            )
        except WorkerDied:
            pass
        except Exception as error:  # cancelled before it was sent, or its context cannot be pickled
            outcome = failed(error, run.context)
        with self._lock:
            del self._worker_of[run]
            keeps_worker = outcome is not None and worker.usable and not self._stopped
            if keeps_worker:
                self._idle.append(worker)
        ending = "" if keeps_worker else worker.end()
        if outcome is None and run.context.cancelled.is_set():
            outcome = Outcome(EndingKind.CANCELLED, "the run was cancelled and its worker process killed")
        when = "" if began else " before the body began"
        return began, outcome or Outcome(EndingKind.CRASHED, f"the worker process {ending}{when}")
