"""Tasks as users hand them in: one JSON object, or a file of lines with one each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from crawlfleet.core.errors import UsageError
from crawlfleet.model.task_spec import TaskSpec

STANDARD_INPUT = "-"


def parse_json(text: str) -> Any:
    """Return the value; raises ValueError for what JSON does not allow, and for a key that is given twice."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key!r:.80} is given twice")
        values[key] = value
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number that JSON allows")


def read_task_lines(path: str) -> Iterator[tuple[str, TaskSpec]]:
    """Yield the task of each line that is not blank, after the line's place for messages; `-` is standard input.

    Raises UsageError that names the file, the line, and what is wrong with which value.
    """
    name = "standard input" if path == STANDARD_INPUT else path
    with _opened(path) as stream:
        for number, line in enumerate(stream, 1):
            place = f"{name} line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UsageError(f"{place} is not UTF-8") from None
            if text.strip():
                yield place, _spec(text, place)


def _spec(text: str, place: str) -> TaskSpec:
    try:
        return TaskSpec.from_mapping(parse_json(text))
    except ValueError as error:
        raise UsageError(f"{place} is not JSON: {error} (got {text.strip()!r:.80})") from None
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        with open(path, "rb") as stream:
            yield stream
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
