"""Which days of a feed must be fetched, and why the others need not. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from crawlfleet.model.coverage import Covered
from crawlfleet.model.coverage_state import DayState, day_states


class Skip(StrEnum):
    """Why a day is not asked for."""

    FINAL = "final"
    FETCHED_TODAY = "fetched_today"  # the vendor still changes it, but was asked today
    ASKED_FOR = "asked_for"  # by a task that is open
    TOO_OLD = "too_old"  # the vendor no longer answers it
    DENIED = "denied"  # the vendor may not give the feed to this account
    NOT_OVER = "not_over"  # after yesterday


@dataclass
class DayNeeds:
    """The days to fetch, in order, and how many are not for which reason."""

    days: list[date]
    skipped: Counter[Skip] = field(default_factory=Counter)


def day_needs(
    known: Mapping[date, Covered],
    start: date,
    end: date,
    now: datetime,
    asked_for: Collection[date] = (),
    oldest_possible: date | None = None,
    denied: bool = False,
) -> DayNeeds:
    """What to fetch of a feed from `start` to `end`, at most yesterday; `known` as for `day_states`.

    A day that the vendor still changes is fetched again once a day: a fetch after it settled is never one of today.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    found = DayNeeds([])
    for which, state in day_states(known, start, end, oldest_possible, denied).items():
        if state is DayState.IMPOSSIBLE:
            found.skipped[Skip.TOO_OLD] += 1
        elif state is DayState.DENIED:
            found.skipped[Skip.DENIED] += 1
        elif state is DayState.FINAL:
            found.skipped[Skip.FINAL] += 1
        elif which in asked_for:
            found.skipped[Skip.ASKED_FOR] += 1
        elif state is DayState.SETTLING and midnight <= known[which].fetched_at <= now:  # later: by a wrong clock
            found.skipped[Skip.FETCHED_TODAY] += 1
        else:
            found.days.append(which)
    return found
