"""Records of an answer, one by one: a bad one among good ones is left out and told of, and the rest is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from crawlfleet.core.errors import PermanentError
from crawlfleet.sources.http.transport import Session

LEFT_OUT = "left_out_records"  # their name in a task's result
Record = TypeVar("Record")
Read = TypeVar("Read")


class UnusableRecord(Exception):
    """One record of an answer cannot be read; the text says where, what and why."""


def usable(records: Iterable[Record], read: Callable[[Record], Read], session: Session) -> list[Read]:
    """What `read` makes of each record, without those for which it raises UnusableRecord.

    Raises PermanentError when there are records and none is usable: then the vendor has changed what it answers.
    """
    found, bad = [], []
    for record in records:
        try:
            found.append(read(record))
        except UnusableRecord as error:
            bad.append(str(error))
    if bad and not found:
        raise PermanentError(session.quote(bad[0]))
    for text in bad:
        session.remark(LEFT_OUT, text)
    return found
