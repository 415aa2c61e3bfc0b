"""Values of vendors, made fit for every database."""

from __future__ import annotations

import math
from typing import Any

MAX_WHOLE = 2**63  # beyond it the JSON of some databases is no longer exact, or no number at all


def storable(text: str) -> str:
    """Text that every database takes: NUL becomes U+FFFD, a lone surrogate a question mark."""
    return text.replace("\0", "\ufffd").encode("utf-8", errors="replace").decode("utf-8")


def plain(value: Any) -> Any:
    """Text, a number, a flag, None, or a list of these, fit for a JSON column; raises ValueError for anything else."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < MAX_WHOLE):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError("it must be text, a number that fits 64 bits, true, false, or a list of these")
