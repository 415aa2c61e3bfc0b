"""Dispatcher: a master's loop, which assigns due tasks to the workers of the fleet.

Each pass is a look without a lock and, when there is something to assign, one short transaction for all workers. Which
worker gets a task is decided by one of four functions. Any number of masters may run: the claim gives a task to one.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable, LeaseLost
from crawlfleet.core.service import Service
from crawlfleet.core.transaction import Answer, Statements, Transaction
from crawlfleet.model import claim_strategy, claims, dispatch, signals
from crawlfleet.model.budget import LimitOf, as_stored
from crawlfleet.model.claims import AssignmentIds, ClaimRequest, Head, Registration
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.dispatch import Candidate, Kind
from crawlfleet.model.ledger import Ledger
from crawlfleet.services.lease import Lease
from crawlfleet.services.scheduler_options import LoadBalanceStrategy

log = logging.getLogger(__name__)

MAX_ASSIGNED = 1000  # tasks in one transaction
PRODUCTIVE_LOOK_SECONDS = 0.02  # after a pass that assigned something; no less than the pass took
BUSY_LOOK_SECONDS = 0.1  # while tasks wait for slots: that a run has ended gives no sign
LOOK_SHARE = 0.05  # of the time may go into such passes: a far database is asked less often
LEAD_SECONDS = 0.5  # a task is assigned so long before its budget reopens, since its worker has yet to take it over
QUIET_LINES = 20  # more assignments than this in one pass are told in one line

Placed = tuple[int, Registration, str, str | None]
Choose = Callable[[Sequence[Candidate], random.Random], Candidate]


def round_robin(candidates: Sequence[Candidate], _random: random.Random) -> Candidate:
    """The worker that this master has given the fewest tasks so far."""
    return min(candidates, key=lambda each: each.given)


def least_tasks(candidates: Sequence[Candidate], _random: random.Random) -> Candidate:
    """The worker with the fewest live tasks for its slots."""
    return min(candidates, key=lambda each: each.live / max(1, each.slots))


def weighted(candidates: Sequence[Candidate], chance: random.Random) -> Candidate:
    """By chance, the likelier the more CPU, memory and slots are free; an unknown use counts as half."""
    return chance.choices(candidates, [max(_headroom(each), 0.01) for each in candidates])[0]


def by_chance(candidates: Sequence[Candidate], chance: random.Random) -> Candidate:
    """Any worker."""
    return chance.choice(candidates)


CHOOSE: Mapping[LoadBalanceStrategy, Choose] = {
    LoadBalanceStrategy.ROUND_ROBIN: round_robin,
    LoadBalanceStrategy.LEAST_TASKS: least_tasks,
    LoadBalanceStrategy.WEIGHTED: weighted,
    LoadBalanceStrategy.RANDOM: by_chance,
}


def _headroom(candidate: Candidate) -> float:
    uses = (candidate.cpu_usage, candidate.memory_usage)
    free = [0.5 if use is None else 1 - use / 100 for use in uses]
    return (sum(free) + 1 - candidate.live / max(1, candidate.slots)) / 3


@dataclass
class Dispatched:
    """What one pass did. `busy`: tasks or runs wait for workers to have slots.

    `placed`: (task id, worker, task type, username) of the tasks that a worker was chosen for.
    """

    placed: list[Placed] = field(default_factory=list)
    assigned: int = 0
    taken_back: int = 0
    busy: bool = False


class Dispatcher(Service):
    """Assigns tasks for as long as its device holds its lease; a DeviceManager elsewhere renews that."""

    def __init__(
        self,
        db: Database,
        lease: Lease,
        strategy: LoadBalanceStrategy,
        interval: float,
        limit_of: LimitOf = as_stored,
        chance: random.Random | None = None,
    ) -> None:
        super().__init__("dispatcher", interval)
        self.db = db
        self.lease = lease
        self.counters: Counter[str] = Counter()
        self.idle = threading.Event()  # set while a pass finds nothing to assign
        self._choose = CHOOSE[strategy]
        self._limit_of = limit_of
        self._random = chance or random.Random()
        self._devices = DeviceDAO(db)
        self._claiming: claim_strategy.Strategy | None = None
        self._ids = AssignmentIds(0)
        self._given: Counter[str] = Counter()  # by device
        self._kinds: set[Kind] = set()  # of the workers of the latest pass
        self._wait = 0.0

    @property
    def hungry(self) -> bool:
        """Whatever is due is for some worker."""
        return True

    def queue_changed(self) -> None:
        """The watcher noticed it."""
        self.wake()

    def sees_work(self, reader: Statements) -> bool:
        """Whether a task is due that some worker knows."""
        return bool(self._ask_heads(reader, self._kinds).read())

    def _ask_heads(self, reader: Statements, kinds: Collection[Kind]) -> Answer[list[Head]]:
        """Ask for the most urgent lanes of tasks that one of these kinds of workers takes."""
        asked = [claims.ask_heads(reader, each.types, each.labels, each.lacking) for each in kinds]

        def read() -> list[Head]:
            heads = {head for answer in asked for head in answer.read()}
            return sorted(heads, key=lambda head: head.key)[: claims.MAX_LANES]

        return Answer(read)

    def next_wait(self) -> float:
        return self._wait

    def run_once(self) -> Dispatched:
        """One pass."""
        began = self.db.clock.monotonic()
        self._wait = self.interval
        try:
            done = self._pass()
        except LeaseLost:  # the heartbeat registers again
            self._wait = 1.0
            return Dispatched()
        except DatabaseUnreachable as error:
            self._wait = 1.0
            log.debug("database away: %s", error)
            return Dispatched()
        seconds = self.db.clock.monotonic() - began
        if done.assigned or done.taken_back:
            self.idle.clear()
            self._wait = max(PRODUCTIVE_LOOK_SECONDS, seconds)
        elif done.busy:
            self._wait = min(self._wait, max(BUSY_LOOK_SECONDS, seconds / LOOK_SHARE))
        else:
            self.idle.set()
        self.counters["assigned"] += done.assigned
        self.counters["taken back"] += done.taken_back
        return done

    def _pass(self) -> Dispatched:
        claims.promote(self.db, LEAD_SECONDS)
        epoch = self.lease.epoch
        with self.db.read() as reader:
            state = self._devices.state(reader, self.lease.device_id, epoch)
            workers = dispatch.candidates(reader, lock=False)
            self._kinds = {each.kind for each in workers}
            heads = self._ask_heads(reader, _with_room(workers)).read() if state.may_claim else []
            waiting = bool(heads) or bool(state.may_claim and self._ask_heads(reader, self._kinds).read())
        for moment in (state.due_at, state.opens_at):
            if moment is not None:
                wait = state.reading.surely_after(moment) - self.db.clock.monotonic()
                self._wait = min(self._wait, max(0.0, wait))
        if not heads and not dispatch.unlevel(workers):
            return Dispatched(busy=waiting or any(each.surplus for each in workers))
        if self._ids.epoch != epoch:
            self._ids = AssignmentIds(epoch)
        if self._claiming is None:
            self._claiming = claim_strategy.probe_strategy(self.db)
        done = self.db.write(partial(self._assign, epoch, self._claiming))
        self._tell(done.placed)
        return done

    def _assign(self, epoch: int, strategy: claim_strategy.Strategy, transaction: Transaction) -> Dispatched:
        """What one transaction does. It may be repeated, so it changes nothing of this object but draws of chance."""
        mine = self._devices.hold(transaction, self.lease.device_id, epoch)
        workers = dispatch.candidates(transaction, lock=True)
        heads = self._ask_heads(transaction, _with_room(workers))
        state = mine.read()
        ledger = Ledger(transaction, self._limit_of)
        for each in workers:
            each.given = self._given[each.owner.device_id]
        done = Dispatched(taken_back=dispatch.level(ledger, workers), busy=True)

        def place(task: Any) -> Registration | None:
            able = [each for each in workers if each.room and each.kind.takes(task)]
            if not able:
                return None
            chosen = self._choose(able, self._random)
            chosen.live += 1
            chosen.given += 1
            done.placed.append((task["id"], chosen.owner, task["task_type"], task["username"]))
            return chosen.owner

        room = min(MAX_ASSIGNED, sum(each.room for each in workers))
        if state.may_claim and room:
            request = ClaimRequest(strategy, place, self._ids, heads.read(), room, lead_seconds=LEAD_SECONDS)
            done.assigned = len(claims.claim(ledger, request))
        ledger.close()
        if done.assigned or done.taken_back:
            signals.tasks_changed(transaction)
        return done

    def _tell(self, placed: Sequence[Placed]) -> None:
        if not placed:
            return
        devices = Counter(owner.device_id for _, owner, _, _ in placed)
        self._given.update(devices)
        log.info("Dispatching %d tasks to %d devices", len(placed), len(devices))
        if len(placed) <= QUIET_LINES:
            for task_id, owner, task_type, username in placed:
                log.info(
                    "Task %d assigned to device %s (type: %s, user: %s)", task_id, owner.device_id, task_type, username
                )


def _with_room(workers: Sequence[Candidate]) -> set[Kind]:
    return {each.kind for each in workers if each.room}
