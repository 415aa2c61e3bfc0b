"""The calendar of `data coverage`: a line for each feed, a cell for each day.

Each state has a letter beside its colour, so that people tell states apart without colours, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from rich.cells import cell_len

from crawlfleet.cli.output import BOLD, DIM, cell, print_text, styled, terminal_width
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
COLOURS = {  # bold white on red; black on magenta, yellow, cyan and green; white on magenta and grey
    DayState.MISSING: "1;37;41",
    DayState.SUSPECT: "30;45",
    DayState.THIN: "30;43",
    DayState.SETTLING: "30;46",
    DayState.FINAL: "30;42",
    DayState.DENIED: "37;45",
    DayState.IMPOSSIBLE: "37;100",
}
LEAST_CELLS = 7  # of a line, however narrow the terminal is
MONTH_CELLS = len("2026-01 ")


def print_heatmap(calendars: Iterable[FeedCoverage], start: date, end: date) -> None:
    """Print the feeds under a heading for each account and report, as many days in a line as the terminal holds."""
    groups = itertools.groupby(
        calendars,
        key=lambda calendar: (calendar.feed.name.source, calendar.feed.name.username, calendar.feed.name.report),
    )
    for (source, username, report), group in groups:
        print_text(cell(f"{username} at {source}, {report}"), BOLD)
        lines, refusals = [], []
        for calendar in group:
            app_id = cell(calendar.feed.name.app_id)
            lines.append((app_id, [covered.state for covered in calendar.days]))
            if calendar.feed.refusal is not None:
                refusals.append(cell(f"{app_id}: {calendar.feed.refusal}"))
        _print_group(lines, start, (end - start).days + 1)
        for refusal in refusals:
            print_text(refusal, DIM)
        print()


def _print_group(lines: Sequence[tuple[str, Sequence[DayState]]], start: date, days: int) -> None:
    """Print an app's days beside its id, or below an id that would leave them no room."""
    width = terminal_width()
    most = max(LEAST_CELLS, width // 3)
    label = max((size for app_id, _ in lines if (size := cell_len(app_id)) <= most), default=1)
    at_once = max(LEAST_CELLS, width - label - 1)
    for first in range(0, days, at_once):
        count = min(at_once, days - first)
        dates = [start + timedelta(first + n) for n in range(count)]
        for header in (_months(dates), _days_of_month(dates)):
            print(styled(f"{'':{label}} {header}".rstrip(), DIM))
        for app_id, states in lines:
            beside = app_id + " " * (label - cell_len(app_id))
            if cell_len(app_id) > label:
                print_text(app_id)
                beside = " " * label
            stretches = itertools.groupby(states[first : first + count])
            cells = (styled(LETTERS[state] * len(list(days)), COLOURS[state]) for state, days in stretches)
            print(f"{beside} {''.join(cells)}")


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
    for state in DayState:
        print(f"{styled(f' {LETTERS[state]} ', COLOURS[state])} {state.value} {totals.get(state.value, 0)}")
