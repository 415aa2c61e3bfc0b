"""What the ledger of fetched days means: which days are there for good, which are not yet, and which never will be."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from enum import StrEnum
from statistics import median
from typing import Protocol

NEIGHBOUR_DAYS = 7  # on either side of a day: the same weekday is among them
LEAST_NEIGHBOURS = 4
LEAST_ROWS = 10  # of the neighbours' median: small apps have quiet days
THIN_SHARE = 0.3  # of the neighbours' median, below which a day looks as if rows were missing


class DayState(StrEnum):
    """In the order in which a person should look at them."""

    MISSING = "missing"  # never fetched
    SUSPECT = "suspect"  # its rows are of an earlier fetch: the vendor's last answer had none
    THIN = "thin"  # fetched once after it settled, with far fewer rows than its neighbours: worth another look
    SETTLING = "settling"  # fetched while the vendor still changes it
    FINAL = "final"
    DENIED = "denied"  # never fetched, or not since it settled, and the vendor says that this account may not have it
    IMPOSSIBLE = "impossible"  # the vendor no longer has it


class Fetched(Protocol):
    """What must be known of a fetched day to tell its state."""

    @property
    def row_count(self) -> int: ...

    @property
    def settled_fetches(self) -> int: ...

    @property
    def suspect_fetches(self) -> int: ...


def day_states(
    fetched: Mapping[date, Fetched],
    start: date,
    end: date,
    oldest_possible: date | None = None,
    denied: bool = False,
) -> dict[date, DayState]:
    """The state of each day of a feed from `start` to `end`.

    `fetched` holds the fetched days, best with a week on either side of the range. A vendor that no longer answers days
    before `oldest_possible` makes a missing day impossible, one that `denied` the feed makes denied what is missing or
    still settling; what else is stored stays as it is.
    """
    states = {}
    for which in (start + timedelta(n) for n in range((end - start).days + 1)):
        covered = fetched.get(which)
        too_old = oldest_possible is not None and which < oldest_possible
        unreachable = denied or too_old
        if covered is None:
            never = DayState.IMPOSSIBLE if too_old else DayState.DENIED
            states[which] = never if unreachable else DayState.MISSING
        elif covered.suspect_fetches and not unreachable:
            states[which] = DayState.SUSPECT
        elif covered.settled_fetches == 0:
            unsettled = DayState.DENIED if denied else DayState.SETTLING
            states[which] = DayState.FINAL if too_old else unsettled
        elif covered.settled_fetches == 1 and not unreachable and _is_thin(fetched, which):
            states[which] = DayState.THIN
        else:
            states[which] = DayState.FINAL
    return states


def _is_thin(fetched: Mapping[date, Fetched], which: date) -> bool:
    around = (which + timedelta(n) for n in range(-NEIGHBOUR_DAYS, NEIGHBOUR_DAYS + 1) if n != 0)
    rows = [fetched[neighbour].row_count for neighbour in around if neighbour in fetched]
    if len(rows) < LEAST_NEIGHBOURS:
        return False
    usual = median(rows)
    return usual >= LEAST_ROWS and fetched[which].row_count < THIN_SHARE * usual
