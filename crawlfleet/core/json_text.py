"""JSON as every door reads it, and writes it: moments in UTC with Z, days as text, decimals with all their digits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

Encode = Callable[[Any], str]

MAX_DEPTH = 31  # of JSON that is stored: what is deeper, MariaDB takes for none
MAX_READ_DEPTH = 64  # of JSON from outside, all of what may be stored and what it is wrapped in
MAX_KEYS = 10_000  # of one object from outside: each unknown one costs an error of its own


def json_pieces(value: Any, ascii_only: bool = False, indent: int | None = None) -> Iterator[str]:
    """The value's JSON, piece by piece. Any iterable is an array; it is read while its JSON is written, so a long one
    needs no memory. `indent` blanks begin each deeper line; None: all on one line."""
    encoder = json.JSONEncoder(ensure_ascii=ascii_only, allow_nan=False)
    return _pieces(value, 0, encoder.encode, indent)


def json_text(value: Any) -> str:
    """The value's JSON on one line."""
    return "".join(json_pieces(value))


def _pieces(value: Any, depth: int, encode: Encode, indent: int | None) -> Iterator[str]:
    text = _scalar(value, encode)
    if text is not None:
        yield text
        return
    is_object = isinstance(value, Mapping)
    opening, closing = "{}" if is_object else "[]"
    outer = "" if indent is None else "\n" + " " * indent * depth
    separator = "" if indent is None else outer + " " * indent
    next_separator = "," + separator
    is_empty = True
    yield opening
    for item in value.items() if is_object else value:
        name, inner = (f"{encode(str(item[0]))}: ", item[1]) if is_object else ("", item)
        text = _scalar(inner, encode)
        if text is None:
            yield separator + name
            yield from _pieces(inner, depth + 1, encode, indent)
        else:  # most values are: a generator for each would take ten times as long
            yield separator + name + text
        separator, is_empty = next_separator, False
    yield closing if is_empty else outer + closing


def _scalar(value: Any, encode: Encode) -> str | None:
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


def parse_json(text: str | bytes) -> Any:
    """Return the value; raises ValueError for what JSON does not allow, for a key that is given twice, and for what is
    deeper or has more keys than anything that is meant."""
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        value = None
    else:
        if not is_deeper(value, MAX_READ_DEPTH):
            return value
    raise ValueError(f"nested too deeply: at most {MAX_READ_DEPTH} levels are read")


def is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and arrays are nested in more than so many levels; looks at them level by level."""
    level = [value]
    for _ in range(levels + 1):
        level = [each for each in level if isinstance(each, Mapping | list | tuple)]
        if not level:
            return False
        level = [item for each in level for item in (each.values() if isinstance(each, Mapping) else each)]
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"an object has {len(pairs)} keys: at most {MAX_KEYS} are read")
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key!r:.80} is given twice")
        values[key] = value
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number that JSON allows")
