"""TaskScheduler: the pump between the queue in the database and the engines of this node.

One loop, one short transaction a turn: end what finished, record what began, claim what fits. While a turn is at
the database more bodies finish and leave together in the next: batching by itself. No transaction is open while a
body runs, and nothing here decides by this machine's clock: moments are the database's, carried over short spans by
the monotonic clock.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from crawlfleet.core.db import Database
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CrawlfleetError, DatabaseUnreachable, LeaseLost
from crawlfleet.core.service import Service
from crawlfleet.core.transaction import Answer, Statements, Transaction
from crawlfleet.engines.contract import Engine, Run
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.executors.outcome import SPOOL_ROWS, Outcome
from crawlfleet.executors.permit import RunPermit, SendWindow
from crawlfleet.model import claims, dispatch, rescue
from crawlfleet.model.budget import LimitOf, as_stored
from crawlfleet.model.claims import SPARE_LANES, AssignmentIds, Claim, ClaimRequest, Head, Registration, Strategy
from crawlfleet.model.device import DeviceDAO, DeviceState
from crawlfleet.model.ending import Ending
from crawlfleet.model.gate import (
    Ended,
    FenceVerdict,
    RetryPolicy,
    ask_ends,
    book_calls,
    end_runs,
    mark_started,
)
from crawlfleet.model.lane_budgets import ask_lanes_of_tasks
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import ENDINGS
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.services.durations import Durations
from crawlfleet.services.lease import Lease
from crawlfleet.services.pace import Pace
from crawlfleet.services.result_writer import ResultWriter
from crawlfleet.services.uncommitted import SentCalls, UncommittedEnding, close_rows, ending_of, final_calls
from crawlfleet.services.vital_signs import WorkReport

log = logging.getLogger(__name__)

MAX_WRITING = 4  # large results on their way to the database before claiming stops
RESERVE_PATIENCE_SECONDS = 1.0  # how long more than the reserve may wait for a slot before it goes back
TIMEOUT_CHECK_SECONDS = 0.25
LOOK_AGAIN_SECONDS = 0.01  # after a turn that claimed less than there was room for
FLUSH_SECONDS = 5.0  # how long a stopping node tries to write what is left
QUIET_LINES = 20  # more endings than this in one turn are told in one line


class LoadBalanceStrategy(StrEnum):
    """Who gets the next task. A device that claims for itself takes only what it has room for: LEAST_TASKS."""

    ROUND_ROBIN = "round_robin"
    LEAST_TASKS = "least_tasks"
    WEIGHTED = "weighted"
    RANDOM = "random"


@dataclass(frozen=True)
class SchedulerOptions:
    """Limits and intervals; all in seconds."""

    concurrent_tasks: int = 5
    schedule_interval: float = 30
    dispatch_interval: float = 10
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    defaults: TaskDefaults = field(default_factory=TaskDefaults)
    limit_of: LimitOf = as_stored
    mode: str = "standalone"
    claim_without_master: bool = True
    labels: tuple[str, ...] = ()

    @property
    def adopts(self) -> bool:
        """Whether a master may assign tasks to this device."""
        return self.mode == "worker"


@dataclass
class Held:
    """A run that is ours as far as we know. `phase`: waiting for a slot, begun, or ended (its ending is decided)."""

    run: Run
    phase: str = "waiting"


@dataclass
class Turn:
    """What one transaction did."""

    standing: DeviceState
    claimed: list[Claim] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    strays: int = 0


class TaskScheduler(Service):
    """Claims tasks for one device, hands them to its engines and ends their runs."""

    def __init__(
        self,
        db: Database,
        lease: Lease,
        executors: Mapping[str, Executor],
        engine_of: Callable[[Executor], Engine],
        make_context: Callable[[Claim, RunPermit | None], TaskContext],
        options: SchedulerOptions,
        on_fatal: Callable[[str], None],
    ) -> None:
        super().__init__("task_scheduler", options.schedule_interval)
        self.db = db
        self.lease = lease
        self.executors = executors
        self.options = options
        self.counters: Counter[str] = Counter()
        self.errors: Counter[EndingKind] = Counter()  # runs that ended with an error, by its kind
        self.turn_durations = Durations()
        self.body_durations = {name: Durations() for name in sorted(executors)}
        self.idle = threading.Event()  # set while a look at the queue finds nothing to do for this node
        self._engine_of = engine_of
        self._make_context = make_context
        self._on_fatal = on_fatal
        self._clock = db.clock
        self._devices = DeviceDAO(db)
        self._probing = self._probe_strategy()
        self._ids = AssignmentIds(0)
        self._reports: deque[tuple[Run, Outcome | None]] = deque()  # None: the body began
        self._held: dict[int, Held] = {}
        self._waiting: dict[int, Held] = {}  # of those, the ones without a slot, in the order they were claimed
        self._busy: dict[int, Run] = {}  # bodies that began and have not ended, wanted or not: they fill slots
        self._stuck: set[int] = set()  # of those, the ones that timed out and cannot be ended
        self._started: list[Run] = []  # begun, not yet recorded
        self._decided: list[UncommittedEnding] = []  # ended, not yet committed
        self._sent: deque[SentCalls] = deque()  # calls that were sent, not yet booked
        self._writer = ResultWriter(db, options.retry, options.defaults, options.limit_of, self._wrote)
        self._written: deque[tuple[UncommittedEnding, Ended]] = deque()
        self._claiming = True
        self._hand_back = False
        self._reconcile = False
        self._one_by_one = False
        self._look_first = False  # the last turn claimed nothing: look without a transaction before the next
        self._free_lanes: tuple[int, ...] = ()  # lanes without a source that had tasks, those of late first
        self._told = False  # of work, since the last pass
        self._lingering_since: float | None = None  # monotonic; since when a turn waits for more to end
        self._master_alive = False  # as far as is known
        self._promote_at: float | None = None  # monotonic; when tasks come due or lanes open, as far as is known
        self._away_since: float | None = None
        self._wait = 0.0
        self._times_checked_at = 0.0
        self._pace = Pace()
        self._passed = threading.Event()

    # -- called by engines and other services, from any thread

    def run_began(self, run: Run) -> None:
        """A body began; recorded with the next turn, which this does not hasten."""
        self._reports.append((run, None))

    def run_ended(self, run: Run, outcome: Outcome) -> None:
        """A body ended; committed with the next turn."""
        self._reports.append((run, outcome))
        self.wake()

    def queue_changed(self) -> None:
        """The watcher noticed it; where that is news of the queue and not of any commit, no look need come first."""
        self._told = self.db.family != "sqlite"
        self.wake()

    def request_reconcile(self) -> None:
        """Compare what is held here with what the database says, in the next turn."""
        self._reconcile = True
        self.wake()

    @property
    def bodies(self) -> int:
        """Bodies that run now."""
        return len(self._busy)

    @property
    def hungry(self) -> bool:
        """Whether a task could be claimed now."""
        return self._claiming and len(self._busy) + len(self._waiting) < self.options.concurrent_tasks

    def report(self) -> WorkReport:
        """What a beat tells of the work."""
        return WorkReport(self.bodies, dict(self.counters), self._performance())

    def _performance(self) -> dict[str, Any]:
        """How the work goes: usual times of late, success rate and errors since the start; for a node that monitors."""
        counted = dict(self.counters)
        ended = sum(counted.get(move, 0) for move in ("finish", "fail", "bury"))
        body = self._pace.body
        return {
            "turn_seconds": round(self._pace.turn, 4),
            "body_seconds": None if body is None else round(body, 4),
            "success_rate": round(counted.get("finish", 0) / ended, 4) if ended else None,
            "errors_by_kind": dict(self.errors),
        }

    def sees_work(self, reader: Statements) -> bool:
        """Whether a task was assigned to this device, or is due that it knows and no master assigns."""
        if self.options.adopts:
            me = Registration(self.lease.device_id, self.lease.epoch)
            if dispatch.ask_assigned(reader, me, tuple(self._held), 1).read():
                return True
            if self._master_alive or not self.options.claim_without_master:
                return False
        return bool(claims.open_heads(reader, self.executors.keys(), self.options.labels))

    # -- life

    def start(self) -> None:
        self._writer.start()
        super().start()

    def drain(self, grace_seconds: float) -> None:
        """Claim no more, let running bodies end for `grace_seconds`, then hand the rest back without an attempt spent.

        Returns when all of that is committed, at the latest a few seconds after the grace.
        """
        self._claiming = False
        log.info("TaskScheduler stopping: no new tasks, up to %g s for %d running ones", grace_seconds, self.bodies)
        self._wait_until_empty(grace_seconds)
        if self._held:
            self._hand_back = True
            self._wait_until_empty(FLUSH_SECONDS)
        for service in (self, self._writer):
            service.stop()
            service.join(FLUSH_SECONDS)
        if self._held:
            log.warning(
                "%d runs were not handed back: they are rescued when this device registers again", len(self._held)
            )
        log.info("TaskScheduler stopped")

    def _wait_until_empty(self, seconds: float) -> None:
        deadline = self._clock.monotonic() + seconds
        self.wake()
        while self._held and (left := deadline - self._clock.monotonic()) > 0:
            self._passed.clear()
            if self._held:
                self._passed.wait(min(left, 0.1))

    # -- the pump

    def next_wait(self) -> float:
        return self._wait

    def run_once(self) -> Turn | None:
        """One pass: collect what happened, then a transaction when there is something to write or to claim."""
        self._collect()
        self._check_times()
        if self._claiming:
            self._give_back_surplus()
        else:
            self._take_back()
        self._wait = self._longest_wait()
        if self._lingers():
            return None
        began = self._clock.monotonic()
        turn: Turn | None = None
        try:
            turn = self._turn()
        except DatabaseUnreachable as error:
            self._reconcile = True
            self._wait = min(self._wait, 1.0)
            if self._away_since is None:
                self._away_since = began
                log.warning("database away, waiting for it: %s", error)
        except LeaseLost as error:
            self._lose_lease(error.epoch)
        else:
            if self._away_since is not None:
                log.info("database back after %.1f s", self._clock.monotonic() - self._away_since)
                self._away_since = None
            if turn is not None:
                seconds = self._clock.monotonic() - began
                self._pace.note_turn(seconds)
                self.turn_durations.observe(seconds)
        self._passed.set()
        return turn

    def _collect(self) -> None:
        """Take in what the engines and the writer reported."""
        while self._reports:
            run, outcome = self._reports.popleft()
            key = run.assignment_id
            held = self._held.get(key)
            if outcome is None:
                self._busy[key] = run
                if self._waiting.pop(key, None) is not None and held is not None:
                    held.phase = "begun"
                    self._started.append(run)
                continue
            self._busy.pop(key, None)
            self._stuck.discard(key)
            if run.began_at is not None and run.ended_at is not None:
                seconds = run.ended_at - run.began_at
                self._pace.note_body(seconds)
                self.body_durations[run.task.task_type].observe(seconds)
            if held is None or held.phase == "ended":
                # Timed out, handed back, cancelled or lost: that is decided, and this result comes too late.
                if outcome.kind != EndingKind.CANCELLED:
                    self._reject(key, run.task.id)
                close_rows(outcome.rows)
                continue
            held.phase = "ended"
            ended_at = run.ended_at or self._clock.monotonic()
            decided = UncommittedEnding(ending_of(run, outcome), run.began_at, ended_at, final_calls(run))
            if len(outcome.rows) > SPOOL_ROWS:
                self._writer.put(decided)
            else:
                self._decided.append(decided)
        while self._written:
            self._settle(*self._written.popleft())

    def _check_times(self) -> None:
        """End the runs that passed their execution_timeout; their bodies end as soon as their engine can make them."""
        here = self._clock.monotonic()
        if here - self._times_checked_at < TIMEOUT_CHECK_SECONDS:
            return
        self._times_checked_at = here
        still_stuck = len(self._stuck)  # those found now first get a moment to look at their context and end
        for key, run in self._busy.items():
            held = self._held.get(key)
            if held is None or held.phase != "begun" or here < _deadline(run):
                continue
            message = f"timed out: the body ran longer than its execution_timeout of {run.task.execution_timeout:g} s"
            self._decide(held, EndingKind.TRANSIENT, message)
            if not self._engine_of(run.executor).interrupt(run):
                self._stuck.add(key)
                log.warning("a thread keeps its slot until it ends by itself: task=%d assignment=%d", run.task.id, key)
        if 0 < self.options.concurrent_tasks <= still_stuck and self._claiming:
            self._claiming = False
            self._on_fatal("all slots are held by bodies that passed their execution_timeout and cannot be ended")

    def _take_back(self) -> None:
        """While stopping: withdraw what has not begun; after the grace also what has."""
        for held in self._held.values():
            if held.phase == "waiting" and held.run.withdraw():
                self._decide(held, EndingKind.RELEASED, "the node stopped")
            elif held.phase == "begun" and self._hand_back:
                self._decide(held, EndingKind.RELEASED, "the node stopped before the body ended")
                self._engine_of(held.run.executor).interrupt(held.run)

    def _give_back_surplus(self) -> None:
        """Bodies turned out slower than the reserve was sized for: let others have what waits too long here."""
        surplus = len(self._waiting) - max(0, self.options.concurrent_tasks - len(self._busy)) - self._reserve_target()
        if surplus <= 0:
            return
        oldest = next(iter(self._waiting.values())).run.claimed_at
        if self._clock.monotonic() - oldest > RESERVE_PATIENCE_SECONDS:
            for held in list(self._waiting.values())[-surplus:]:
                if held.run.withdraw():
                    self._decide(held, EndingKind.RELEASED, "waited too long for a slot of this node")

    def _decide(self, held: Held, kind: EndingKind, message: str) -> None:
        run = held.run
        held.phase = "ended"
        self._waiting.pop(run.assignment_id, None)
        ending = Ending(run.assignment_id, run.task.id, kind, message=message)
        self._decided.append(UncommittedEnding(ending, run.began_at, self._clock.monotonic(), final_calls(run)))

    def _room(self) -> tuple[int, int]:
        """How many tasks to claim: for free slots, and beyond them for the reserve."""
        if not self._claiming or self._one_by_one or self._writer.pending >= MAX_WRITING:
            return 0, 0
        free = self.options.concurrent_tasks - len(self._busy) - len(self._waiting)
        return max(0, free), max(0, self._reserve_target() + min(0, free))

    def _reserve_target(self) -> int:
        """How many tasks to hold ready beyond the slots."""
        here = self._clock.monotonic()
        running = min((here - (run.began_at or here) for run in self._busy.values()), default=0.0)
        return self._pace.reserve(self.options.concurrent_tasks, running)

    def _turn(self) -> Turn | None:
        """One transaction, or None when a look without one showed that there is nothing to do."""
        batch = self._decided[:1] if self._one_by_one else list(self._decided)
        started = [
            run for run in self._started if (held := self._held.get(run.assignment_id)) and held.phase == "begun"
        ]
        sent = list(self._sent)
        ending = {each.ending.assignment_id for each in batch}  # their endings book their calls
        sourced = self._sourced(batch, sent)
        slots, reserve = self._room()
        reconcile, epoch = self._reconcile, self.lease.epoch
        self._promote()
        told, self._told = self._told, False
        work_waits = batch or started or sent or reconcile or (told and slots + reserve > 0)
        if not work_waits and not self._may_claim(slots, reserve, epoch):
            return None
        if self._ids.epoch != epoch:
            self._ids = AssignmentIds(epoch)
        device_id, ids, strategy = self.lease.device_id, self._ids, self._strategy()
        me = Registration(device_id, epoch)

        def work(transaction: Transaction) -> Turn:
            # asked together, so that a far database is asked once
            held = self._devices.hold(transaction, device_id, epoch)
            ends = ask_ends(transaction, [each.ending for each in batch]) if batch else None
            calling = ask_lanes_of_tasks(transaction, sourced) if sourced else None
            assigned = self._ask_assigned(transaction, me, slots)
            types, labels = self.executors.keys(), self.options.labels
            heads = claims.ask_heads(transaction, types, labels) if slots + reserve > 0 else None
            free = None
            if heads is not None and not (self.options.adopts and self._master_alive):
                free = claims.ask_free(transaction, strategy, self._free_lanes, slots + reserve)
            standing = held.read()
            ledger = Ledger(transaction, self.options.limit_of)
            reading = standing.reading
            if calling is not None:
                ledger.take(calling)
            turn = Turn(standing)
            begun = [(r.assignment_id, r.task.id, reading.earliest_date(r.began_at or 0.0)) for r in started]
            mark_started(transaction, begun)
            endings = [decided.dated(reading) for decided in batch]
            turn.ended = end_runs(ledger, endings, self.options.retry, self.options.defaults, ends)
            book_calls(ledger, [each.dated(reading) for each in sent if each.assignment_id not in ending])
            if reconcile:
                adopts = self.options.adopts and standing.may_claim
                turn.strays, turn.lost = rescue.release_unheld(ledger, device_id, epoch, self._held.keys(), adopts)
            if assigned is not None and standing.may_claim:
                turn.claimed = dispatch.adopt(ledger, assigned.read())
            if heads is not None and self._claims_itself(standing):
                found = heads.read()
                self._remember_free(found)
                room = slots - len(turn.claimed)
                request = ClaimRequest(strategy, lambda _task: me, ids, found, room, reserve, self._pace.lead, free)
                turn.claimed += claims.claim(ledger, request)
            ledger.close()
            return turn

        try:
            turn = self.db.write(work, commit_at_once=True)
        except (SQLAlchemyError, ValueError) as error:  # ValueError: text that is no UTF-8
            self._find_culprit(batch, error)
            return None
        del self._decided[: len(batch)]
        self._started.clear()
        for _ in sent:
            self._sent.popleft()
        self._one_by_one = self._one_by_one and bool(self._decided)
        if reconcile:
            self._reconcile = False
        self._after(turn, batch)
        return turn

    def _lingers(self) -> bool:
        """Whether the next turn waits a little for bodies that just began, to end them with those that have ended."""
        since, self._lingering_since = self._lingering_since, None
        longest = self._pace.linger
        has_reserve = len(self._waiting) > self.options.concurrent_tasks - len(self._busy)  # it fills the slots
        urgent = self._reconcile or not self._claiming or (self._told and sum(self._room()) > 0)
        if not longest or not (self._decided or self._sent) or has_reserve or urgent:
            return False
        here = self._clock.monotonic()
        left = longest if since is None else since + longest - here
        runs = (held.run for held in self._held.values() if held.phase != "ended")
        if left <= 0 or not any(here - (run.began_at or here) < longest for run in runs):
            return False
        self._lingering_since = here if since is None else since
        self._wait = min(self._wait, left)
        return True

    def _sourced(self, batch: Sequence[UncommittedEnding], sent: Sequence[SentCalls]) -> set[int]:
        """The tasks of these runs that have a source, and so budgets in which their calls are booked."""
        keys = [each.ending.assignment_id for each in batch] + [each.assignment_id for each in sent]
        tasks = (self._held[key].run.task for key in keys if key in self._held)
        return {task.id for task in tasks if task.source is not None}

    def _remember_free(self, heads: Sequence[Head]) -> None:
        """Lanes without a source are asked for tasks along with the next question for heads, which saves an answer."""
        free = [head.lane_id for head in heads if not head.sourced]
        self._free_lanes = tuple(dict.fromkeys((*free, *self._free_lanes)))[:SPARE_LANES]

    def _claims_itself(self, standing: DeviceState) -> bool:
        """Whether this device takes tasks by itself now: a worker leaves that to a master while there is one."""
        if not self.options.adopts:
            return standing.may_claim
        return standing.may_claim and self.options.claim_without_master and not standing.master_alive

    def _ask_assigned(self, reader: Statements, me: Registration, slots: int) -> Answer[list[Any]] | None:
        """Ask for runs that a master assigned to this worker and that have a free slot here."""
        if not self.options.adopts or slots == 0:
            return None
        return dispatch.ask_assigned(reader, me, self._held.keys(), slots)

    def _probe_strategy(self) -> Future[Strategy]:
        thread = ThreadPoolExecutor(1, "probe")
        probing = thread.submit(claims.probe_strategy, self.db)
        thread.shutdown(wait=False)
        return probing

    def _strategy(self) -> Strategy:
        """How to claim: found out while the node starts, and again when that failed."""
        if self._probing.exception() is not None:
            self._probing = self._probe_strategy()
        return self._probing.result()

    def _promote(self) -> None:
        """Let tasks come due and lanes open whose time has come."""
        if self._promote_at is not None and self._promote_at <= self._clock.monotonic() and self._claiming:
            self._promote_at = None
            if claims.promote(self.db, self._pace.lead):
                self._look_first = False

    def _may_claim(self, slots: int, reserve: int, epoch: int) -> bool:
        """Look, without a lock, whether a transaction could claim something; remembers when it can at the earliest."""
        if slots + reserve == 0:
            return False
        if not self._look_first:
            return True
        with self.db.read() as reader:
            me = Registration(self.lease.device_id, epoch)
            standing = self._devices.state(reader, me.device_id, epoch)
            heads, assigned = [], None
            if standing.may_claim:
                assigned = self._ask_assigned(reader, me, slots)
            if self._claims_itself(standing):
                heads = claims.open_heads(reader, self.executors.keys(), self.options.labels)
        self._note_wake(standing)
        found = any(slots or not head.sourced for head in heads) or bool(assigned is not None and assigned.read())
        if not found and not self._held and self._wait > 0:
            self.idle.set()
        return found

    def _note_wake(self, standing: DeviceState) -> None:
        """Remember the earliest moment at which something becomes possible."""
        self._master_alive = standing.master_alive
        reading, moments = standing.reading, []
        if standing.due_at is not None:
            moments.append(reading.surely_after(standing.due_at))
        if standing.opens_at is not None:
            moments.append(reading.surely_after(standing.opens_at) - self._pace.lead)
        if moments:
            self._promote_at = max(reading.answered_at, min(moments))
            self._wait = min(self._wait, max(0.0, self._promote_at - self._clock.monotonic()))

    def _longest_wait(self) -> float:
        """Seconds until the next pass when nothing wakes it: an interval, or the next execution_timeout."""
        wait = self.options.dispatch_interval if self._held else self.options.schedule_interval
        wait = min(wait, self.options.schedule_interval)
        if self._waiting:
            wait = min(wait, RESERVE_PATIENCE_SECONDS)
        if 0 < self.options.concurrent_tasks <= len(self._stuck):
            wait = min(wait, TIMEOUT_CHECK_SECONDS)
        if self._busy:
            deadlines = [_deadline(run) for key, run in self._busy.items() if key not in self._stuck]
            if deadlines:
                wait = min(wait, max(TIMEOUT_CHECK_SECONDS, min(deadlines) - self._clock.monotonic()))
        return wait

    def _after(self, turn: Turn, batch: list[UncommittedEnding]) -> None:
        """Take over what the transaction committed."""
        for decided, ended in zip(batch, turn.ended, strict=True):
            self._settle(decided, ended, quiet=len(batch) > QUIET_LINES)
        if len(batch) > QUIET_LINES:
            kinds = Counter(ended.move or str(ended.verdict) for ended in turn.ended)
            log.info(
                "Ended %d runs: %s", len(batch), " ".join(f"{kind}={count}" for kind, count in sorted(kinds.items()))
            )
        if turn.strays:
            log.warning("released %d claims whose reply was lost", turn.strays)
        for key in turn.lost:
            self._drop(key)
        if turn.claimed:
            self.idle.clear()
            self._submit(turn.claimed, turn.standing)
        elif not self._held:
            self.idle.set()
        self._look_first = not turn.claimed
        self._wait = min(self._wait, self._longest_wait())  # of what was claimed, too: that it began is to be recorded
        self._note_wake(turn.standing)
        for ended in turn.ended:
            if ended.next_run_at is not None:
                self._wait = min(self._wait, max(0.0, (ended.next_run_at - turn.standing.reading.now).total_seconds()))
        if self._decided:
            self._wait = 0.0
        elif self._claiming and (not turn.claimed or sum(self._room()) > 0):
            # What this turn left, itself opened or closed, and what others had locked, only the next look can see.
            # What was claimed begins before it: the bodies' threads need the interpreter, too.
            self._wait = min(self._wait, LOOK_AGAIN_SECONDS)

    def _permit(self, claim: Claim, standing: DeviceState) -> RunPermit | None:
        """The calls of a run, its moments turned into those of the monotonic clock, on the safe side."""
        if claim.task.source is None:
            return None
        slots: list[SendWindow] | None = None
        if claim.calls is not None:
            slots = [
                (
                    standing.reading.surely_after(window.not_before),
                    standing.reading.surely_before(window.not_after),
                    window.way_seconds,
                )
                for window in claim.calls
            ]
        assignment_id, task_id = claim.assignment_id, claim.task.id

        def on_answer(seen: tuple[float, ...]) -> None:
            self._sent.append(SentCalls(assignment_id, task_id, seen))
            self.wake()

        return RunPermit(slots, lambda: self.lease.trusted_until, on_answer, self._clock)

    def _submit(self, claimed: list[Claim], standing: DeviceState) -> None:
        by_engine: dict[int, tuple[Engine, list[Run]]] = {}
        for each in claimed:
            executor = self.executors[each.task.task_type]
            permit = self._permit(each, standing)
            held = Held(Run(each.assignment_id, each.task, executor, self._make_context(each, permit), self._clock))
            self._held[each.assignment_id] = self._waiting[each.assignment_id] = held
            engine = self._engine_of(executor)
            by_engine.setdefault(id(engine), (engine, []))[1].append(held.run)
        if len(claimed) <= QUIET_LINES:
            for each in claimed:
                log.info("Executing task %d of type %s", each.task.id, each.task.task_type)
        for engine, runs in by_engine.values():
            engine.submit(runs)

    def _settle(self, decided: UncommittedEnding, ended: Ended, quiet: bool = False) -> None:
        """One ending is committed, or was refused."""
        ending = ended.ending
        key, task_id = ending.assignment_id, ending.task_id
        held = self._held.pop(key, None)
        close_rows(decided.ending.rows)
        if ended.verdict is FenceVerdict.STALE:
            if decided.ending.kind != EndingKind.RELEASED:
                self._reject(key, task_id)
            return
        self.counters[ended.move or "finish"] += 1
        if ENDINGS[ending.kind].counts_as_error:
            self.counters["errors"] += 1
            self.errors[ending.kind] += 1
        if ended.parked:
            name = "" if held is None else f"source={held.run.task.source} username={held.run.task.username} "
            log.warning("account parked until a person resumes it: %stask=%d reason=%s", name, task_id, ending.message)
        if ended.move == "finish":
            if not quiet:
                seconds = decided.ended_at - (decided.began_at or decided.ended_at)
                log.info("Task %d completed successfully in %.2fs", task_id, seconds)
        elif ended.move in {"fail", "bury"}:
            log.error("Task %d failed: kind=%s assignment=%d reason=%s", task_id, ending.kind, key, ending.message)
        elif ended.move is not None and ending.kind not in (EndingKind.RELEASED, EndingKind.AUTH) and not quiet:
            when = "" if ended.next_run_at is None else f" again_at={ended.next_run_at:%Y-%m-%dT%H:%M:%SZ}"
            log.warning(
                "Task %d waits: kind=%s assignment=%d%s reason=%s", task_id, ending.kind, key, when, ending.message
            )

    def _reject(self, key: int, task_id: int) -> None:
        self.counters["stale results rejected"] += 1
        log.warning("stale result rejected: task=%d assignment=%d", task_id, key)

    def _drop(self, key: int) -> None:
        """A run that is ours no more: cancelled by a person, or lost to another device."""
        held = self._held.get(key)
        if held is None or held.phase == "ended":  # its ending meets the gate, which knows
            return
        del self._held[key]
        self._waiting.pop(key, None)
        permit = held.run.context.permit
        if isinstance(permit, RunPermit):
            self._sent.append(SentCalls(key, held.run.task.id, permit.revoke(), is_over=True))
        if not held.run.withdraw():
            self._engine_of(held.run.executor).interrupt(held.run)
        log.warning("run cancelled or lost: task=%d assignment=%d", held.run.task.id, key)

    def _lose_lease(self, epoch: int) -> None:
        """All runs of this epoch are lost; register again, unless the node stops anyway."""
        log.warning("lease lost: device=%s epoch=%d runs=%d", self.lease.device_id, epoch, len(self._held))
        for key in list(self._held):
            self._drop(key)
        self._started.clear()
        self._wait = 0.0
        if not self._claiming:
            self._held.clear()
            return
        try:
            self.lease.renew(epoch)
        except DatabaseUnreachable:
            self._wait = 1.0
        except CrawlfleetError as error:
            self._claiming = False
            self._on_fatal(str(error))

    def _find_culprit(self, batch: list[UncommittedEnding], error: Exception) -> None:
        """The database refused the transaction, not because it is away: one ending may be what it cannot take."""
        cause = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        self._wait = 1.0
        if not batch or (self._one_by_one and batch[0].ending.kind == EndingKind.PERMANENT):
            raise error
        if self._one_by_one:
            ending = batch[0].ending
            close_rows(ending.rows)
            message = f"the database refused the result: {cause}"
            self._decided[0] = replace(
                batch[0], ending=Ending(ending.assignment_id, ending.task_id, EndingKind.PERMANENT, message=message)
            )
        else:
            log.error("turn refused by the database, ending runs one by one: %s", cause)
        self._one_by_one = True
        self._wait = 0.0

    def _wrote(self, decided: UncommittedEnding, ended: Ended) -> None:
        self._written.append((decided, ended))
        self.wake()


def _deadline(run: Run) -> float:
    return (run.began_at or run.clock.monotonic()) + run.task.execution_timeout
