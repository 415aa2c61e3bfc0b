"""How commands print: results to stdout, talk to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol

from crawlfleet.core.json_text import json_pieces, utc

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
    """Return the moment in the user's own zone, to the second."""
    return utc(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


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


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table for people: drawn on a terminal, aligned plain text elsewhere; numbers stand to the right."""
    values = [list(row) for row in rows]
    right = [
        any(_is_number(row[index]) for row in values)
        and all(row[index] is None or _is_number(row[index]) for row in values)
        for index in range(len(columns))
    ]
    texts = [[cell(value) for value in row] for row in values]
    if sys.stdout.isatty():
        _draw_table(columns, texts, right)
    else:
        _print_plain(columns, texts, right)


def _draw_table(columns: Sequence[str], texts: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column, is_right in zip(columns, right, strict=True):
        table.add_column(column, justify="right" if is_right else "left", overflow="fold")
    for row in texts:
        table.add_row(*map(Text, row))  # Text: what a vendor sends is no markup
    Console().print(table)


def _print_plain(columns: Sequence[str], texts: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    """Print lines that a pipe can read, two spaces between columns.

    rich knows how wide a text is. Its tables print the same lines, but take 15 times as long: 3.3 s for 5,000 rows.
    """
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(columns, *texts, strict=True)]
    for row in [columns, *texts]:
        padded = []
        for text, width, is_right in zip(row, widths, right, strict=True):
            padding = " " * (width - cell_len(text))
            padded.append(padding + text if is_right else text + padding)
        print("  ".join(padded).rstrip())


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
