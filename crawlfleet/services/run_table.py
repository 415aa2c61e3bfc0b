"""The runs of a node, as its scheduler knows them."""

from __future__ import annotations

from crawlfleet.core.clock import Clock
from crawlfleet.engines.contract import Run, RunPhase

ENDING_PATIENCE_SECONDS = 15.0  # how long a body may take to end that was told to
RESERVE_PATIENCE_SECONDS = 1.0  # how long more than the reserve may wait for a slot before it goes back


class RunTable:
    """Which runs are held, which of them wait for a slot, and which bodies fill the slots.

    `held` are the runs that are ours as far as we know, by assignment id. A body may fill its slot for longer than its
    run is held: the run was lost or timed out, and the body goes on. Only the scheduler's thread changes the table; any
    thread may count.
    """

    def __init__(self, slots: int, clock: Clock) -> None:
        self.slots = slots
        self.held: dict[int, Run] = {}
        self._clock = clock
        self._waiting: dict[int, Run] = {}  # held and without a slot, in the order in which they were claimed
        self._busy: dict[int, Run] = {}  # bodies that began and have not ended, wanted or not
        self._asked: dict[int, float] = {}  # of those, the ones that are to end, and since when
        self._stuck: set[int] = set()  # and the ones that do not
        self._unrecorded: list[Run] = []  # begun, not yet recorded

    # -- moves

    def add(self, run: Run) -> None:
        """A run was claimed; it waits for a slot."""
        self.held[run.assignment_id] = self._waiting[run.assignment_id] = run

    def begin(self, run: Run) -> None:
        """Its body began, wanted or not; that is to be recorded when it is."""
        key = run.assignment_id
        self._busy[key] = run
        if self._waiting.pop(key, None) is not None:
            run.phase = RunPhase.BEGUN
            self._unrecorded.append(run)

    def end(self, run: Run) -> bool:
        """Its body ended; False when that comes too late: the run ended otherwise or is not held any more."""
        key = run.assignment_id
        self._busy.pop(key, None)
        self._asked.pop(key, None)
        self._stuck.discard(key)
        if key not in self.held or run.phase is RunPhase.ENDED:
            return False
        self.decide(run)
        return True

    def decide(self, run: Run) -> None:
        """How it ends is decided; it is held until that is committed."""
        run.phase = RunPhase.ENDED
        self._waiting.pop(run.assignment_id, None)

    def settle(self, run: Run) -> None:
        """Its ending is committed or was refused."""
        self.held.pop(run.assignment_id, None)

    def drop(self, key: int) -> Run | None:
        """Hold it no more; None when it is not held, or when how it ends is decided and the gate will judge it."""
        run = self.held.get(key)
        if run is None or run.phase is RunPhase.ENDED:
            return None
        del self.held[key]
        self._waiting.pop(key, None)
        return run

    def ask_to_end(self, run: Run) -> None:
        """Its body was told to end."""
        self._asked[run.assignment_id] = self._clock.monotonic()

    def get_stuck(self, run: Run) -> None:
        """It is to end, and its body cannot be ended."""
        self._stuck.add(run.assignment_id)

    def recorded(self) -> None:
        """That bodies began is recorded, or need not be."""
        self._unrecorded.clear()

    # -- questions

    @property
    def bodies(self) -> int:
        """How many bodies run now."""
        return len(self._busy)

    @property
    def held_bytes(self) -> int:
        """How large the task_data of the held runs is."""
        return sum(run.data_bytes for run in self.held.values())

    @property
    def waiting(self) -> int:
        """How many runs wait for a slot."""
        return len(self._waiting)

    @property
    def free(self) -> int:
        """How many slots nothing is claimed for; below 0 when more waits than there are slots."""
        return self.slots - len(self._busy) - len(self._waiting)

    @property
    def has_reserve(self) -> bool:
        """Whether more runs wait than slots are free."""
        return len(self._waiting) > self.slots - len(self._busy)

    @property
    def all_stuck(self) -> bool:
        """Whether no slot will come free by itself."""
        return 0 < self.slots <= len(self._stuck)

    def stuck(self) -> list[Run]:
        """The runs whose bodies are to end and cannot be ended."""
        return [run for key, run in self._busy.items() if key in self._stuck]

    def is_wanted(self, run: Run) -> bool:
        """Whether how it ends is open, and it is ours."""
        return run.phase is not RunPhase.ENDED and run.assignment_id in self.held

    def unrecorded(self) -> tuple[Run, ...]:
        """The runs whose begin is to be recorded; how they end is open."""
        return tuple(run for run in self._unrecorded if run.phase is RunPhase.BEGUN and run.assignment_id in self.held)

    def in_phase(self, phase: RunPhase) -> list[Run]:
        """The held runs of this phase."""
        return [run for run in self.held.values() if run.phase is phase]

    def overdue(self) -> list[Run]:
        """The held runs whose bodies have run longer than they may."""
        here = self._clock.monotonic()
        return [
            run
            for key, run in self._busy.items()
            if key in self.held and run.phase is RunPhase.BEGUN and here >= self._deadline(run)
        ]

    def deaf(self) -> list[Run]:
        """The runs whose bodies were told to end and did not, for so long that they never may."""
        here = self._clock.monotonic()
        asked = [key for key, since in self._asked.items() if here - since >= ENDING_PATIENCE_SECONDS]
        return [self._busy[key] for key in asked if key in self._busy and key not in self._stuck]

    def surplus(self, reserve: int, patience_seconds: float) -> list[Run]:
        """What waits beyond the slots and this reserve, the newest, once the oldest has waited for so long."""
        count = len(self._waiting) - max(0, self.slots - len(self._busy)) - reserve
        if count <= 0:
            return []
        oldest = next(iter(self._waiting.values())).claimed_at
        if self._clock.monotonic() - oldest <= patience_seconds:
            return []
        return list(self._waiting.values())[-count:]

    def youngest_body_seconds(self) -> float:
        """How long the body has run that began last, 0 when there is none."""
        here = self._clock.monotonic()
        return min((here - (run.began_at or here) for run in self._busy.values()), default=0.0)

    def has_body_younger_than(self, seconds: float) -> bool:
        """Whether a run may end soon: its body began less than so long ago, or it waits for a slot."""
        here = self._clock.monotonic()
        runs = (run for run in self.held.values() if run.phase is not RunPhase.ENDED)
        return any(here - (run.began_at or here) < seconds for run in runs)

    def next_deadline(self) -> float | None:
        """When the next body will have run too long, or taken too long to end (monotonic); None when no body can."""
        deadlines = [self._deadline(run) for key, run in self._busy.items() if key not in self._stuck]
        return min(deadlines, default=None)

    def _deadline(self, run: Run) -> float:
        if (asked := self._asked.get(run.assignment_id)) is not None:
            return asked + ENDING_PATIENCE_SECONDS
        return (run.began_at or self._clock.monotonic()) + run.task.execution_timeout
