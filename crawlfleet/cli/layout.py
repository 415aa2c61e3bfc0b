"""Tables and sentences as lines that fit a terminal: pure functions from texts to lines.

A table keeps in each line what fits, the first columns first; the rest of a row stands below it, as `name: value`.
A first value that is too wide stands above its row, once for rows that share it.
Widths are counted in columns of the terminal: a Chinese character takes two. Words, ids and dates are never broken,
unless one alone is wider than the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from rich.cells import cell_len

Paint = Callable[[str, str], str]  # from a column's title and a text to the text as it is written

GAP = "  "  # between two columns
INDENT = "    "  # of what stands below a row
BELOW = "…"  # stands in a row for a value that is below it
SMALLEST = 16  # no column is made narrower for a few wide values
NARROWEST = 20  # columns that a terminal is taken to have at least
CLOSING = "，。、；：！？）》」』】…"  # never begin a line
PARTS = re.compile(r"\s+|[!-~]+|.", re.DOTALL)


def as_it_is(_title: str, text: str) -> str:
    """Paint nothing."""
    return text


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[int],
    width: int,
    prose: Collection[str] = (),
    paint: Paint = as_it_is,
) -> Iterator[str]:
    """Yield a header and the rows, with columns without any value left out; the columns `right` stand to the right.

    Columns are kept in the line in their order, those with `prose` last; what does not fit goes below its row.
    """
    width = max(width, NARROWEST)
    if not rows:
        yield from wrapped(GAP.join(columns), width, "")
        return
    lengths = [[cell_len(row[index]) for row in rows] for index in range(len(columns))]
    shown = [index for index in range(len(columns)) if any(lengths[index])] or [0]
    titles = [cell_len(title) for title in columns]
    widths = _widths(shown, columns, titles, lengths, width, prose)

    def line(texts: Sequence[str], sizes: Sequence[int], painted: bool) -> str:
        cells = []
        for index, room in widths.items():
            padding = " " * (room - sizes[index])
            text = paint(columns[index], texts[index]) if painted else texts[index]
            cells.append(padding + text if index in right else text + padding)
        return GAP.join(cells).rstrip()

    yield line(columns, titles, painted=False)
    first, heading = shown[0], ""
    for number, row in enumerate(rows):
        texts, sizes = list(row), [each[number] for each in lengths]
        below = []
        for index in shown:
            if sizes[index] <= widths.get(index, 0):
                continue
            if index != first:
                below.append((columns[index], row[index]))
                texts[index], sizes[index] = BELOW, 1
                continue
            if row[index] != heading:
                yield from wrapped(row[index], width)
            heading, texts[index], sizes[index] = row[index], "", 0
        heading = "" if texts[first] else heading
        yield line(texts, sizes, painted=True)
        yield from _below(below, width, paint)


def _widths(
    shown: Sequence[int],
    columns: Sequence[str],
    titles: Sequence[int],
    lengths: Sequence[Sequence[int]],
    width: int,
    prose: Collection[str],
) -> dict[int, int]:
    """Return the width of each column that is kept in the line, in the order of the columns."""
    full = {index: max(titles[index], *lengths[index]) for index in shown}
    first = shown[0]
    order = sorted(shown, key=lambda index: (index != first and columns[index] in prose, index))
    room = dict(full)
    facts = [index for index in order if index == first or columns[index] not in prose]
    least = {index: _usual(titles[index], lengths[index]) for index in facts}
    least[first] = min(least[first], max(titles[first], width // 3))
    while sum(room[index] + len(GAP) for index in facts) - len(GAP) > width:
        widest = max(facts, key=lambda index: (room[index] > least[index], room[index]))
        if room[widest] <= least[widest]:
            break
        smaller = (length for length in lengths[widest] if length < room[widest])
        room[widest] = max(least[widest], max(smaller, default=0))
    kept: dict[int, int] = {}
    left = width
    for index in order:
        if index == first:
            kept[index] = min(room[index], width)
            left -= kept[index]
        elif room[index] + len(GAP) <= left:
            kept[index] = room[index]
            left -= room[index] + len(GAP)
    for index in [each for each in order if each in kept]:  # what was narrowed without need
        if full[index] - kept[index] <= left:
            left -= full[index] - kept[index]
            kept[index] = full[index]
    return {index: kept[index] for index in shown if index in kept}


def _usual(title: int, lengths: Sequence[int]) -> int:
    """The width that holds three values of four."""
    return max(title, SMALLEST, sorted(lengths)[(len(lengths) - 1) * 3 // 4])


def _below(items: Sequence[tuple[str, str]], width: int, paint: Paint) -> Iterator[str]:
    """Yield what stands below a row: short values side by side, long ones on lines of their own."""
    line, used = "", 0
    for title, text in items:
        size = len(GAP) + cell_len(f"{title}: {text}")
        if line and used + size <= width:
            line, used = f"{line}{GAP}{title}: {paint(title, text)}", used + size
            continue
        if line:
            yield line
            line = ""
        if size - len(GAP) + len(INDENT) <= width:
            line, used = f"{INDENT}{title}: {paint(title, text)}", size - len(GAP) + len(INDENT)
        else:
            yield from wrapped(f"{INDENT}{title}: {text}", width, INDENT + GAP)
    if line:
        yield line


def wrapped(text: str, width: int, indent: str = INDENT) -> Iterator[str]:
    """Yield the text in lines of at most so many columns, the second and later ones behind `indent`."""
    width = max(width, NARROWEST)
    line, used, blank = "", 0, ""
    for each in _parts(text):
        if each.isspace():
            blank = each
            continue
        part, size = each, cell_len(each)
        if used and used + len(blank) + size > width:
            if line.strip():
                yield line
            line = indent if len(indent) + size <= width or size > width else ""
            used, blank = len(line), ""
        while used + len(blank) + size > width:  # alone it is wider than a line
            head = _head(part, width - used - len(blank))
            yield line + blank + head
            part, line, used, blank = part[len(head) :], indent, len(indent), ""
            size = cell_len(part)
        line, used, blank = line + blank + part, used + len(blank) + size, ""
    yield line


def _parts(text: str) -> Iterator[str]:
    """Yield blanks, and between them what is never broken: words, but each wide character on its own."""
    part = ""
    for piece in PARTS.findall(text):
        if part and not piece.isspace() and _belongs(piece, part):
            part += piece
            continue
        if part:
            yield part
        part = piece
    if part:
        yield part


def _belongs(piece: str, part: str) -> bool:
    """Whether no line may end between these two."""
    if part.isspace():
        return False
    if piece in CLOSING or cell_len(piece) == 0:
        return True
    return (len(piece) > 1 or cell_len(piece) < 2) and cell_len(part[-1]) < 2


def _head(part: str, width: int) -> str:
    """The longest beginning that takes at most so many columns, and at least one character."""
    count = 1
    while count < len(part) and cell_len(part[: count + 1]) <= width:
        count += 1
    return part[:count]
