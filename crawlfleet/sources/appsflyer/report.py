"""Reads AppsFlyer's CSV reports by column name.

Columns and their order differ from app to app (each event adds three). So only the header says what a cell is. It has
the captions of the Pull API, `Media Source (pid)`, or the raw names that the Master API knows too, `pid`.

Several public clients agree on the cells. A missing dimension is the text `None`. A missing figure is `N/A`, which is
not 0. `Organic` and `restricted` (hidden for privacy) are media sources like any other.

A response that lacks a column, or that breaks off, raises. It never counts as a day without figures. Damaged text is a
byte that is no UTF-8, or a carriage return inside a cell. Reading refuses a report with damaged text, or mends the text
with a remark: `ReportText.replace_bad_text`. It always refuses a report with a figure that it cannot read: without that
row the sums would be wrong.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from crawlfleet.core.errors import PermanentError, TransientError
from crawlfleet.core.vendor_data import Figures
from crawlfleet.sources.values import amount, storable, whole_number

DAY = ("day", "day")
COLUMNS = {  # raw name: (what its cells are, the field of Figures or the name among its dimensions)
    "date": DAY,
    "install_time": DAY,
    "af_prt": ("text", "agency"),
    "pid": ("text", "media_source"),
    "c": ("text", "campaign"),
    "country": ("text", "country"),
    "app_id": ("dimension", "app_id"),
    "af_adset_id": ("dimension", "adset_id"),
    "af_adset": ("dimension", "adset"),
    "af_ad_id": ("dimension", "ad_id"),
    "af_ad": ("dimension", "ad"),
    "impressions": ("count", "impressions"),
    "clicks": ("count", "clicks"),
    "installs": ("count", "installs"),
    "sessions": ("count", "sessions"),
    "loyal_users": ("count", "loyal_users"),
    "total_revenue": ("amount", "revenue"),
    "total_cost": ("amount", "cost"),
}
RAW_NAME_IN_CAPTION = re.compile(r".*\((\w+)\)")  # `Media Source (pid)`; the last word of events holds a space

PULL_CAPTIONS = ("Date", "Media Source (pid)")
GEO_CAPTIONS = (*PULL_CAPTIONS, "Country")
MASTER_CAPTIONS = (
    "App ID",
    "Install Time",
    "Media Source (pid)",
    "Campaign (c)",
    "Adset ID (af_adset_id)",
    "Adset (af_adset)",
    "Ad (af_ad)",
    "Ad ID (af_ad_id)",
    "Clicks",
    "Installs",
)

BAD_BYTE = re.compile("[\udc80-\udcff]")  # as the transport hands it on
MAX_BAD_LINES = 100  # more are another encoding, or no text
PLAIN_INTEGER = re.compile(r"-?(0|[1-9]\d{0,15})")  # no leading zero: `007` may be an id; 16 digits are exact in JSON


@dataclass(frozen=True, slots=True)
class ReportText:
    """The lines of one response and how to speak about them: `quote` makes vendor text fit for a message.

    `where` names the report in messages. `required` are the captions, in either spelling, without which it is not the
    report that we asked for. With `replace_bad_text` damaged text is mended, and `remark` gets the name of a counter
    and a sentence for each line that was.
    """

    lines: Iterable[str]
    where: str
    quote: Callable[[str], str]
    required: tuple[str, ...] = PULL_CAPTIONS
    remark: Callable[[str, str], None] = lambda name, text: None
    replace_bad_text: bool = False

    def rows(self, start: date, end: date) -> Iterator[Figures]:
        """One `Figures` for each row, in the order of the report; days are from `start` to `end`, both included.

        Raises PermanentError for a report that is not that of these days; its message names line, column and value.
        Raises TransientError when the response is empty or breaks off.
        """
        reader = csv.reader(self._mended(), strict=True)
        columns = self._columns(reader)
        while (cells := self._next(reader)) is not None:
            if not cells:
                continue  # a blank line, usually the last
            if len(cells) != len(columns):
                self._wrong_length(reader, len(cells), len(columns))
            yield self._figures(reader.line_num, columns, cells, start, end)

    def _mended(self) -> Iterator[str]:
        """The lines. Each damaged byte becomes U+FFFD, and each carriage return inside a line becomes a space.

        Raises PermanentError for damage that must not be mended, and for more than 100 damaged lines.
        """
        first = None
        bad_lines = 0
        for number, line in enumerate(self.lines, 1):
            first = line if first is None else first
            has_bad_byte = not line.isascii() and BAD_BYTE.search(line) is not None
            if not has_bad_byte and "\r" not in line.rstrip("\r\n"):
                yield line
                continue
            mended = BAD_BYTE.sub("\ufffd", line.rstrip("\r\n").replace("\r", " "))
            damage = self._damage(first, number, line)
            bad_lines += 1
            if not self.replace_bad_text or bad_lines > MAX_BAD_LINES:
                raise PermanentError(f"{self.where}: {damage}{self._way_out(bad_lines)}")
            self.remark("mended_lines", f"{self.where}: {damage}: stored as '{self.quote(mended)}'")
            yield mended + "\n"

    def _damage(self, header: str, number: int, line: str) -> str:
        """What is wrong with a line, and where; lines count from 1."""
        match = BAD_BYTE.search(line)
        at = match.start() if match else line.index("\r")
        column = line[:at].count(",")
        captions = next(csv.reader([header]), [])
        name = f"{captions[column]!r}" if column < len(captions) and number > 1 else f"{column + 1}"
        what = f"the byte 0x{ord(match[0]) - 0xDC00:02x}, which is no UTF-8" if match else "a carriage return"
        return f"line {number}, about column {name}, holds {what}"

    def _way_out(self, bad_lines: int) -> str:
        if bad_lines > MAX_BAD_LINES:
            return f", as did {MAX_BAD_LINES} lines before: this is another encoding"
        return ': set bad_text = "replace" in [sources.appsflyer] to store it with a mark there, and retry the task'

    def _columns(self, reader: Any) -> list[tuple[str, str, str]]:
        """For each column: its caption, what its cells are, and the name of their value.

        Raises TransientError for an empty response or one that breaks off in its header. Raises PermanentError when a
        required column is missing or one occurs twice.
        """
        first = self._next(reader)
        while first == []:
            first = self._next(reader)
        if first is None:
            raise TransientError(f"{self.where}: the response is empty, not even a header")
        header = [caption.strip() for caption in first]
        found = [column_of(caption) for caption in header]
        missing = [caption for caption in self.required if column_of(caption) not in found]
        if missing:
            text = self.quote(",".join(first))
            if found[0] is not None and self._next(reader) is None:
                raise TransientError(f"{self.where}: the response breaks off in its header: {text}")
            raise PermanentError(f"{self.where}: this is no report, column {missing[0]!r} is missing: {text}")
        for index, column in enumerate(found):
            if column is not None and column in found[:index]:
                raise PermanentError(f"{self.where}: column {header[index]!r} occurs twice")
        extras = [("extra", storable(_unique(header, index))) for index in range(len(header))]
        return [(caption, *(column or extra)) for caption, column, extra in zip(header, found, extras, strict=True)]

    def _next(self, reader: Any) -> list[str] | None:
        try:
            cells: list[str] | None = next(reader, None)
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                raise TransientError(f"{self.where}: the response breaks off inside quotes") from None
            raise PermanentError(f"{self.where}: line {reader.line_num} is no CSV: {error}") from None
        return cells

    def _wrong_length(self, reader: Any, cells: int, columns: int) -> None:
        line = reader.line_num
        message = f"{self.where}: line {line} has {cells} cells, the header has {columns}"
        if cells < columns and self._next(reader) is None:
            raise TransientError(f"{message}: the response breaks off")
        raise PermanentError(message)

    def _figures(
        self, line: int, columns: list[tuple[str, str, str]], cells: list[str], start: date, end: date
    ) -> Figures:
        values: dict[str, Any] = {}
        dimensions: dict[str, str | None] = {}
        extra: dict[str, Any] = {}
        for (caption, kind, name), cell in zip(columns, cells, strict=True):
            if kind == "text":
                values[name] = _text(cell)
            elif kind == "dimension":
                dimensions[name] = _text(cell)
            elif kind == "count":
                values[name] = self._count(line, caption, cell)
            elif kind == "amount":
                values[name] = self._amount(line, caption, cell)
            elif kind == "day":
                values[name] = self._day(line, caption, cell, start, end)
            else:
                extra[name] = _extra(cell)
        return Figures(**values, dimensions=dimensions, extra=extra)

    def _day(self, line: int, caption: str, cell: str, start: date, end: date) -> date:
        try:
            day = date.fromisoformat(cell.strip())
        except ValueError:
            raise PermanentError(self._wrong(line, caption, cell, "a date like 2026-01-31")) from None
        if not start <= day <= end:
            raise PermanentError(self._wrong(line, caption, cell, f"a day from {start} to {end}, as asked for"))
        return day

    def _count(self, line: int, caption: str, cell: str) -> int | None:
        cell = cell.strip()
        if cell in ("N/A", ""):
            return None
        try:
            return whole_number(cell)
        except ValueError:
            raise PermanentError(self._wrong(line, caption, cell, "a whole number or N/A")) from None

    def _amount(self, line: int, caption: str, cell: str) -> Decimal | None:
        cell = cell.strip()
        if cell in ("N/A", ""):
            return None
        try:
            return amount(cell)
        except ValueError:
            raise PermanentError(self._wrong(line, caption, cell, "a decimal number below 10^18, or N/A")) from None

    def _wrong(self, line: int, caption: str, cell: str, expected: str) -> str:
        return f"{self.where}: line {line}, column {caption!r} must be {expected} (got '{self.quote(cell)}')"


def column_of(caption: str) -> tuple[str, str] | None:
    """What the cells below a caption are, and the name of their value; None for a caption without a field."""
    match = RAW_NAME_IN_CAPTION.fullmatch(caption)
    return COLUMNS.get((match[1] if match else caption).lower().replace(" ", "_"))


def looks_like_header(line: str) -> bool:
    """Whether any cell of a first line is a caption that we know."""
    return any(column_of(cell.strip(' "\r\n')) for cell in line.split(","))


def _unique(header: list[str], index: int) -> str:
    """The caption, with a number where an earlier column has the same: `Name`, `Name #2`."""
    earlier = header[:index].count(header[index])
    return f"{header[index]} #{earlier + 1}" if earlier else header[index]


def _text(cell: str) -> str | None:
    return None if cell in ("None", "") else storable(cell)


def _extra(cell: str) -> int | str | None:
    """A cell of a column without a field, fit for JSON; None for a missing value.

    Decimals stay text, since a float would round them.
    """
    if cell in ("N/A", "None", ""):
        return None
    return int(cell) if PLAIN_INTEGER.fullmatch(cell) else storable(cell)
