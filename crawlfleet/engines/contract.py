"""What an engine is: a place where the body of a task runs.

Engines know no database and no task type. An engine gets `Run`s, keeps their order, and begins each when a slot is
free. For each run that was not withdrawn it reports `began(run)`, then `ended(run, outcome)`, from any thread. It
reports nothing of a run that still waited when `stop` was called.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from crawlfleet.core.clock import SYSTEM_CLOCK, Clock
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.model.ending import Outcome
from crawlfleet.model.task_spec import Task

if TYPE_CHECKING:
    from crawlfleet.model.feed import FetchCounts


class RunPhase(Enum):
    """How far a run is, as its scheduler sees it."""

    WAITING = auto()  # for a slot
    BEGUN = auto()
    ENDED = auto()  # how it ends is decided, and perhaps not committed yet


class Run:
    """One assignment in the memory of its node: queued, begun, or withdrawn before it began.

    `begin` and `withdraw` exclude each other: only one of them ever returns True.
    `claimed_at`, `began_at` and `ended_at` are seconds of the monotonic clock; the engine sets the last two before it
    reports. `phase` belongs to the scheduler; engines do not touch it.
    """

    __slots__ = (
        "_lock",
        "assignment_id",
        "began_at",
        "claimed_at",
        "clock",
        "context",
        "data_bytes",
        "ended_at",
        "executor",
        "fetch_counts",
        "phase",
        "task",
        "withdrawn",
    )

    def __init__(
        self, assignment_id: int, task: Task, executor: Executor, context: TaskContext, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.assignment_id = assignment_id
        self.task = task
        self.executor = executor
        self.context = context
        self.fetch_counts: FetchCounts = {}
        self.data_bytes = 0  # of its task_data
        self.phase = RunPhase.WAITING
        self.clock = clock
        self.claimed_at = clock.monotonic()
        self.began_at: float | None = None
        self.ended_at: float | None = None
        self.withdrawn = False  # True: the body will never begin
        self._lock = threading.Lock()

    def begin(self) -> bool:
        """True for the engine that may now run the body; False when the run was withdrawn."""
        with self._lock:
            if self.withdrawn or self.began_at is not None:
                return False
            self.began_at = self.clock.monotonic()
            return True

    def begins_now(self) -> None:
        """The body begins only now, some time after the engine was allowed to run it."""
        self.began_at = self.clock.monotonic()

    def ends_now(self) -> None:
        """The body has ended."""
        self.ended_at = self.clock.monotonic()

    def withdraw(self) -> bool:
        """True when the body has not begun and now never will."""
        with self._lock:
            if self.withdrawn or self.began_at is not None:
                return False
            self.withdrawn = True
            return True


@dataclass(frozen=True)
class Reports:
    """The two calls an engine makes; both return at once and may come from any thread."""

    began: Callable[[Run], None]
    ended: Callable[[Run, Outcome], None]


class Slots:
    """Room for running bodies on this node, shared by its engines in turn. One slot is room for one body.

    An engine that finds no slot free stands in line once, with its `waiter`: a function that is called in any thread
    when a slot has been taken for it. It returns at once.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._line: deque[Callable[[], None]] = deque()  # never filled while a slot is free
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many engines stand in line."""
        return len(self._line)

    def take(self, waiter: Callable[[], None]) -> bool:
        """True: a slot is taken. False: `waiter` stands in line and will be called once."""
        with self._lock:
            if self.free:
                self.free -= 1
                return True
            if waiter not in self._line:
                self._line.append(waiter)
            return False

    def release(self) -> None:
        """Give a slot to the first in line, or back. Hold no lock that a waiter needs."""
        with self._lock:
            if not self._line:
                self.free += 1
                return
            waiter = self._line.popleft()
        waiter()

    def _alone(self, waiter: Callable[[], None]) -> bool:
        """Whether nobody else stands in line. Takes no lock: threads that ask after every body would queue for it.

        An engine that joins the line at this moment gets the next slot instead of this one.
        """
        try:
            return self._line[0] == waiter and len(self._line) == 1
        except IndexError:
            return True

    def keep(self, waiter: Callable[[], None]) -> bool:
        """Ask to use a slot once more: True when it is kept; False when it went to the engine whose turn it is.

        After False `waiter` stands in line. Hold no lock that another engine's waiter needs.
        """
        if self._alone(waiter):
            return True
        with self._lock:
            if not self._line:
                return True
            first = self._line[0]
            if first == waiter:
                self._line.rotate(-1)
                return True
            self._line.popleft()
            if waiter not in self._line:
                self._line.append(waiter)
        first()
        return False


class Engine(Protocol):
    """What threads.py, asyncio_loop.py, processes.py, dask/engine.py and engines of other packages offer."""

    def start(self) -> None:
        """Get ready to run bodies; called once, before the first `submit`."""
        ...

    def submit(self, runs: Sequence[Run]) -> None:
        """Queue runs; each body begins in this order as slots come free. Never waits for a body."""
        ...

    def interrupt(self, run: Run) -> bool:
        """Make a begun body end as soon as this engine can; True when its slot surely comes free soon.

        Sets `run.context.cancelled`; an event loop also cancels the coroutine, a process is killed; a thread
        only ends when its body looks at the context, hence False. `ended` is still called once when it ends.
        """
        ...

    def stop(self) -> None:
        """Begin nothing more, interrupt what runs, give up threads and processes. Calling again does nothing.

        Waits for no body: what ends later is still reported, what cannot be ended is left behind.
        """
        ...


@runtime_checkable
class SharesThread(Protocol):
    """An engine whose bodies share one thread, so that one which does not give way holds up all others."""

    def responds(self) -> bool:
        """Whether the thread has come by since it was asked for the last time; asks it again."""
        ...

    def holder(self) -> Run | None:
        """The run whose body is in the thread now, None when that cannot be told."""
        ...
