"""When a scheduler looks next: the earliest of all moments at which something becomes possible."""

from __future__ import annotations

from typing import NamedTuple

from crawlfleet.core.clock import Clock
from crawlfleet.model.device import DeviceState
from crawlfleet.services.run_table import RESERVE_PATIENCE_SECONDS, RunTable
from crawlfleet.services.turn import TurnResult

TIMEOUT_CHECK_SECONDS = 0.25  # between two looks for bodies that have run too long
AWAY_SECONDS = 1.0  # between two tries while the database is away, or refuses a turn
OBSTACLE_SECONDS = 30.0  # until trouble with the database is told beyond the log: short ones pass


class Away(NamedTuple):
    """The database is away since then (monotonic); why the last turn did not reach it."""

    since: float
    cause: str


class Alarm:
    """Seconds until the next pass, and what else of a scheduler depends on the time. Moments are monotonic.

    `seconds` holds from the pass that set it. `look_first` says that the last turn claimed nothing: before the next one
    a look without a transaction is worth it. `lingering_since` is since when a turn waits for more bodies to end;
    `away` is set while turns do not reach the database.
    """

    def __init__(self, clock: Clock, schedule_interval: float, dispatch_interval: float) -> None:
        self.seconds = 0.0
        self.look_first = False
        self.lingering_since: float | None = None
        self._clock = clock
        self._schedule_interval = schedule_interval
        self._dispatch_interval = dispatch_interval
        self._promote_at: float | None = None  # when tasks come due or lanes open, as far as is known
        self._timeouts_checked_at = 0.0
        self.away: Away | None = None

    def set(self, seconds: float) -> None:
        """Look after exactly so long."""
        self.seconds = seconds

    def within(self, seconds: float) -> None:
        """Look after so long at the latest."""
        self.seconds = min(self.seconds, max(0.0, seconds))

    def reset(self, runs: RunTable) -> None:
        """Look as late as nothing is missed: after an interval, or at the next execution_timeout."""
        self.seconds = self._longest(runs)

    def after_turn(self, runs: RunTable, result: TurnResult, lead_seconds: float) -> None:
        """Take into account what a turn claimed and ended, and how the device stood then."""
        self.look_first = not result.claimed
        self.within(self._longest(runs))  # of what was claimed, too: that it began is to be recorded
        self.note_state(result.state, lead_seconds)
        for each in result.ended:
            if each.next_run_at is not None:
                self.within((each.next_run_at - result.state.reading.now).total_seconds())

    def _longest(self, runs: RunTable) -> float:
        seconds = min(self._dispatch_interval, self._schedule_interval) if runs.held else self._schedule_interval
        if runs.waiting:
            seconds = min(seconds, RESERVE_PATIENCE_SECONDS)
        if runs.all_stuck:
            seconds = min(seconds, TIMEOUT_CHECK_SECONDS)
        if (deadline := runs.next_deadline()) is not None:
            seconds = min(seconds, max(TIMEOUT_CHECK_SECONDS, deadline - self._clock.monotonic()))
        return seconds

    def timeouts_are_due(self) -> bool:
        """Whether to look now for bodies that have run too long."""
        here = self._clock.monotonic()
        if here - self._timeouts_checked_at < TIMEOUT_CHECK_SECONDS:
            return False
        self._timeouts_checked_at = here
        return True

    # -- when tasks come due and lanes open

    def note_state(self, state: DeviceState, lead_seconds: float) -> None:
        """Remember when the next task comes due, or the next lane opens less `lead_seconds`."""
        moments = []
        if state.due_at is not None:
            moments.append(state.reading.surely_after(state.due_at))
        if state.opens_at is not None:
            moments.append(state.reading.surely_after(state.opens_at) - lead_seconds)
        if moments:
            self._promote_at = max(state.reading.answered_at, min(moments))
            self.within(self._promote_at - self._clock.monotonic())

    def promotion_is_due(self) -> bool:
        """Whether that moment has come; it is forgotten then."""
        if self._promote_at is None or self._promote_at > self._clock.monotonic():
            return False
        self._promote_at = None
        return True

    # -- waiting for more bodies to end

    def lingers(self, longest: float, runs: RunTable) -> bool:
        """Whether the next turn waits, `longest` seconds in all, for bodies that began so lately; 0: not at all."""
        since, self.lingering_since = self.lingering_since, None
        if not longest:
            return False
        here = self._clock.monotonic()
        left = longest if since is None else since + longest - here
        if left <= 0 or not runs.has_body_younger_than(longest):
            return False
        self.lingering_since = here if since is None else since
        self.within(left)
        return True

    # -- outages

    @property
    def obstacle(self) -> str | None:
        """What to say of an outage that has lasted; any thread may ask."""
        away, here = self.away, self._clock.monotonic()
        if away is None or here - away.since < OBSTACLE_SECONDS:
            return None
        return f"no turn has reached the database for {here - away.since:.0f} s: {away.cause}"

    def database_away(self, since: float, cause: str) -> bool:
        """A turn that began then did not reach the database; True when it is the first one."""
        self.within(AWAY_SECONDS)
        is_first = self.away is None
        self.away = Away(since if self.away is None else self.away.since, cause)
        return is_first

    def database_back(self) -> float | None:
        """A pass went well; how long the database was away, None when it was not."""
        away, self.away = self.away, None
        return None if away is None else self._clock.monotonic() - away.since
