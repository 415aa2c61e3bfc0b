"""From a claim to a body that runs: runs with their permits, handed to the engines of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crawlfleet.core.clock import Clock
from crawlfleet.engines.contract import Engine, Run, SharesThread
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.executors.permit import RunPermit, SendWindow
from crawlfleet.model.claims import Claim
from crawlfleet.model.device import DeviceState
from crawlfleet.services.lease import Lease
from crawlfleet.services.uncommitted import SentCalls

EngineOf = Callable[[Executor], Engine]
MakeContext = Callable[[Claim, RunPermit | None], TaskContext]


class RunStarter:
    """Makes runs of claims and hands them to their engines. `on_sent` is told of calls, from any thread."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        engine_of: EngineOf,
        make_context: MakeContext,
        lease: Lease,
        clock: Clock,
        on_sent: Callable[[SentCalls], None],
    ) -> None:
        self._executors = executors
        self._engine_of = engine_of
        self._make_context = make_context
        self._lease = lease
        self._clock = clock
        self._on_sent = on_sent

    def make(self, claim: Claim, state: DeviceState) -> Run:
        """The run of a claim that was made when the device stood so."""
        claim = claim.whole()
        permit = None if claim.task.source is None else self._permit(claim, state)
        executor = self._executors[claim.task.task_type]
        run = Run(claim.assignment_id, claim.task, executor, self._make_context(claim, permit), self._clock)
        run.data_bytes = claim.data_bytes
        run.fetch_counts = claim.fetch_counts.read()
        return run

    def _permit(self, claim: Claim, state: DeviceState) -> RunPermit:
        assignment_id, task_id = claim.assignment_id, claim.task.id

        def on_answer(seen: tuple[float, ...]) -> None:
            self._on_sent(SentCalls(assignment_id, task_id, seen))

        return RunPermit(_send_windows(claim, state), lambda: self._lease.trusted_until, on_answer, self._clock)

    def shares_thread(self) -> SharesThread | None:
        """The engine whose bodies can hold each other up, where there is one."""
        engines = (self._engine_of(executor) for executor in self._executors.values())
        return next((engine for engine in engines if isinstance(engine, SharesThread)), None)

    def submit(self, runs: Sequence[Run]) -> None:
        """Queue the runs at their engines, in this order at each."""
        by_engine: dict[int, tuple[Engine, list[Run]]] = {}
        for run in runs:
            engine = self._engine_of(run.executor)
            by_engine.setdefault(id(engine), (engine, []))[1].append(run)
        for engine, queued in by_engine.values():
            engine.submit(queued)

    def interrupt(self, run: Run) -> bool:
        """Make its body end soon; True when its slot surely comes free."""
        return self._engine_of(run.executor).interrupt(run)


def _send_windows(claim: Claim, state: DeviceState) -> list[SendWindow] | None:
    """When the run may send its calls, on the monotonic clock and on the safe side; None: as it likes."""
    if claim.calls is None:
        return None
    return [
        (
            state.reading.surely_after(window.not_before),
            state.reading.surely_before(window.not_after),
            window.way_seconds,
        )
        for window in claim.calls
    ]
