"""TaskScheduler: the pump between the queue in the database and the engines of this node.

One loop, one short transaction a turn: end what finished, record what began, claim what fits. While a turn is at
the database more bodies finish and leave together in the next: batching by itself. No transaction is open while a
body runs, and nothing here decides by this machine's clock: moments are the database's, carried over short spans by
the monotonic clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from crawlfleet.core.database_errors import VALUE_ERRORS
from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, DatabaseUnreachable, LeaseLost
from crawlfleet.core.service import Service
from crawlfleet.core.transaction import Statements
from crawlfleet.executors.contract import Executor
from crawlfleet.model.claims import Registration, promote
from crawlfleet.services import log_lines
from crawlfleet.services.alarm import AWAY_SECONDS, Alarm
from crawlfleet.services.clock_watch import ClockWatch
from crawlfleet.services.inbox import Inbox
from crawlfleet.services.lease import Lease
from crawlfleet.services.missing_tokens import MissingTokens, lacks_of
from crawlfleet.services.result_writer import ResultWriter
from crawlfleet.services.run_keeper import RunKeeper, Stage
from crawlfleet.services.run_starter import EngineOf, MakeContext, RunStarter
from crawlfleet.services.scheduler_options import SchedulerOptions
from crawlfleet.services.turn import Guesses, TurnInput, TurnMaker, TurnResult
from crawlfleet.services.vital_signs import WorkReport
from crawlfleet.services.work_stats import WorkStats

LOOK_AGAIN_SECONDS = 0.01  # after a turn that claimed less than there was room for
FLUSH_SECONDS = 5.0  # how long a stopping node tries to write what is left


class TaskScheduler(Service):
    """Claims tasks for one device, hands them to its engines and ends their runs.

    `inbox` is for what happens meanwhile, from any thread. `idle` is set while a look at the queue finds nothing to do
    for this node.
    """

    def __init__(
        self,
        db: Database,
        lease: Lease,
        inbox: Inbox,
        executors: Mapping[str, Executor],
        engine_of: EngineOf,
        make_context: MakeContext,
        options: SchedulerOptions,
        on_fatal: Callable[[str], None],
    ) -> None:
        super().__init__("task_scheduler", options.schedule_interval)
        self.lease = lease
        self.stats = WorkStats(executors)
        self.idle = threading.Event()
        self.alarm = Alarm(db.clock, options.schedule_interval, options.dispatch_interval)
        self._inbox = inbox
        starter = RunStarter(executors, engine_of, make_context, lease, db.clock, inbox.run_called)
        writer = ResultWriter(db, options, inbox.result_written)
        self.runs = RunKeeper(options.concurrent_tasks, db.clock, starter, writer, inbox, self.stats)
        self._turns = TurnMaker(db, executors.keys(), options)
        self._tokens = MissingTokens(db, options.usable)
        self._guesses = Guesses()
        self._clock_watch = ClockWatch(db.clock, 2 * options.heartbeat_interval)  # others look after their next beat
        self._passed = threading.Event()
        self._on_fatal = on_fatal
        inbox.wake = self.wake

    @property
    def hungry(self) -> bool:
        """Whether a task could be claimed now; any thread may ask."""
        return self.runs.claiming and self.runs.table.free > 0 and not self.runs.loop.is_held

    def queue_changed(self) -> None:
        """The watcher noticed it."""
        self._inbox.queue_changed(surely=self._turns.db.family != "sqlite")

    def sees_work(self, reader: Statements) -> bool:
        """Whether a task was assigned to this device, or is due that it knows and no master assigns."""
        held = tuple(self.runs.table.held)
        return self._turns.sees_work(reader, self._owner(), held, self._guesses.master_alive, self._tokens.accounts)

    def _owner(self) -> Registration:
        return Registration(self.lease.device_id, self.lease.epoch)

    def _now(self) -> float:
        return self._turns.db.clock.monotonic()

    @property
    def obstacle(self) -> str | None:
        """Why this node's work does not go on, or not reach the database, once that has lasted; None while it does."""
        return self.alarm.obstacle or self.runs.obstacle

    def report(self) -> WorkReport:
        """What a beat tells of the work."""
        return replace(self.runs.report(), obstacle=self.obstacle)

    # -- life

    def start(self) -> None:
        self.runs.writer.start()
        super().start()

    def drain(self, grace_seconds: float) -> None:
        """Claim no more, let running bodies end for `grace_seconds`, then hand the rest back without an attempt spent.

        Returns when all of that is committed, at the latest a few seconds after the grace.
        """
        table = self.runs.table
        self.runs.stage = Stage.DRAINING
        log_lines.stopping(grace_seconds, table.bodies)
        self._wait_until_empty(grace_seconds)
        if table.held:
            self.runs.stage = Stage.HANDING_BACK
            self._wait_until_empty(FLUSH_SECONDS)
        for service in (self, self.runs.writer):
            service.stop()
            service.join(FLUSH_SECONDS)
        log_lines.stopped(len(table.held))

    def _wait_until_empty(self, seconds: float) -> None:
        deadline = self._now() + seconds
        self.wake()
        while self.runs.table.held and (left := deadline - self._now()) > 0:
            self._passed.clear()
            if self.runs.table.held:
                self._passed.wait(min(left, 0.1))

    # -- the pump

    def next_wait(self) -> float:
        return self.alarm.seconds

    def run_once(self) -> TurnResult | None:
        """One pass: collect what happened, then a transaction when there is something to write or to claim."""
        self.runs.take_in()
        if self.alarm.timeouts_are_due():
            self.runs.loop.look()
            if (problem := self.runs.end_overdue()) is not None:
                self._on_fatal(problem)
        self.runs.give_back()
        self.alarm.reset(self.runs.table)
        if (left := self._clock_watch.pause_left) > 0:
            self.alarm.within(left)
        self.alarm.within(self.runs.look_again_seconds())
        if self._lingers():
            return None
        began, result = self._now(), None
        try:
            result = self._turn()
        except DatabaseUnreachable as error:
            self._inbox.reconcile = True
            if self._turns.db.is_gone:
                self.runs.stage = Stage.DRAINING
                self._on_fatal(str(error))
            elif error.trouble is not None and self.runs.set_aside():
                self.alarm.set(0.0)  # without them it may go well
            elif self.alarm.database_away(began, str(error)):
                log_lines.database_away(error)
        except LeaseLost as error:
            self._lose_lease(error.epoch)
        else:
            if (seconds := self.alarm.database_back()) is not None:
                log_lines.database_back(seconds)
            if result is not None:
                self.stats.note_turn(self._now() - began)
        self._passed.set()
        return result

    def _lingers(self) -> bool:
        """Whether the next turn waits a little for bodies that just began, to end them with those that have ended."""
        inbox, table = self._inbox, self.runs.table
        urgent = inbox.reconcile or not self.runs.claiming or table.has_reserve
        if urgent or not self.runs.outbox or (inbox.news and sum(self.runs.room()) > 0):
            return self.alarm.lingers(0.0, table)
        return self.alarm.lingers(self.stats.pace.linger, table)

    def _turn(self) -> TurnResult | None:
        """One transaction, or None when a look without one showed that there is nothing to do."""
        if self._inbox.reconcile:
            self._tokens.look_again(self._owner())
        given = self._turn_input()
        if self.runs.claiming and self.alarm.promotion_is_due() and promote(self._turns.db, given.lead_seconds):
            self.alarm.look_first = False
        news, self._inbox.news = self._inbox.news, False
        if not (given.writes or given.reconcile or (news and given.room > 0) or self._may_claim(given)):
            return None
        try:
            result = self._turns.take(given)
        except (SQLAlchemyError, *VALUE_ERRORS) as error:
            self.alarm.set(AWAY_SECONDS)
            if self.runs.turn_refused(given.writes, error, self._turns.db.family):
                self.alarm.set(0.0)
            return None
        self._take_over(given, result)
        return result

    def _turn_input(self) -> TurnInput:
        slots, reserve = self.runs.room()
        writes = self.runs.to_write()
        return TurnInput(
            owner=self._owner(),
            writes=writes,
            slots=slots,
            reserve=reserve,
            held=self.runs.table.held.keys(),
            reconcile=self._inbox.reconcile,
            lead_seconds=self.stats.pace.lead,
            most_bytes=self.runs.room_bytes,
            guesses=self._guesses,
            lacking=tuple({*self._tokens.accounts, *lacks_of(writes)}),
            sent=self.runs.sent,
            before=self._clock_watch.before,
            may_call=self._clock_watch.pause_left <= 0,
        )

    def _may_claim(self, given: TurnInput) -> bool:
        """Look, without a lock, whether a transaction could claim something, unless the last one did."""
        if given.room == 0:
            return False
        if not self.alarm.look_first:
            return True
        state, found = self._turns.look(given)
        self._guesses = self._guesses.after(state)
        if self._clock_watch.was_set(state.reading):
            return True  # its turn dates our calls anew
        self.alarm.note_state(state, given.lead_seconds)
        if not found and not given.held and self.alarm.seconds > 0:
            self.idle.set()
        return found

    def _take_over(self, given: TurnInput, result: TurnResult) -> None:
        """Take over what the transaction committed."""
        self.runs.take_over(given.writes, result.ended, result.lost)
        self.runs.cut_off(result.cut_off.read())
        if lacking := lacks_of(given.writes):
            self._tokens.note(given.owner, lacking)
        if given.reconcile:
            self._inbox.reconcile = False
        if result.strays:
            log_lines.strays_released(result.strays)
        self._guesses = self._guesses.after(result.state, result.free_lanes)
        self._clock_watch.after_turn(result.state.reading, result.clock_moved)
        if result.claimed:
            self.idle.clear()
            self.runs.start(result.claimed, result.state)
        elif not given.held:
            self.idle.set()
        self.alarm.after_turn(self.runs.table, result, given.lead_seconds)
        if self.runs.outbox.endings:
            self.alarm.set(0.0)
        elif self.runs.claiming and (not result.claimed or sum(self.runs.room()) > 0):
            # What this turn left, itself opened or closed, and what others had locked, only the next look can see.
            # What was claimed begins before it: the bodies' threads need the interpreter, too.
            self.alarm.within(LOOK_AGAIN_SECONDS)

    def _lose_lease(self, epoch: int) -> None:
        """All runs of this epoch are lost; register again, unless the node stops anyway."""
        log_lines.lease_lost(self.lease.device_id, epoch, len(self.runs.table.held))
        self.runs.drop_all()
        self.alarm.set(0.0)
        if not self.runs.claiming:
            self.runs.table.held.clear()
            return
        try:
            self.lease.renew(epoch)
        except DatabaseUnreachable:
            self.alarm.set(AWAY_SECONDS)
        except CrawlfleetError as error:
            self.runs.stage = Stage.DRAINING
            self._on_fatal(str(error))
