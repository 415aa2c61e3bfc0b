"""A turn: what one transaction of a scheduler does, as a function of what it is given.

The database layer may repeat a transaction, so a turn changes nothing but the database: it is given all that it needs,
and the scheduler takes over what comes of it once it is committed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

from crawlfleet.core.clock import ClockReading
from crawlfleet.core.db import Database
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.transaction import Answer, Statements, Transaction
from crawlfleet.model import claim_strategy, claims, dispatch, rescue
from crawlfleet.model.claim_strategy import Strategy
from crawlfleet.model.claims import SPARE_LANES, AccountKey, AssignmentIds, Claim, ClaimRequest, Registration
from crawlfleet.model.device import DeviceDAO, DeviceState
from crawlfleet.model.gate import Ended, ask_ends, book_calls, end_runs, mark_started
from crawlfleet.model.lane_budgets import ask_lanes_of_tasks
from crawlfleet.model.ledger import Ledger
from crawlfleet.services.call_memory import CallMemory
from crawlfleet.services.scheduler_options import SchedulerOptions
from crawlfleet.services.uncommitted import Writes

PATIENCE_SECONDS = 1.0  # how long a body may wait in its slot for a budget that was closed


@dataclass(frozen=True, slots=True)
class Guesses:
    """What earlier turns and looks showed: lanes without a source that had tasks, those of late first, and whether a
    master assigns tasks."""

    free_lanes: tuple[int, ...] = ()
    master_alive: bool = False

    def after(self, state: DeviceState, free_lanes: Sequence[int] = ()) -> Guesses:
        """The guesses after a turn or look that saw this."""
        # these lanes are asked for tasks along with the next question for heads, which saves an answer
        lanes = tuple(dict.fromkeys((*free_lanes, *self.free_lanes)))[:SPARE_LANES]
        return Guesses(lanes, state.master_alive)


@dataclass(frozen=True, slots=True)
class TurnInput:
    """What a turn is to do.

    `owner` is for whom. `slots` tasks are to be claimed, and `reserve` more, that carry `most_bytes`; `lead_seconds`
    before their budget reopens. `sent` are the calls of the last runs, dated anew when the database's clock was moved
    since the reading `before`; only with `may_call` tasks with a source are claimed. `held` are the ids of the runs in
    memory, to be compared with the database's when `reconcile` is set.
    """

    owner: Registration
    writes: Writes
    slots: int
    reserve: int
    held: Collection[int]
    reconcile: bool
    lead_seconds: float
    most_bytes: int
    guesses: Guesses
    lacking: tuple[AccountKey, ...]
    sent: CallMemory
    before: ClockReading | None
    may_call: bool

    @property
    def room(self) -> int:
        """How many tasks may be claimed."""
        return self.slots + self.reserve


@dataclass(slots=True)
class TurnResult:
    """What a turn did: `ended` in the order of the endings; `lost` are ids of held runs that are no longer ours.

    `cut_off` are ids of held runs whose budget was closed before they sent all their calls.
    `strays` runs were released that nobody held. `free_lanes` are the lanes without a source that have tasks.
    `clock_moved` is by how many seconds the database's clock was set since the reading before.
    """

    state: DeviceState
    claimed: list[Claim] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    strays: int = 0
    free_lanes: list[int] = field(default_factory=list)
    clock_moved: float = 0.0
    cut_off: Answer[set[int]] = field(default_factory=lambda: Answer.of(set()))


class TurnMaker:
    """Makes the turns of one device. It keeps nothing of what they do."""

    def __init__(self, db: Database, task_types: Collection[str], options: SchedulerOptions) -> None:
        self.db = db
        self._types = task_types
        self._options = options
        self._devices = DeviceDAO(db)
        self._ids = AssignmentIds(0)
        self._probing = self._probe_strategy()

    def take(self, given: TurnInput) -> TurnResult:
        """One turn, committed; raises LeaseLost, DatabaseUnreachable, and what the database refuses."""
        if self._ids.epoch != given.owner.epoch:
            self._ids = AssignmentIds(given.owner.epoch)  # each is given once, however often a turn is repeated
        return self.db.write(partial(self._write, given, self.strategy()), commit_at_once=True)

    def _write(self, given: TurnInput, strategy: Strategy, transaction: Transaction) -> TurnResult:
        options, owner, writes = self._options, given.owner, given.writes
        # asked together, so that a far database is asked once
        device = self._devices.hold(transaction, owner.device_id, owner.epoch)
        endings = [each.undated() for each in writes.endings]
        ends = ask_ends(transaction, endings) if endings else None
        lanes = ask_lanes_of_tasks(transaction, writes.sourced) if writes.sourced else None
        assigned = self._ask_assigned(transaction, given)
        heads = claims.ask_heads(transaction, self._types, options.labels, given.lacking) if given.room else None
        free = None
        if heads is not None and not (options.adopts and given.guesses.master_alive):
            free = claims.ask_free(transaction, strategy, given.guesses.free_lanes, given.room)
        state = device.read()
        reading, ledger, result = state.reading, Ledger(transaction, options.limit_of), TurnResult(state)
        if lanes is not None:
            ledger.take(lanes)
        begun = [(run.assignment_id, run.task.id, reading.earliest_date(run.began_at or 0.0)) for run in writes.started]
        mark_started(transaction, begun)
        for each, ending in zip(writes.endings, endings, strict=True):
            each.date(ending, reading)
        result.ended = end_runs(ledger, endings, options.retry, options.defaults, ends)
        over = {each.assignment_id for each in endings}  # those book their calls
        book_calls(ledger, [each.dated(reading) for each in writes.calls if each.assignment_id not in over])
        result.clock_moved = 0.0 if given.before is None else reading.moved_since(given.before)
        may_call = given.may_call and result.clock_moved <= 0
        if result.clock_moved:  # before anything is claimed
            book_calls(ledger, [replace(each.dated(reading), is_over=False) for each in given.sent.recent()])
        if given.reconcile:
            adopts = options.adopts and state.may_claim
            result.strays, result.lost = rescue.release_unheld(ledger, owner.device_id, owner.epoch, given.held, adopts)
        if assigned is not None and state.may_claim:
            adopted = [row for row in assigned.read() if may_call or row["source"] is None]
            result.claimed = dispatch.adopt(ledger, adopted, max(given.lead_seconds, PATIENCE_SECONDS))
        if heads is not None and self._claims_itself(state):
            open_heads = [head for head in heads.read() if may_call or not head.sourced]
            result.free_lanes = [head.lane_id for head in open_heads if not head.sourced]
            slots = given.slots - len(result.claimed)
            request = ClaimRequest(
                strategy,
                lambda _task: owner,
                self._ids,
                open_heads,
                slots,
                given.reserve,
                given.lead_seconds,
                free,
                given.most_bytes,
            )
            result.claimed += claims.claim(ledger, request)
        ledger.close()
        if given.held and (given.reconcile or any(each.kind == EndingKind.QUOTA for each in endings)):
            soon = ledger.now + timedelta(seconds=max(given.lead_seconds, PATIENCE_SECONDS))
            result.cut_off = rescue.ask_cut_off(transaction, given.held, soon)
        return result

    def look(self, given: TurnInput) -> tuple[DeviceState, bool]:
        """How the device stands, and whether a turn would claim something; takes no lock. Raises LeaseLost."""
        owner = given.owner
        with self.db.read() as reader:
            state = self._devices.state(reader, owner.device_id, owner.epoch)
            assigned = self._ask_assigned(reader, given) if state.may_claim else None
            heads = []
            if self._claims_itself(state):
                heads = claims.open_heads(reader, self._types, self._options.labels, given.lacking)
            found = any((given.slots and given.may_call) or not head.sourced for head in heads)
            return state, found or bool(assigned is not None and assigned.read())

    def sees_work(
        self,
        reader: Statements,
        owner: Registration,
        held: Collection[int],
        master_alive: bool,
        lacking: Collection[AccountKey],
    ) -> bool:
        """Whether a task was assigned to this device, or is due that it knows and no master assigns."""
        if self._options.adopts:
            if dispatch.ask_assigned(reader, owner, held, 1).read():
                return True
            if master_alive or not self._options.claim_without_master:
                return False
        return bool(claims.open_heads(reader, self._types, self._options.labels, lacking))

    def _claims_itself(self, state: DeviceState) -> bool:
        """Whether this device takes tasks by itself now: a worker leaves that to a master while there is one."""
        if not self._options.adopts:
            return state.may_claim
        return state.may_claim and self._options.claim_without_master and not state.master_alive

    def _ask_assigned(self, reader: Statements, given: TurnInput) -> Answer[list[Any]] | None:
        """Ask for runs that a master assigned to this worker and that have a free slot here."""
        if not self._options.adopts or given.slots == 0:
            return None
        return dispatch.ask_assigned(reader, given.owner, given.held, given.slots)

    def _probe_strategy(self) -> Future[Strategy]:
        thread = ThreadPoolExecutor(1, "probe")
        probing = thread.submit(claim_strategy.probe_strategy, self.db)
        thread.shutdown(wait=False)
        return probing

    def strategy(self) -> Strategy:
        """How to claim: found out while the node starts, and again when that failed."""
        if self._probing.exception() is not None:
            self._probing = self._probe_strategy()
        return self._probing.result()
