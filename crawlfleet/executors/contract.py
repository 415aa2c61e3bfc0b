"""What an executor is, what it receives and what it gives back.

An executor is a function of a task and a context. It writes nothing itself: the node stores what it returns, in the
transaction that ends the run.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from crawlfleet.core.account import Account, with_opened_token, with_token
from crawlfleet.core.errors import PermanentError, TaskError, UsageError
from crawlfleet.core.vendor_data import Row, Scope
from crawlfleet.executors.permit import Permit
from crawlfleet.executors.run_log import RunLogger, WriteRecord
from crawlfleet.executors.shared_sources import shared_source
from crawlfleet.model.task_spec import Task, TaskSpec
from crawlfleet.sources.contract import Shape, Source, SourceSettings
from crawlfleet.sources.http.proxies import ANY_VARIABLE, Proxy

MAX_REMARKS = 5  # of one name whose texts are kept
_first_use = threading.Lock()  # of what a context makes late, by several threads at once


@dataclass(frozen=True)
class TaskResult:
    """What a body gives back: rows to store, tasks to add, and a summary for people.

    `rows` may be a generator; more than 1,000 rows are spooled to a file while they are read. `replaces` says
    which range the rows replace: rows of that range that are not among them vanish. It is required with rows,
    and an empty `rows` with a `replaces` empties the range.
    `summary` is a JSON object of at most 64 KiB.
    """

    rows: Iterable[Row] = ()
    follow_ups: Iterable[TaskSpec] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    replaces: Scope | None = None


class ResultReplaced(Exception):
    """Raised by lazy `rows` that turn out to be unfit to store: none of them is stored, the run ends with `result`."""

    def __init__(self, result: TaskResult) -> None:
        super().__init__(result)
        self.result = result


class Cancelled(Exception):
    """Raised by `TaskContext.check`: the run was cancelled, lost, or its time is over."""


class TaskContext:
    """What a body may use besides its task.

    `log` writes to the node's log and to the task's. `cancelled` is set when nobody wants the run's result any more.
    `source` and `account` exist for tasks that name a source. `source` is given ready, or as settings: then it is made
    when a body first asks for it, once in a process for all contexts with the same settings. `permit` decides about
    each call to the source and counts it; without a permit any call may be sent.

    A context with settings can be pickled. A worker process makes a source of its own and asks its node before each
    call. Its `cancelled` is never set, since the process is killed instead.
    """

    def __init__(
        self,
        task: Task,
        account: Account | None = None,
        source: Source | SourceSettings | None = None,
        permit: Permit | None = None,
    ) -> None:
        self.task = task
        self._cancelled: threading.Event | None = None
        self._account = account
        self._source = source
        self.permit = permit
        self.open_task_log: Callable[[], WriteRecord | None] | None = None  # gives what stores the lines of this run
        self._log: RunLogger | None = None
        self._remarks: dict[str, list[str]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskContext, (self.task, self._account, self._source)

    @property
    def cancelled(self) -> threading.Event:
        """Made when somebody first asks for it: few bodies do, and it is as large as all else of a waiting run."""
        if self._cancelled is None:
            with _first_use:
                if self._cancelled is None:
                    self._cancelled = threading.Event()
        return self._cancelled

    @property
    def log(self) -> RunLogger:
        """The logger of this run; made when a body first uses it, since most never do."""
        if self._log is None:
            with _first_use:
                if self._log is None:
                    name = f"crawlfleet.executors.{self.task.task_type}"
                    write_record = None if self.open_task_log is None else self.open_task_log()
                    self._log = RunLogger(name, partial(_secrets_of, self._account), write_record)
        return self._log

    def with_secrets(self) -> TaskContext:
        """A copy with token and proxy passwords inside, for a host that lacks this node's environment, files and keys.

        Raises TokenUnavailable or ProxyError when this node lacks them, too.
        """
        account, source = self._account, self._source
        if account is not None:
            proxy = _proxy_of(account)
            account = with_token(account, None if proxy is None else proxy.with_password())
        if isinstance(source, SourceSettings) and source.proxy:
            source = replace(source, proxy=Proxy(source.proxy, ANY_VARIABLE).with_password())
        return TaskContext(self.task, account, source)

    def for_worker(self) -> TaskContext:
        """A copy for a process of this host that lacks the keys of sealed tokens; raises TokenUnavailable."""
        account = self._account
        return TaskContext(self.task, None if account is None else with_opened_token(account), self._source)

    def check(self) -> None:
        """Raise `Cancelled` when nobody waits for this run any more; long bodies call it now and then."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Wait, but wake at once with `Cancelled` when the run is cancelled. An `async def` uses asyncio.sleep."""
        if self.cancelled.wait(seconds):
            raise Cancelled

    def before_call(self) -> None:
        """Called by a source's transport when it is about to send: waits until the run's budgets allow it.

        Raises CallRefused for a call that the run does not hold, `Cancelled` when nobody waits for the run any more.
        """
        if self.permit is not None and not self.permit.take(self.cancelled):
            raise Cancelled

    def after_answer(self) -> None:
        """Called by a source's transport when the answer begins to arrive: by now the vendor has seen the call."""
        if self.permit is not None:
            self.permit.answered()

    def remark(self, name: str, text: str) -> None:
        """Called by a source that left something out of an answer or mended it: `remarks` counts it under this name."""
        self._remarks = self._remarks or {}
        texts = self._remarks.setdefault(name, [])
        texts.append(text if len(texts) < MAX_REMARKS else "")
        if len(texts) <= MAX_REMARKS:
            self.log.warning("%s: %s", name, text)

    def remarks(self) -> dict[str, Any]:
        """What a summary should tell of them: how many of each name, and the first texts."""
        found = self._remarks or {}
        told: dict[str, Any] = {name: len(texts) for name, texts in found.items()}
        return told | ({"remarks": [text for texts in found.values() for text in texts if text]} if told else {})

    @property
    def account(self) -> Account:
        """The task's account; raises PermanentError when there is none."""
        if self._account is None:
            if self.task.source and self.task.username:
                raise PermanentError(
                    f"username {self.task.username} has no account at {self.task.source}: add it with `accounts add`"
                )
            raise PermanentError(f"task {self.task.id} has no account: give it a source and a username")
        return self._account

    @property
    def source(self) -> Source:
        """The task's source, ready to be called; raises PermanentError when the task has no account."""
        if self._source is None or isinstance(self._source, SourceSettings):
            return shared_source(self.account.source, self._source or SourceSettings())
        return self._source

    def secrets(self) -> tuple[str, ...]:
        """What must not show in a message of this run: the account's token and its proxy's password, where readable."""
        return _secrets_of(self._account)


