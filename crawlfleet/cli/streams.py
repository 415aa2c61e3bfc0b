"""The standard streams: missing ones are opened, and what a command has done does not fail because nobody is told.

A command that only shows something fails in one line when it cannot show it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from crawlfleet.core.errors import CrawlfleetError

STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))
_missing: set[str] = set()  # names of those that were closed when the program began


def open_missing_streams() -> None:
    """Open /dev/null for each standard stream that is closed: the next file would get its number, and our lines."""
    for descriptor, name, mode in STREAMS:
        try:
            os.fstat(descriptor)
        except OSError:
            _missing.add(name)
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def point_to_nowhere(stream: Any) -> None:
    """Replace a broken stream: Python would flush it at the end, and a failure there would change the exit code."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass


def stdout_is_missing() -> bool:
    """Whether this program was started with a closed stdout: what it prints nobody sees."""
    return "stdout" in _missing


class OutputLost(CrawlfleetError):
    """What a command shows could not be written. Only a reader that went away is another matter: BrokenPipeError."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output could not be written: {error.strerror or type(error).__name__}")


class TellingStream:
    """A stream that raises OutputLost when it breaks, since an OSError may be anything's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with output_lost():
            return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with output_lost():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class LastingStream:
    """A stream that goes on into nothing when it breaks; `problem` says why it did."""

    def __init__(self, stream: TextIO) -> None:
        self.problem: str | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._break(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._break(error)

    def _break(self, error: OSError) -> None:
        self.problem = self.problem or error.strerror or type(error).__name__
        point_to_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def output_lost() -> Iterator[None]:
    """Inside, an OSError is that of the output."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputLost(error) from None


@contextmanager
def telling_stdout() -> Iterator[None]:
    """Inside, a command fails with OutputLost when its result cannot be written."""
    before = sys.stdout
    sys.stdout = cast("TextIO", TellingStream(before))
    try:
        try:
            yield
        except SystemExit:  # argparse, after --help and --version
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    finally:
        sys.stdout = before


@contextmanager
def lasting_stderr() -> Iterator[None]:
    """Inside, no command fails because its talk cannot be written."""
    before = sys.stderr
    sys.stderr = cast("TextIO", LastingStream(before))
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before


@contextmanager
def lasting_stdout() -> Iterator[None]:
    """Inside, no command fails because its result cannot be written; that it was lost is told."""
    before, lasting = sys.stdout, LastingStream(sys.stdout)
    sys.stdout = cast("TextIO", lasting)
    try:
        yield
    finally:
        lasting.flush()
        sys.stdout = before
        if lasting.problem is not None:
            print(f"the output could not be written: {lasting.problem}", file=sys.stderr)
