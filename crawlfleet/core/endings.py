"""The kinds of endings of a run, each spelled once: here, and as values stored in the schema's `error_kind`.

`model/lifecycle.py` holds the rule of each kind: the move of the task, what it costs and what it waits for.
"""

from __future__ import annotations

from enum import StrEnum


class EndingKind(StrEnum):
    """How a run ended. The values are stored; programs may rely on them."""

    OK = "ok"
    PERMANENT = "permanent"
    TRANSIENT = "transient"
    QUOTA = "quota"
    AUTH = "auth"
    UNPAID = "unpaid"
    WAIT = "wait"
    TOKEN = "token"
    PROXY = "proxy"
    CRASHED = "crashed"
    EXPIRED = "expired"
    RELEASED = "released"
    CANCELLED = "cancelled"
