"""How commands print: results to stdout, talk to stderr."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol

PROGRESS_SECONDS = 5.0  # between two lines of progress where nothing can be redrawn


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """The value as JSON: moments in UTC with Z, dates as text, decimals as numbers with all their digits.

    Any iterable is an array; it is written while it is read, so a long one needs no memory.
    """
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    encoder = json.JSONEncoder(ensure_ascii=encoding != "utf8", allow_nan=False)
    sys.stdout.writelines(_json(value, 0, encoder.encode))
    print()


def _json(value: Any, depth: int, encode: Callable[[Any], str]) -> Iterator[str]:
    text = _scalar(value, encode)
    if text is not None:
        yield text
        return
    is_object = isinstance(value, Mapping)
    opening, closing = "{}" if is_object else "[]"
    separator, next_separator = "\n" + "  " * (depth + 1), ",\n" + "  " * (depth + 1)
    yield opening
    for item in value.items() if is_object else value:
        name, inner = (f"{encode(str(item[0]))}: ", item[1]) if is_object else ("", item)
        text = _scalar(inner, encode)
        if text is None:
            yield separator + name
            yield from _json(inner, depth + 1, encode)
        else:  # most values are: a generator for each would take ten times as long
            yield separator + name + text
        separator = next_separator
    yield (("\n" + "  " * depth) if separator == next_separator else "") + closing


def _scalar(value: Any, encode: Callable[[Any], str]) -> str | None:
    """The JSON of a value that holds no others; None for one that does."""
    if value is None:
        return "null"
    if type(value) is int:
        return str(value)
    if type(value) is str:
        return encode(value)
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")  # json would make it a float and lose digits
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Enum):
        return None
    return encode(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return utc(value).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    return value


def utc(moment: datetime) -> datetime:
    """The moment with its zone; one without is UTC, as everything in the database is."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def local_time(moment: datetime) -> str:
    """The moment in the user's own zone, to the second."""
    return utc(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def cell(value: Any) -> str:
    """A value as people read it in a table; None is empty, control characters cannot reach the terminal."""
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
    """A table for people: drawn on a terminal, aligned plain text elsewhere; numbers stand to the right."""
    found = [list(row) for row in rows]
    right = [
        any(_is_number(row[index]) for row in found)
        and all(row[index] is None or _is_number(row[index]) for row in found)
        for index in range(len(columns))
    ]
    texts = [[cell(value) for value in row] for row in found]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for column, is_right in zip(columns, right, strict=True):
            table.add_column(column, justify="right" if is_right else "left", overflow="fold")
        for row in texts:
            table.add_row(*map(Text, row))  # Text: what a vendor sends is no markup
        Console().print(table)
        return
    widths = [max(map(_width, column)) for column in zip(columns, *texts, strict=True)]
    for row in [list(columns), *texts]:
        padded = [
            " " * (width - _width(text)) + text if is_right else text + " " * (width - _width(text))
            for text, width, is_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _width(text: str) -> int:
    """Columns on a terminal: Chinese takes two, a combining mark none."""
    return sum(
        0 if unicodedata.combining(mark) else 2 if unicodedata.east_asian_width(mark) in "WF" else 1 for mark in text
    )


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
