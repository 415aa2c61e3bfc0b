"""Many rows in a temporary file without a name, so that memory stays flat. The kernel removes it with its last user.

Where its folder has no room the file goes on in memory: it was paid for with a call of the vendor's quota.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import IO, Any

from crawlfleet.core.errors import WaitError
from crawlfleet.core.vendor_data import App, Figures, Row

log = logging.getLogger(__name__)

_values_of: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    kind: attrgetter(*(field.name for field in fields(kind))) for kind in (App, Figures)
}


MEMORY_BYTES = 256 * 1024 * 1024  # of a result that finds no room on the disk
COPY_BYTES = 1024 * 1024


def row_bytes(row: Row) -> int:
    """Bytes that a row takes, more or less; also one that no pickle takes, which may be stored all the same."""
    return len(repr(row))


def _pickled(rows: Sequence[Row]) -> bytes:
    kind = App if isinstance(rows[0], App) else Figures
    return pickle.dumps((kind, list(map(_values_of[kind], rows))), protocol=5)


def _file_on_disk() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="crawlfleet-", buffering=0)
    except OSError as error:
        if not hasattr(os, "memfd_create"):
            raise _no_room(error, 0) from None
        log.warning("%s; it stays in memory", _no_room(error, 0))
        return os.fdopen(os.memfd_create("crawlfleet"), "r+b", buffering=0)


def _no_room(error: OSError, size: int) -> WaitError:
    try:
        folder = tempfile.gettempdir()
    except OSError:
        folder = "any folder for temporary files"
    reason = error.strerror or type(error).__name__
    return WaitError(
        f"a result of {size / 2**20:.1f} MB and more finds no room in {folder} ({reason}):"
        " make room there, or name another folder in the environment variable TMPDIR"
    )


class Spool:
    """Rows of one kind, written once and read as often as needed, by one reader at a time, in the order written.

    A stream of pickles, each a batch of plain tuples: half the time of pickling the rows themselves (measured: 6 us
    a row to write, 5 us to read). Only this program can reach the file, so unpickling it is safe; another process
    of the node is handed its descriptor.
    """

    def __init__(self, file: IO[bytes] | None = None, count: int = 0) -> None:
        self._file = _file_on_disk() if file is None else file
        self._is_on_disk = True
        self._bytes = 0  # written here
        self._count = count

    @classmethod
    def adopt(cls, descriptor: int, count: int) -> Spool:
        """The spool behind a descriptor that another process sent; the descriptor is owned from now on."""
        return cls(os.fdopen(descriptor, "r+b", buffering=0), count)

    def append(self, rows: Sequence[Row]) -> None:
        """Write one batch; raises WaitError where there is no room, and what pickle raises."""
        if rows:
            self.add_bytes(_pickled(rows))
            self._count += len(rows)

    def add_bytes(self, data: bytes) -> None:
        """Write bytes of batches. Where the disk is full, all goes on in memory: the vendor's answer is not lost."""
        try:
            self._write(data)
        except OSError as error:
            self._go_on_in_memory(error, len(data))
            self._write(data)

    def _write(self, data: bytes) -> None:
        self._file.seek(self._bytes)
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._bytes += len(data)

    def _go_on_in_memory(self, error: OSError, more: int) -> None:
        size = self._bytes + more
        if not self._is_on_disk or size > MEMORY_BYTES or not hasattr(os, "memfd_create"):
            raise _no_room(error, size) from None
        log.warning("%s; it stays in memory", _no_room(error, size))
        former, self._file = self._file, os.fdopen(os.memfd_create("crawlfleet"), "r+b", buffering=0)
        self._is_on_disk = False
        former.seek(0)
        wanted, self._bytes = self._bytes, 0
        while wanted > self._bytes:
            self._write(former.read(min(COPY_BYTES, wanted - self._bytes)))
        former.close()

    def fileno(self) -> int:
        """The descriptor of the file; everything that was appended is written."""
        return self._file.fileno()

    def batches(self) -> Iterator[list[Row]]:
        """The rows as they were appended, batch by batch, from the first."""
        self._file.seek(0)
        reader = io.BufferedReader(self._file)  # type: ignore[type-var]  # a raw file, whatever its type says
        try:
            while True:
                try:
                    kind, batch = pickle.load(reader)
                except EOFError:
                    return
                yield [kind(*values) for values in batch]
        finally:
            if not self._file.closed:
                reader.detach()

    def __iter__(self) -> Iterator[Row]:
        for batch in self.batches():
            yield from batch

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Close the file; calling again does nothing."""
        self._file.close()
