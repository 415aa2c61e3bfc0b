"""Values of vendors, made fit for every database."""

from __future__ import annotations

import math
import re
from decimal import Context, Decimal
from typing import Any

MAX_WHOLE = 2**63  # beyond it the JSON of some databases is no longer exact, or no number at all

MAX_NUMBER_CHARS = 100
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
WHOLE_DIGITS, AMOUNT_DIGITS = 19, 18  # before the point, of what every database stores
DECIMALS = 20  # of an amount; the rest, noise of somebody's floating point, is rounded
_ROUNDING = Context(prec=AMOUNT_DIGITS + DECIMALS)


def whole_number(text: str) -> int:
    """A whole number in plain or scientific notation, as in `12`, `12.0`, `1.2E+1`; raises ValueError.

    It must be whole exactly, and fit 64 bits.
    """
    value = _number(text)
    if not value:
        return 0
    if value.adjusted() < WHOLE_DIGITS and value == (whole := int(value)) and abs(whole) < MAX_WHOLE:
        return whole
    raise ValueError("it must be a whole number that fits 64 bits")


def amount(text: str) -> Decimal:
    """A decimal number in plain or scientific notation, as in `0.5`, `1.2E10`, `1.0E-10`; raises ValueError.

    All its digits are kept, down to the twentieth behind the point; it must be below 10 to the power of 18.
    """
    value = _number(text)
    if value and value.adjusted() >= AMOUNT_DIGITS:
        raise ValueError(f"it must be a decimal number of at most {AMOUNT_DIGITS} digits before the point")
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < -DECIMALS:
        return value.quantize(Decimal(1).scaleb(-DECIMALS), context=_ROUNDING)
    return Decimal(f"{value:f}") if exponent > 0 and value else value if exponent <= 0 else Decimal(0)


def _number(text: str) -> Decimal:
    if len(text) > MAX_NUMBER_CHARS or not NUMBER.fullmatch(text):
        raise ValueError("it must be a number")
    return Decimal(text)


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
