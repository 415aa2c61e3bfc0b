"""What a body on a Dask worker leaves behind, as JSON: a result from a cluster must be able to say data only.

A value that JSON knows is itself. Any other is an object with one key, its kind: `{"date": "2026-11-30"}`, or
`{"Figures": [its fields in order]}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from operator import attrgetter
from typing import Any

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange, Row
from crawlfleet.model.ending import Outcome
from crawlfleet.model.task_spec import TaskSpec

MAX_LINE_BYTES = 16 * 1024 * 1024  # of one row

_names: dict[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in fields(kind) if field.init)
    for kind in (App, AppList, Figures, Outcome, ReportRange, TaskSpec)
}
_values_of = {kind: attrgetter(*names) for kind, names in _names.items()}


def _made(kind: type, parts: Sequence[Any]) -> Any:
    return kind(**dict(zip(_names[kind], map(_value, parts), strict=True)))


_read: dict[str, Callable[[Any], Any]] = {
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "Decimal": Decimal,
    "tuple": lambda parts: tuple(map(_value, parts)),
    "object": lambda pairs: {str(name): _value(value) for name, value in pairs},
    **{kind.__name__: partial(_made, kind) for kind in _names},
}
_fits: dict[str, Callable[[Any], bool]] = {  # the fields of an Outcome; what it holds is checked where it is stored
    "message": lambda value: value is None or isinstance(value, str),
    "retry_after": lambda value: value is None or (isinstance(value, float) and 0 <= value < float("inf")),
    "quota_scope": lambda value: value is None or isinstance(value, str),
    "quota_daily": lambda value: isinstance(value, bool),
    "calls_wanted": lambda value: value is None or (type(value) is int and value > 0),
    "summary": lambda value: value is None or isinstance(value, str),
    "rows": lambda rows: isinstance(rows, list | tuple) and all(isinstance(row, App | Figures) for row in rows),
    "replaces": lambda value: value is None or isinstance(value, AppList | ReportRange),
    "follow_ups": lambda specs: isinstance(specs, list | tuple) and all(isinstance(each, TaskSpec) for each in specs),
    "denied": lambda value: (
        value is None or (type(value) is tuple and len(value) == 2 and all(isinstance(each, str) for each in value))
    ),
    "denied_in_words": lambda value: isinstance(value, bool),
}


class NotAResult(Exception):
    """What came is no result of a body."""


def outcome_text(outcome: Outcome) -> bytes:
    """The outcome, without the rows of a spool; raises TypeError for a value that JSON cannot hold."""
    return _dumped(outcome)


def read_outcome(text: bytes) -> Outcome:
    """The outcome; raises NotAResult."""
    found = _loaded(text)
    if not isinstance(found, Outcome):
        raise NotAResult(f"it is a {type(found).__name__}")
    try:
        found.kind = EndingKind(found.kind)
        wrong = [name for name, fits in _fits.items() if not fits(getattr(found, name))]
    except ValueError:
        wrong = ["kind"]
    if wrong:
        raise NotAResult(f"{wrong[0]} is not what a body leaves")
    return found


def row_lines(rows: Iterable[Row]) -> bytes:
    """A line for each row; raises TypeError for a value that JSON cannot hold."""
    return b"".join(_dumped(row) + b"\n" for row in rows)


class RowReader:
    """The rows in pieces of such lines, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, piece: bytes) -> Sequence[Row]:
        """The rows that are complete by now; raises NotAResult."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise NotAResult(f"a row has more than {MAX_LINE_BYTES} bytes")
        rows = list(map(_loaded, lines))
        if not all(isinstance(row, App | Figures) for row in rows) or len({type(row) for row in rows}) > 1:
            raise NotAResult("not all of it are rows of one kind")
        return rows


def _dumped(value: object) -> bytes:
    return json.dumps(_plain(value), separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value
    if kind in _names:
        return {kind.__name__: list(map(_plain, _values_of[kind](value)))}
    if kind is list:
        return list(map(_plain, value))
    if kind is tuple:
        return {"tuple": list(map(_plain, value))}
    if isinstance(value, Mapping):
        return {"object": [[str(name), _plain(each)] for name, each in value.items()]}
    if isinstance(value, datetime | date):
        return {"datetime" if isinstance(value, datetime) else "date": value.isoformat()}
    if isinstance(value, Decimal):
        return {"Decimal": str(value)}
    if isinstance(value, str | int | float):  # of a class of its own, as an Enum's members
        return next(base(value) for base in (str, int, float) if isinstance(value, base))
    raise TypeError(f"a {kind.__name__} cannot be sent")


def _loaded(text: bytes) -> Any:
    try:
        return _value(json.loads(text))
    except Exception as error:  # UsageError of a TaskSpec, RecursionError, whatever values bring about
        raise NotAResult(f"{type(error).__name__} while it was read") from None


def _value(found: Any) -> Any:
    if isinstance(found, list):
        return list(map(_value, found))
    if isinstance(found, dict):
        [(kind, content)] = found.items()
        return _read[kind](content)
    return found
