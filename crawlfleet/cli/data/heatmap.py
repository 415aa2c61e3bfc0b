"""The calendar of `data coverage` on a terminal: a line for each feed, a cell for each day.

Each state has a letter beside its colour, so that people tell states apart without colours, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from crawlfleet.cli.output import cell
from crawlfleet.model.coverage_state import DayState

if TYPE_CHECKING:
    from crawlfleet.insights.coverage import FeedCoverage

LETTERS = {
    DayState.MISSING: "M",
    DayState.SUSPECT: "?",
    DayState.THIN: "T",
    DayState.SETTLING: "s",
    DayState.FINAL: ".",
    DayState.DENIED: "D",
    DayState.IMPOSSIBLE: "-",
}
COLOURS = {
    DayState.MISSING: "bold white on red",
    DayState.SUSPECT: "black on magenta",
    DayState.THIN: "black on yellow",
    DayState.SETTLING: "black on cyan",
    DayState.FINAL: "black on green",
    DayState.DENIED: "white on magenta",
    DayState.IMPOSSIBLE: "white on bright_black",
}
LEAST_CELLS = 7  # of a line, however narrow the terminal is
MONTH_CELLS = len("2026-01 ")


def print_heatmap(calendars: Iterable[FeedCoverage], start: date, end: date) -> None:
    """Print the feeds under a heading for each account and report, as many days in a line as the terminal holds."""
    console = Console(highlight=False)
    groups = itertools.groupby(
        calendars,
        key=lambda calendar: (calendar.feed.name.source, calendar.feed.name.username, calendar.feed.name.report),
    )
    for (source, username, report), group in groups:
        console.print(Text(cell(f"{username} at {source}, {report}"), style="bold"))
        lines, refusals = [], []
        for calendar in group:
            app_id = cell(calendar.feed.name.app_id)
            lines.append((app_id, [covered.state for covered in calendar.days]))
            if calendar.feed.refusal is not None:
                refusals.append(cell(f"{app_id}: {calendar.feed.refusal}"))
        _print_group(console, lines, start, (end - start).days + 1)
        for refusal in refusals:
            console.print(Text(refusal, style="dim"))
        console.print()


def _print_group(console: Console, lines: Sequence[tuple[str, Sequence[DayState]]], start: date, days: int) -> None:
    label = min(max(cell_len(app_id) for app_id, _ in lines), max(LEAST_CELLS, console.width // 3))
    at_once = max(LEAST_CELLS, console.width - label - 1)
    for first in range(0, days, at_once):
        count = min(at_once, days - first)
        dates = [start + timedelta(first + n) for n in range(count)]
        for header in (_months(dates), _days_of_month(dates)):
            _print(console, Text(f"{'':{label}} {header}", style="dim"))
        for app_id, states in lines:
            line = Text(app_id)
            line.truncate(label, overflow="ellipsis", pad=True)
            line.append(" ")
            for state, stretch in itertools.groupby(states[first : first + count]):
                line.append(LETTERS[state] * len(list(stretch)), COLOURS[state])
            _print(console, line)


def _print(console: Console, line: Text) -> None:
    console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _months(dates: Sequence[date]) -> str:
    """Return `2026-01` above each month's first day; `01`, or nothing, above a month with few days here."""
    text = ""
    for _, group in itertools.groupby(dates, key=lambda day: (day.year, day.month)):
        days = list(group)
        month = f"{days[0]:%Y-%m}"
        fitting = next((name for name in (month, month[5:]) if len(name) < len(days)), "")
        text += fitting.ljust(len(days))
    return text


def _days_of_month(dates: Sequence[date]) -> str:
    """Return a line with 1, 10 and 20 above these days."""
    marks = [" "] * (len(dates) + 1)
    for index, day in enumerate(dates):
        if day.day in (1, 10, 20):
            marks[index : index + len(str(day.day))] = str(day.day)
    return "".join(marks[: len(dates)])


def print_legend(totals: Mapping[str, int]) -> None:
    """Print what each letter and colour means, and how many days are in that state."""
    items = [
        Text.assemble((f" {LETTERS[state]} ", COLOURS[state]), f" {state.value} {totals.get(state.value, 0)}")
        for state in DayState
    ]
    Console(highlight=False).print(Columns(items, padding=(0, 2)))
