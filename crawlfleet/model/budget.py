"""What a call costs: budgets that a vendor's quotas give an account, an app or a report, and the arithmetic of one.

A budget allows so many calls in a sliding window, or in a UTC day. Each call that a run may make is *held* when its
task is claimed, and counts from the moment at which the vendor has seen it until it is *free* again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from crawlfleet.core.sql import utc
from crawlfleet.core.transaction import AnyRow
from crawlfleet.model.task_spec import TaskSpec

DAY_SECONDS = 86_400.0  # a limit of this length means the UTC calendar day
# The vendor sees a call between its sending and its answer, so a window counts from the answer: then nothing that
# happens on the way can make a call one too many. An answer may take its time, though, and a fixed margin after the
# sending was once too little on a busy machine: so the answer counts, but not one that is later than this.
LONGEST_WAY_SHARE, LEAST_WAY_SECONDS = 0.05, 0.25  # of the window; 3 s of a minute
MARGIN_SHARE, LEAST_MARGIN_SECONDS = 0.0005, 0.005  # of the window: clocks do not run quite alike
DAY_MARGIN_SECONDS = 432.0  # the vendor's midnight may be so much later than ours
DAY_END_SECONDS = 2.0  # a day's call is not sent in its last seconds: it might arrive on the next day
NEVER = datetime(9999, 1, 1, tzinfo=UTC)  # a moment that only an event can bring about
LEARNED_FOR = timedelta(days=7)  # after which a limit that a refusal taught is put to the test again
WIDER_SHARE, WIDEST = 1 / 12, 2.0  # of the declared window, that a refusal adds to it: 60 s, 65 s, ... 120 s
AT_PACE = 1.5  # windows since the call that made room: a refused call so soon after it came at the declared pace
MAX_CALLS = 128  # that one run may make


@dataclass(frozen=True, slots=True)
class Charge:
    """A budget that each call of a task counts against; empty names are those that its limit does not count by."""

    source: str
    limit_name: str
    calls: int | None
    seconds: float
    username: str = ""
    app_id: str = ""
    report: str = ""

    @property
    def key(self) -> str:
        return digest(self.source, self.limit_name, self.username, self.app_id, self.report)


class Cost(NamedTuple):
    """What a task needs before it can be claimed: so many calls, each against all of these budgets, narrowest first.

    With 0 calls a task may not call its source at all.
    """

    charges: tuple[Charge, ...] = ()
    calls: int = 0


CostOf = Callable[[TaskSpec], Cost]
LimitOf = Callable[[str, str], "tuple[int | None, float] | None"]  # (source, limit) -> (calls, seconds)


def no_cost(_spec: TaskSpec) -> Cost:
    """The cost of tasks that call nobody."""
    return Cost()


def as_stored(_source: str, _limit_name: str) -> tuple[int | None, float] | None:
    """A `LimitOf` for those who have no settings: the limits of the database hold."""
    return None


def digest(*parts: object) -> str:
    """A key of 32 characters for what would be too long for an index."""
    text = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass
class Call:
    """One call of one run against one budget. Held until it is booked; the vendor saw it by `called_at`, and it counts
    until `free_at`."""

    assignment_id: int
    number: int
    called_at: datetime | None = None
    free_at: datetime | None = None
    is_new: bool = False

    @property
    def busy_until(self) -> datetime:
        return self.free_at or NEVER


@dataclass(frozen=True, slots=True)
class Window:
    """When a held call may be sent: not before, and not after. It counts from its answer, but from no later than
    `way_seconds` after it was sent."""

    not_before: datetime
    not_after: datetime = NEVER
    way_seconds: float = 0.0

    def within(self, other: Window) -> Window:
        """When both allow it."""
        return Window(
            max(self.not_before, other.not_before),
            min(self.not_after, other.not_after),
            max(self.way_seconds, other.way_seconds),
        )


@dataclass
class Budget:
    """One budget as its transaction sees it, with all calls that still count."""

    id: int
    source: str
    limit_name: str
    username: str
    app_id: str
    report: str
    calls: int | None
    seconds: float
    learned_calls: int | None
    learned_until: datetime | None
    refusals: int
    closed_until: datetime | None
    closed_reason: str | None
    open_at: datetime
    learned_seconds: float | None = None
    busy: list[Call] = field(default_factory=list)
    recent: list[Call] = field(default_factory=list)  # calls that came free within the last window

    @property
    def is_daily(self) -> bool:
        return self.seconds == DAY_SECONDS

    @property
    def way_seconds(self) -> float:
        """How long after its sending the vendor sees a call, at the most; a day's call is sent in time for its day."""
        return 0.0 if self.is_daily else max(LEAST_WAY_SECONDS, LONGEST_WAY_SHARE * self.seconds)

    def allowed(self, now: datetime) -> int | None:
        """Calls in one window: the declared number, or a smaller one that was learned; None: no number is known."""
        if self.learned_calls is None or not self.has_learned(now):
            return self.calls
        return self.learned_calls if self.calls is None else min(self.calls, self.learned_calls)

    def window_seconds(self, now: datetime) -> float:
        """The length of the window: the declared one, or a longer one that was learned."""
        if self.learned_seconds is None or self.is_daily or not self.has_learned(now):
            return self.seconds
        return max(self.seconds, self.learned_seconds)

    def has_learned(self, now: datetime) -> bool:
        """Whether what refusals taught still holds."""
        return self.learned_until is not None and self.learned_until > now

    def next_opening(self, now: datetime) -> datetime:
        """From when one more call is allowed: `now`, later, or NEVER when only the end of a run can tell."""
        moment = max(now, self.closed_until or now)
        if self.is_daily and midnight_after(moment) - moment <= timedelta(seconds=DAY_END_SECONDS + 1):
            moment = midnight_after(moment)
        allowed = self.allowed(now)
        if allowed is None or len(self.busy) < allowed:
            return moment
        in_the_way = sorted(call.busy_until for call in self.busy)[len(self.busy) - allowed]
        return max(moment, in_the_way)

    def room(self, now: datetime, horizon: datetime) -> int | None:
        """How many calls could be held that open until `horizon`; None: any number."""
        if self.next_opening(now) > horizon:
            return 0
        allowed = self.allowed(now)
        return None if allowed is None else allowed - sum(call.busy_until > horizon for call in self.busy)

    def hold(self, assignment_id: int, number: int, now: datetime) -> Window:
        """Hold one call for a run; when it may be sent."""
        opening = self.next_opening(now)
        if self.allowed(now) is not None:
            self.busy.append(Call(assignment_id, number, is_new=True))
        if not self.is_daily:
            return Window(opening, way_seconds=self.way_seconds)
        return Window(opening, midnight_after(opening) - timedelta(seconds=DAY_END_SECONDS))

    def free_after(self, called_at: datetime) -> datetime:
        """When a call that the vendor saw by this moment no longer counts there, to be sure."""
        if self.is_daily:
            return midnight_after(called_at) + timedelta(seconds=DAY_MARGIN_SECONDS)
        seconds = self.window_seconds(called_at)
        return called_at + timedelta(seconds=seconds + max(LEAST_MARGIN_SECONDS, MARGIN_SHARE * seconds))

    def refuse(self, now: datetime, reason: str, retry_after: float | None, daily: bool) -> None:
        """The vendor refused a call of ours: close, longer each time in a row, and learn how many it does allow.

        A call that came as soon as it was allowed teaches that the window is longer than declared.
        """
        self.refusals += 1
        if self.learned_until is not None and not self.has_learned(now):
            self.learned_calls = self.learned_seconds = self.learned_until = None
        made = sum(call.called_at is not None for call in self.busy) - 1  # all but the one that was refused
        allowed = self.allowed(now)
        if self._came_at_pace(allowed, now):
            wider = self.window_seconds(now) + WIDER_SHARE * self.seconds
            self.learned_seconds, self.learned_until = min(wider, WIDEST * self.seconds), now + LEARNED_FOR
        elif made >= 1 and (allowed is None or made < allowed):
            self.learned_calls, self.learned_until = made, now + LEARNED_FOR
        next_day = midnight_after(now) + timedelta(seconds=1)
        if retry_after is not None:
            closed_until = now + timedelta(seconds=retry_after)
        elif daily or self.is_daily:
            closed_until = next_day
        else:
            seconds = self.window_seconds(now) * 2 ** min(self.refusals - 1, 20)
            closed_until = min(next_day, now + timedelta(seconds=seconds))
        self.closed_until = max(closed_until, self.closed_until or now)
        self.closed_reason = reason

    def _came_at_pace(self, allowed: int | None, now: datetime) -> bool:
        """Whether the call that was refused, the latest, had only waited for the window of an earlier one to pass."""
        if allowed is None or self.is_daily or self.refusals > 1:
            return False
        moments = sorted((call.called_at for call in [*self.busy, *self.recent] if call.called_at), reverse=True)
        if len(moments) <= allowed:
            return False
        return (moments[0] - moments[allowed]).total_seconds() <= AT_PACE * self.window_seconds(now)


BUDGET_COLUMNS = (  # of cl_budget as t: what `budget_from` reads
    "t.id, t.source, t.limit_name, t.username, t.app_id, t.report, t.calls, t.seconds, t.learned_calls,"
    " t.learned_until, t.refusals, t.closed_until, t.closed_reason, t.open_at, t.learned_seconds"
)


def budget_from(row: AnyRow) -> Budget:
    """The budget in a row that has BUDGET_COLUMNS, without its calls."""
    open_at = utc(row["open_at"])
    assert open_at is not None
    return Budget(
        row["id"],
        row["source"],
        row["limit_name"],
        row["username"],
        row["app_id"],
        row["report"],
        row["calls"],
        row["seconds"],
        row["learned_calls"],
        utc(row["learned_until"]),
        row["refusals"],
        utc(row["closed_until"]),
        row["closed_reason"],
        open_at,
        row["learned_seconds"],
    )


def midnight_after(moment: datetime) -> datetime:
    """The beginning of the next UTC day."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
