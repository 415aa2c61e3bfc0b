"""Moments on the screen of one command: one zone for all of them, named once, and how long ago they were.

The zone is the user's, with the offset that holds now: a moment of next spring has the same one. `now` is the
database's, where the command has one, since its moments come from there.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

from crawlfleet.core.json_text import utc

MINUTE, HOUR, DAY = 60, 3600, 86_400
FAR = 14 * DAY  # from here on a date says more than a number of days


class Screen:
    """What the commands of this process share; each command begins it anew."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what the command before has shown."""
        self._shown = self._named = False
        self._ahead = timedelta()
        self._zone = datetime.now().astimezone().tzinfo

    def set_now(self, now: datetime) -> None:
        """Take the database's clock."""
        self._ahead = utc(now) - datetime.now(UTC)

    def local_time(self, moment: datetime) -> str:
        """Return the moment in the screen's zone, to the second."""
        self._shown = True
        return utc(moment).astimezone(self._zone).strftime("%Y-%m-%d %H:%M:%S")

    def in_zone(self, moment: datetime) -> datetime:
        """Return a moment that names no zone as one of the screen's."""
        return moment.replace(tzinfo=self._zone)

    def ago(self, moment: datetime | None) -> str | None:
        """Return `12 s ago` or `in 3 h`, a date when it is far; None stays None."""
        if moment is None:
            return None
        seconds = (datetime.now(UTC) + self._ahead - utc(moment)).total_seconds()
        size = abs(seconds)
        if size >= FAR:
            return self.local_time(moment)[:10]
        if size < 1:
            return "now"
        for unit, most, name in ((1, 1.5 * MINUTE, "s"), (MINUTE, 1.5 * HOUR, "min"), (HOUR, 1.5 * DAY, "h")):
            if size < most:
                text = f"{round(size / unit)} {name}"
                break
        else:
            text = f"{round(size / DAY)} days"
        return f"{text} ago" if seconds > 0 else f"in {text}"

    @property
    def zone(self) -> str:
        """The zone's name, as `UTC+08:00 (CST)`."""
        moment = datetime.now(self._zone)
        offset, name = moment.isoformat()[-6:], moment.tzname() or ""
        if offset == "+00:00":
            return "UTC"
        return f"UTC{offset}" + (f" ({name})" if name.isalpha() else "")

    def zone_note(self) -> str | None:
        """Return the line that names the zone: once, and only after a time was shown."""
        if self._named or not self._shown:
            return None
        self._named = True
        return f"times are in {self.zone}"


screen = Screen()


def beginning(text: str) -> datetime:
    """Read the value of an option that takes a day, meaning its first moment, or a moment, of the screen's zone."""
    try:
        moment = datetime.fromisoformat(text)
        if 2000 <= moment.year <= 2200:
            return moment if moment.tzinfo is not None else screen.in_zone(moment)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be like 2026-01-31 or 2026-01-31T08:00:00 (got {text!r:.80})")


def end(text: str) -> datetime:
    """Read such a value where a day means its last moment."""
    is_day = len(text) == len("2026-01-31")
    return beginning(text) + timedelta(is_day)
