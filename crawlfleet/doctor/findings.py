"""What a check of `doctor` says, and how checks are run: each in a thread that is left behind when it does not end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from crawlfleet.core.errors import cause_of
from crawlfleet.core.logs import redact

LIMIT_SECONDS = 12.0  # of one check; above the 10 s that a database's driver tries to connect


class Status(StrEnum):
    """FAIL: a node cannot do its work here. WARN: it can, but look at it."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it; None when there is nothing to do."""

    check: str
    status: Status
    finding: str
    advice: str | None = None


def ok(check: str, finding: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, finding)


def warn(check: str, finding: str, advice: str) -> Finding:
    """It works, but."""
    return Finding(check, Status.WARN, finding, advice)


def fail(check: str, finding: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, Status.FAIL, finding, advice)


class Check:
    """Begins to look at once."""

    def __init__(self, name: str, look: Callable[[], Iterable[Finding]], limit_seconds: float = LIMIT_SECONDS) -> None:
        self.name = name
        self._look = look
        self._limit_seconds = limit_seconds
        self._give_up_at = time.monotonic() + limit_seconds
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._run, name=f"doctor {name}", daemon=True)
        self._thread.start()

    def findings(self) -> list[Finding]:
        """What it found within its time; a check that is late is a failure of what it looked at."""
        self._thread.join(max(0.0, self._give_up_at - time.monotonic()))
        if self._thread.is_alive():
            text = f"no answer within {self._limit_seconds:g} s"
            return [*self._found, fail(self.name, text, "look at network, firewall and load between here and there")]
        return self._found

    def _run(self) -> None:
        try:
            for finding in self._look():
                self._found.append(finding)
        except Exception as error:  # whatever it is: it is what the check found
            text = redact(cause_of(error))
            self._found.append(
                fail(self.name, f"{type(error).__name__}: {text}", "this should not be: please report it")
            )
