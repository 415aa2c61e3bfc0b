"""Tasks as users hand them in: one JSON object, or a file of lines with one each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from crawlfleet.core.errors import UsageError
from crawlfleet.core.json_text import parse_json
from crawlfleet.model.task_spec import TaskSpec

STANDARD_INPUT = "-"


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
