"""Reading AppsFlyer's aggregate CSV reports by column name.

Columns and their order differ from app to app (events add three each), so only the header says what a cell is.
Cells, as several public clients agree: a missing dimension is the text `None`, a missing figure `N/A`, which is not 0;
`Organic` and `restricted` (hidden for privacy) are media sources like any other.
A response that is no report, or is cut short, raises: it never counts as a day without figures.
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
from crawlfleet.core.figures import Figures

DAY = "Date"
MEDIA_SOURCE = "Media Source (pid)"
DIMENSIONS = {
    "Agency/PMD (af_prt)": "agency",
    MEDIA_SOURCE: "media_source",
    "Campaign (c)": "campaign",
    "Country": "country",
}
COUNTS = {
    "Impressions": "impressions",
    "Clicks": "clicks",
    "Installs": "installs",
    "Sessions": "sessions",
    "Loyal Users": "loyal_users",
}
AMOUNTS = {"Total Revenue": "revenue", "Total Cost": "cost"}
KNOWN = {DAY, *DIMENSIONS, *COUNTS, *AMOUNTS}

COUNT_PATTERN = re.compile(r"(-?\d{1,18})(\.0{1,10})?")  # 18 digits fit every database's big integer
AMOUNT_PATTERN = re.compile(r"-?\d{1,15}(\.\d{1,20})?([eE][+-]?\d)?")
PLAIN_INTEGER = re.compile(r"-?(0|[1-9]\d{0,15})")  # no leading zero: `007` may be an id; 16 digits are exact in JSON


@dataclass(frozen=True, slots=True)
class ReportText:
    """The lines of one response and how to speak about them: `quote` makes vendor text fit for a message."""

    lines: Iterable[str]
    where: str
    quote: Callable[[str], str]

    def rows(self, start: date, end: date) -> Iterator[Figures]:
        """One Figures for each row, in the order of the report.

        Raises PermanentError that names line, column and value for what is no report of these days,
        TransientError when the response is empty or breaks off.
        """
        reader = csv.reader(self.lines, strict=True)
        header = self._header(reader)
        while (cells := self._next(reader)) is not None:
            if not cells:
                continue  # a blank line, usually the last
            if len(cells) != len(header):
                self._wrong_length(reader, len(cells), len(header))
            yield self._figures(reader.line_num, dict(zip(header, cells, strict=True)), start, end)

    def _header(self, reader: Any) -> list[str]:
        first = self._next(reader)
        while first == []:
            first = self._next(reader)
        if first is None:
            raise TransientError(f"{self.where}: the response is empty, not even a header")
        header = [caption.strip() for caption in first]
        missing = [caption for caption in (DAY, MEDIA_SOURCE) if caption not in header]
        if missing:
            text = self.quote(",".join(first))
            if header[0] in KNOWN and self._next(reader) is None:
                raise TransientError(f"{self.where}: the response breaks off in its header: {text}")
            raise PermanentError(f"{self.where}: this is no report, column {missing[0]!r} is missing: {text}")
        return [self._unique(header, index) for index in range(len(header))]

    def _unique(self, header: list[str], index: int) -> str:
        caption = header[index]
        earlier = header[:index].count(caption)
        if not earlier:
            return caption
        if caption in KNOWN:
            raise PermanentError(f"{self.where}: column {caption!r} occurs twice")
        return f"{caption} #{earlier + 1}"

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

    def _figures(self, line: int, row: dict[str, str], start: date, end: date) -> Figures:
        values: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for caption, cell in row.items():
            if caption in DIMENSIONS:
                values[DIMENSIONS[caption]] = None if cell in ("None", "") else storable(cell)
            elif caption in COUNTS:
                values[COUNTS[caption]] = self._count(line, caption, cell)
            elif caption in AMOUNTS:
                values[AMOUNTS[caption]] = self._amount(line, caption, cell)
            elif caption != DAY:
                extra[storable(caption)] = _extra(cell)
        return Figures(day=self._day(line, row[DAY], start, end), extra=extra, **values)

    def _day(self, line: int, cell: str, start: date, end: date) -> date:
        try:
            day = date.fromisoformat(cell.strip())
        except ValueError:
            raise PermanentError(self._wrong(line, DAY, cell, "a date like 2026-01-31")) from None
        if not start <= day <= end:
            raise PermanentError(self._wrong(line, DAY, cell, f"a day from {start} to {end}, as asked for"))
        return day

    def _count(self, line: int, caption: str, cell: str) -> int | None:
        cell = cell.strip()
        if cell in ("N/A", ""):
            return None
        match = COUNT_PATTERN.fullmatch(cell)
        if match is None:
            raise PermanentError(self._wrong(line, caption, cell, "a whole number or N/A"))
        return int(match[1])

    def _amount(self, line: int, caption: str, cell: str) -> Decimal | None:
        cell = cell.strip()
        if cell in ("N/A", ""):
            return None
        if AMOUNT_PATTERN.fullmatch(cell) is None:
            raise PermanentError(self._wrong(line, caption, cell, "a decimal number or N/A"))
        return Decimal(cell)

    def _wrong(self, line: int, caption: str, cell: str, expected: str) -> str:
        return f"{self.where}: line {line}, column {caption!r} must be {expected} (got '{self.quote(cell)}')"


def storable(text: str) -> str:
    """Text that every database takes: NUL becomes U+FFFD, a lone surrogate a question mark."""
    return text.replace("\0", "\ufffd").encode("utf-8", errors="replace").decode("utf-8")


def _extra(cell: str) -> int | str | None:
    """A cell of a column without a field, fit for JSON: decimals stay text, since a float would round them."""
    if cell in ("N/A", "None", ""):
        return None
    return int(cell) if PLAIN_INTEGER.fullmatch(cell) else storable(cell)
