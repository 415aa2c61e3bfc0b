"""What becomes of a node's runs between two turns: begun, ended, timed out, withdrawn, settled or lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum, auto

from crawlfleet.core.clock import Clock
from crawlfleet.core.database_errors import condemns
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import cause_of
from crawlfleet.engines.contract import Run, RunPhase
from crawlfleet.executors.permit import RunPermit
from crawlfleet.model.claims import MAX_HELD_BYTES, Claim
from crawlfleet.model.device import DeviceState
from crawlfleet.model.ending import Outcome
from crawlfleet.model.gate import Ended, FenceVerdict
from crawlfleet.services import log_lines
from crawlfleet.services.alarm import OBSTACLE_SECONDS
from crawlfleet.services.call_memory import CallMemory
from crawlfleet.services.inbox import Inbox
from crawlfleet.services.loop_watch import LOOK_SECONDS, LoopWatch
from crawlfleet.services.result_writer import ResultWriter
from crawlfleet.services.run_starter import RunStarter
from crawlfleet.services.run_table import RESERVE_PATIENCE_SECONDS, RunTable
from crawlfleet.services.uncommitted import Outbox, SentCalls, UncommittedEnding, Writes, ending_of
from crawlfleet.services.vital_signs import WorkReport
from crawlfleet.services.work_stats import WorkStats

WAIT_SECONDS = 1.0  # a body that waits longer for its call is not waited for by a node that stops
MAX_WRITING = 4  # large results on their way to the database before claiming stops


class Stage(Enum):
    """What a scheduler still does."""

    CLAIMING = auto()
    DRAINING = auto()  # what has begun may end
    HANDING_BACK = auto()  # everything goes back


class RunKeeper:
    """The runs of a node, and what they leave for the next turn. Only the scheduler's thread changes it."""

    def __init__(
        self, slots: int, clock: Clock, starter: RunStarter, writer: ResultWriter, inbox: Inbox, stats: WorkStats
    ) -> None:
        self.stage = Stage.CLAIMING
        self.table = RunTable(slots, clock)
        self.outbox = Outbox()
        self.sent = CallMemory(clock)
        self.writer = writer
        self.loop = LoopWatch(starter.shares_thread(), clock)
        self._starter = starter
        self._inbox = inbox
        self._stats = stats
        self._clock = clock

    @property
    def claiming(self) -> bool:
        """Whether tasks are claimed, and not yet handed back."""
        return self.stage is Stage.CLAIMING

    def room(self) -> tuple[int, int]:
        """How many tasks may be claimed: for free slots, and beyond them for the reserve."""
        if not self.claiming or self.loop.is_held or self.outbox.one_by_one or self.writer.pending >= MAX_WRITING:
            return 0, 0
        free = self.table.free
        slots, reserve = max(0, free), max(0, self._reserve() + min(0, free))
        if held := self.table.held_bytes:  # as many as there is room for, when they are like those
            fits = max(0, self.room_bytes) * len(self.table.held) // held
            slots, reserve = min(slots, fits), min(reserve, fits)
        return slots, reserve

    @property
    def room_bytes(self) -> int:
        """How many bytes of task_data may still be held."""
        return MAX_HELD_BYTES - self.table.held_bytes

    def _reserve(self) -> int:
        """How many tasks to hold ready beyond the slots."""
        return self._stats.pace.reserve(self.table.slots, self.table.youngest_body_seconds())

    def start(self, claimed: Sequence[Claim], state: DeviceState) -> None:
        """Hold these claims, which were made when the device stood so, and hand them to their engines."""
        runs = [self._starter.make(claim, state) for claim in claimed]
        for run in runs:
            self.table.add(run)
        log_lines.executing(runs)
        self._starter.submit(runs)

    @property
    def obstacle(self) -> str | None:
        """What keeps runs from beginning or ending, once that has lasted; any thread may ask."""
        here, since = self._clock.monotonic(), self.writer.failing_since
        if since is not None and here - since >= OBSTACLE_SECONDS:
            return f"a result waits for the database since {here - since:.0f} s: the node's log tells why"
        return self.loop.obstacle

    def report(self) -> WorkReport:
        """What a beat tells of the work."""
        return self._stats.report(self.table.bodies)

    def take_in(self) -> None:
        """Take in what the engines and the ResultWriter reported."""
        inbox = self._inbox
        while inbox.reports:
            run, outcome = inbox.reports.popleft()
            if outcome is None:
                self.table.begin(run)
            else:
                self._end(run, outcome)
        while inbox.calls:  # after the reports: an ending books its run's calls, and none may be left for later
            self.outbox.calls.append(inbox.calls.popleft())
        while inbox.written:
            self.settle(*inbox.written.popleft())

    def _end(self, run: Run, outcome: Outcome) -> None:
        self._stats.note_body(run)
        if not self.table.end(run):  # timed out, handed back, cancelled or lost: that is decided
            if outcome.kind != EndingKind.CANCELLED:
                self._reject(run)
            outcome.close()
            return
        ending = ending_of(run, outcome, run.ended_at or self._clock.monotonic())
        if outcome.is_spooled:  # they would hold up a turn
            self.writer.put(ending)
        else:
            self.outbox.endings.append(ending)

    def to_write(self) -> Writes:
        """What the next turn is to write."""
        held, endings, calls = self.table.held, self.outbox.batch(), tuple(self.outbox.calls)
        runs = [each.run for each in endings]
        runs += [held[each.assignment_id] for each in calls if each.assignment_id in held]
        sourced = frozenset(run.task.id for run in runs if run.task.source is not None)
        return Writes(endings, self.table.unrecorded(), calls, sourced)

    def set_aside(self) -> bool:
        """Let the ResultWriter write what a turn most likely failed for; False when there is no such ending."""
        heavy = self.outbox.take_heavy()
        for ending in heavy:
            self.writer.put(ending)
        return bool(heavy)

    def turn_refused(self, writes: Writes, error: Exception, family: str) -> bool:
        """Judge which ending a turn failed for that the database refused, not because it is away.

        True when another turn may go well at once. Raises the error when no ending is to blame.
        """
        if self._abandon(writes, error):
            return False
        stays = condemns(family, error) or not self.set_aside()
        if stays and self.outbox.find_culprit(writes, error, family):
            log_lines.turn_refused(cause_of(error))
        return True

    def _abandon(self, writes: Writes, error: Exception) -> bool:
        """Let go of a run that cannot even be ended as a failure, for what its end is made of: the other runs go on.
        The next look at what this device holds gives it back. False when that is not what failed."""
        ending = self.outbox.take_hopeless(writes, error)
        if ending is None:
            return False
        self.table.settle(ending.run)
        log_lines.run_abandoned(ending.run, error)
        return True

    # -- runs that the node ends

    def end_overdue(self) -> str | None:
        """End the runs that passed their execution_timeout; their bodies end as soon as their engine can make them.

        Why the node must end, where bodies that were found before cannot be ended: nothing is claimed any more then.
        """
        problem = self._problem()  # those found now first get a moment to look at their context and end
        for run in self.table.deaf():
            self._get_stuck(run)
        for run in self.table.overdue():
            if self._is_held_up(run):
                self._decide(run, EndingKind.RELEASED, "another body held the event loop of this node")
            else:
                limit = f"{run.task.execution_timeout:g} s"
                self._decide(
                    run, EndingKind.TRANSIENT, f"timed out: the body ran longer than its execution_timeout of {limit}"
                )
            if not self._interrupt(run):
                self._get_stuck(run)
        if problem is None or not self.claiming:
            return None
        self.stage = Stage.DRAINING
        return problem

    def _problem(self) -> str | None:
        if self.table.all_stuck:
            return "all slots are held by bodies that timed out or are not wanted, and cannot be ended"
        stuck = self.loop.holder or next((run for run in self.table.stuck() if run.executor.asynchronous), None)
        if not self.loop.is_held or stuck is None or self.table.is_wanted(stuck):
            return None
        return f"the event loop is held by a body that is to end and cannot be ended: task={stuck.task.id}"

    def _is_held_up(self, run: Run) -> bool:
        """Whether another body keeps this one from going on."""
        return run.executor.asynchronous and self.loop.is_held and self.loop.holder not in (None, run)

    def _interrupt(self, run: Run) -> bool:
        self.table.ask_to_end(run)
        return self._starter.interrupt(run)

    def _get_stuck(self, run: Run) -> None:
        self.table.get_stuck(run)
        log_lines.slot_kept(run)

    def look_again_seconds(self) -> float:
        """How soon to look whether a body holds the others up."""
        return LOOK_SECONDS if self.loop.exists and self.table.bodies else math.inf

    def give_back(self) -> None:
        """End the runs that this node will not run, or not to their end."""
        if self.claiming:
            self._give_back_surplus()
            self._give_back_held_up()
            return
        for run in self.table.in_phase(RunPhase.WAITING):
            if run.withdraw():
                self._decide(run, EndingKind.RELEASED, "the node stopped")
        for run in self.table.in_phase(RunPhase.BEGUN):
            permit = run.context.permit
            if self.stage is Stage.HANDING_BACK or (isinstance(permit, RunPermit) and permit.waits(WAIT_SECONDS)):
                self._decide(run, EndingKind.RELEASED, "the node stopped before the body ended")
                self._starter.interrupt(run)

    def cut_off(self, keys: Iterable[int]) -> None:
        """The vendor closed the budget of these runs: give back what waits for its call, whether in a slot or for one.

        A body that does something else goes on until it asks for a call.
        """
        for run in [self.table.held[key] for key in keys if key in self.table.held]:
            permit = run.context.permit
            if run.phase is RunPhase.ENDED or not isinstance(permit, RunPermit):
                continue
            waits = permit.close()
            if (withdrawn := run.withdraw()) or waits:
                self._decide(run, EndingKind.RELEASED, "its budget was closed while it waited for its call")
                if not withdrawn:
                    self._interrupt(run)

    def _give_back_surplus(self) -> None:
        """Bodies turned out slower than the reserve was sized for: let others have what waits too long here."""
        if self.table.has_reserve:
            for run in self.table.surplus(self._reserve(), RESERVE_PATIENCE_SECONDS):
                if run.withdraw():
                    self._decide(run, EndingKind.RELEASED, "waited too long for a slot of this node")

    def _give_back_held_up(self) -> None:
        """Let others have what waits for an event loop that one body holds."""
        if self.loop.is_held:
            for run in self.table.in_phase(RunPhase.WAITING):
                if run.executor.asynchronous and run.withdraw():
                    self._decide(run, EndingKind.RELEASED, "another body holds the event loop of this node")

    def _decide(self, run: Run, kind: EndingKind, message: str) -> None:
        self.table.decide(run)
        self.outbox.endings.append(ending_of(run, Outcome(kind, message), self._clock.monotonic()))

    # -- what came of a turn

    def take_over(self, writes: Writes, ended: Sequence[Ended], lost: Iterable[int]) -> None:
        """What a turn wrote is committed; the `lost` runs are no longer ours."""
        self.outbox.committed(writes)
        for calls in writes.calls:
            self.sent.note(calls.assignment_id, calls.task_id, calls.moments)
        self.table.recorded()
        for ending, each in zip(writes.endings, ended, strict=True):
            self.settle(ending, each, len(ended))
        log_lines.runs_ended(ended)
        for key in lost:
            self.drop(key)

    def settle(self, ending: UncommittedEnding, ended: Ended, is_one_of: int = 1) -> None:
        """One ending is committed, or was refused; one of so many of a turn."""
        self.table.settle(ending.run)
        self.sent.note(ending.run.assignment_id, ending.run.task.id, ending.calls)
        ending.outcome.close()
        if ended.verdict is not FenceVerdict.STALE:
            self._stats.note_end(ended)
            log_lines.run_ended(ending.run, ended, ending.seconds, is_one_of)
        elif ending.outcome.kind != EndingKind.RELEASED:
            self._reject(ending.run)

    def drop(self, key: int) -> None:
        """A run that is ours no more: cancelled by a person, or lost to another device."""
        run = self.table.drop(key)
        if run is None:
            return
        permit = run.context.permit
        if isinstance(permit, RunPermit):
            self.outbox.calls.append(SentCalls(key, run.task.id, permit.revoke(), is_over=True))
        if not run.withdraw():
            self._interrupt(run)
        log_lines.run_dropped(run)

    def drop_all(self) -> None:
        """The lease is lost, and with it every run whose end is open."""
        for key in list(self.table.held):
            self.drop(key)
        self.table.recorded()

    def _reject(self, run: Run) -> None:
        self._stats.note_stale()
        log_lines.result_rejected(run)
