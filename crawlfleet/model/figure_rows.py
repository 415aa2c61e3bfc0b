"""Figures as rows of cl_app_data."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from crawlfleet.core.vendor_data import AMOUNTS, COUNTS, DIMENSIONS, Figures

STORE_BATCH = 1000  # rows of one INSERT, or fewer that are wide
AMOUNT_LIMIT = Decimal(10) ** 18  # revenue and cost are stored with 18 digits before the point and 6 after
COLUMNS = {
    "date": "day",
    "row_hash": "bytes",
    **dict.fromkeys(DIMENSIONS, "text"),
    **dict.fromkeys(COUNTS, "int"),
    **dict.fromkeys(AMOUNTS, "decimal"),
    "extra": "json",
}


class ValueRefused(ValueError):
    """A figure that no database column holds."""


def _whole(row: Figures, name: str) -> int | None:
    value: int | None = getattr(row, name)
    if value is not None and not -(2**63) <= value < 2**63:  # SQLite would store it as a float
        raise ValueRefused(f"{name} of {row.day} does not fit 64 bits (got {value})")
    return value


def _amount(row: Figures, name: str) -> Decimal | None:
    value: Decimal | None = getattr(row, name)
    if value is not None and not (value.is_finite() and abs(value) < AMOUNT_LIMIT):  # MariaDB would cut it silently
        raise ValueRefused(f"{name} of {row.day} must be below {AMOUNT_LIMIT} (got {value})")
    return value


def figures_row(row: Figures, seen: Counter[bytes]) -> tuple[Any, ...]:
    """The values of COLUMNS; `seen` counts the dimensions of the rows before it. Raises ValueRefused."""
    identity = [
        row.day.isoformat(),
        row.agency,
        row.media_source,
        row.campaign,
        row.country,
        sorted(row.dimensions.items()),
    ]
    plain = json.dumps(identity, ensure_ascii=False).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(plain, digest_size=16).digest()
    seen[digest] += 1
    if seen[digest] > 1:  # the vendor sent these dimensions twice: both rows count
        digest = hashlib.blake2b(plain + b"#%d" % seen[digest], digest_size=16).digest()
    return (
        row.day,
        digest,
        *(getattr(row, name) for name in DIMENSIONS),
        *(_whole(row, name) for name in COUNTS),
        *(_amount(row, name) for name in AMOUNTS),
        extra_text({**row.dimensions, **row.extra}),
    )


def extra_text(values: dict[str, Any]) -> str | None:
    """Columns without a place of their own as JSON, None when there are none."""
    return json.dumps(values, ensure_ascii=False, default=str) if values else None


def batches_of(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """The rows in lists of STORE_BATCH."""
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, STORE_BATCH)):
        yield batch
