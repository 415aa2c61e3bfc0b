"""How commands print: results to stdout, talk to stderr."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol, TextIO

from crawlfleet.cli.moments import screen
from crawlfleet.core.json_text import json_pieces
from crawlfleet.model.lifecycle import AccountStatus, AssignmentStatus, DeviceStatus, TaskStatus

BOLD, DIM, BAD, WAITS = "1", "2", "1;31", "33"  # styles, as terminals know them
STATE_TITLES = frozenset({"status", "health", "state"})
GRAVE_STATES = (
    TaskStatus.FAILED,
    AssignmentStatus.EXPIRED,
    DeviceStatus.OFFLINE,
    AccountStatus.PARKED,
    AccountStatus.TOKEN_EXPIRED,
)
STATE_STYLES: dict[str, str] = {
    **dict.fromkeys((*GRAVE_STATES, "FAIL", "silent", "missing"), BAD),
    **dict.fromkeys(("WARN", "draining", "throttled", "quota_out", "thin"), WAITS),
}
PROGRESS_SECONDS = 5.0  # between two lines of progress where nothing can be redrawn


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """Print the value as JSON, see core/json_text.py; any iterable is an array, and is written while it is read."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    sys.stdout.writelines(json_pieces(value, ascii_only=encoding != "utf8", indent=2))
    print()


def local_time(moment: datetime) -> str:
    """Return the moment in the screen's zone, which is named below; see moments.py."""
    return screen.local_time(moment)


def cell(value: Any) -> str:
    """Return the value as people read it in a table; None is empty, control characters become spaces."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return local_time(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{cell(key)}={cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    if isinstance(value, Enum):
        value = value.value
    return "".join(mark if mark.isprintable() else " " for mark in str(value))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], prose: Collection[str] = ()) -> None:
    """Print a table for people, as wide as the terminal (80 columns without one); numbers stand to the right.

    Columns without any value are left out; `prose` names those whose texts go below their rows first. See layout.py.
    """
    from crawlfleet.cli.layout import table_lines

    values = [list(row) for row in rows]
    right = {
        index
        for index in range(len(columns))
        if any(_is_number(row[index]) for row in values)
        and all(row[index] is None or _is_number(row[index]) for row in values)
    }
    texts = [[cell(value) for value in row] for row in values]
    lines = table_lines(columns, texts, right, terminal_width(), prose, _painted)
    print(styled(next(lines), BOLD))
    for line in lines:
        print(line)


def print_text(text: str, style: str | None = None, part: str | None = None) -> None:
    """Print a sentence, or `name: value`, in lines that fit the terminal; `style` is for all of it, or that part."""
    from crawlfleet.cli.layout import wrapped

    for line in wrapped(text, terminal_width()):
        print(line.replace(part, styled(part, style)) if part else styled(line, style))


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print `name: value` lines of what is known."""
    for name, value in fields.items():
        text = cell(value)
        if text:
            print_text(f"{name}: {text}", _style(name, text), text)


def print_finding(status: str, check: str, finding: str) -> None:
    """Print one line of the doctor at once, and what does not fit in it below."""
    from crawlfleet.cli.layout import wrapped

    first, *others = wrapped(f"{status:<5} {check:<11} {cell(finding)}", terminal_width(), " " * 18)
    print(first.replace(status, styled(status, STATE_STYLES.get(status)), 1), *others, sep="\n", flush=True)


def terminal_width() -> int:
    """How many columns a line may take: COLUMNS, the terminal's, or 80 where there is neither."""
    return shutil.get_terminal_size().columns


def styled(text: str, style: str | None) -> str:
    """Return the text in a style where a terminal shows it and NO_COLOR is not set."""
    if style is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{style}m{text}\x1b[0m"


def _painted(title: str, text: str) -> str:
    return styled(text, _style(title, text))


def _style(title: str, text: str) -> str | None:
    """The style of a state; None for what is fine, and for every other column."""
    if title not in STATE_TITLES:
        return None
    words = text.replace(",", "").split()
    return next((STATE_STYLES[word] for word in words if word in STATE_STYLES), None)


def end_screen(file: TextIO | None = None) -> None:
    """Name the zone of the times that were printed, if any were."""
    note = screen.zone_note()
    if note is not None:
        print(note, file=file)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


class Advance(Protocol):
    """Call with how many more are done."""

    def __call__(self, count: int = 1, /) -> None: ...


@contextmanager
def progress(total: int | None, label: str) -> Iterator[Advance]:
    """Show on stderr how far a long command is: a bar on a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count=1, /: bar.advance(task, count)
        return
    done, said_at = 0, time.monotonic()

    def advance(count: int = 1, /) -> None:
        nonlocal done, said_at
        done += count
        if time.monotonic() - said_at >= PROGRESS_SECONDS:
            said_at = time.monotonic()
            say(f"{label}: {done}" + (f" of {total}" if total is not None else ""))

    yield advance
