"""Waiting in tests: on a condition, with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.01


def wait_until(condition: Callable[[], T], timeout: float = 10, what: str = "the condition") -> T:
    """The first true value of `condition`, asked every 10 ms; AssertionError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still waiting for {what} after {timeout} s (last value: {value!r})"
        time.sleep(POLL_SECONDS)
    return value