def _proxy_of(account: Account) -> Proxy | None:
    return Proxy(account.proxy, account.reach.proxy_variables) if account.proxy else None


def _secrets_of(account: Account | None) -> tuple[str, ...]:
    """Not a method: a logger that knew its context would be a cycle, left to the garbage collector after each run."""
    secrets: list[str] = []
    if account is not None:
        try:
            secrets.append(account.token())
        except TaskError:
            pass
        try:
            secrets += proxy.open().secrets if (proxy := _proxy_of(account)) else ()
        except (TaskError, UsageError):
            pass
    return tuple(secrets)


@dataclass(frozen=True)
class Executor:
    """A task type and the function that runs it; `asynchronous` when it is an `async def`.

    `check`, when given, is called with the task before the body and raises PermanentError for a bad parameter.
    `needs_account` marks types that run on behalf of an account at a source. `cost` says what a task to be added will
    ask of its source; without it a body may not call a source. `transient` are exceptions that are worth a retry though
    they look like errors of the program, as a KeyError.
    """

    name: str
    function: Callable[..., Any]
    needs_account: bool = False
    check: Callable[[Task], None] | None = None
    cost: Callable[[TaskSpec, Source], Shape] | None = None
    transient: tuple[type[BaseException], ...] = ()

    @property
    def asynchronous(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(f"executor {self.name!r} must be a function (got {self.function!r:.80})")
        if not all(isinstance(each, type) and issubclass(each, BaseException) for each in self.transient):
            raise UsageError(
                f"transient of executor {self.name!r} must be exception types (got {self.transient!r:.80})"
            )
