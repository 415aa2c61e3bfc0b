"""Reports as files at signed addresses, as AppsFlyer gives them: a report is answered with a redirect to its file."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable
from dataclasses import replace

from crawlfleet.core.errors import UsageError
from crawlfleet.sandbox.answer import Answer

REDIRECTS = ("both", "port", "origin", "off")  # see Sandbox
EXPORT_PATH = "/export/token/"
LIFE_SECONDS = 60.0
EXPIRED = Answer(
    403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", "application/xml"
)
NO_TOKEN_HERE = Answer(400, "<Error><Message>Only one auth mechanism allowed</Message></Error>", "application/xml")


class Exports:
    """Answers that wait for the one who knows their address, each for one call within a minute.

    `addresses` gives the vendor's own address and that of its files. `leaks` counts calls that brought a token to the
    latter.
    """

    def __init__(self, redirects: str, clock: Callable[[], float], addresses: Callable[[], tuple[str, str]]) -> None:
        if redirects not in REDIRECTS:
            raise UsageError(f"redirects must be one of {', '.join(REDIRECTS)} (got {redirects!r:.80})")
        self._redirects, self._clock, self._addresses = redirects, clock, addresses
        self._turns = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[float, Answer]] = {}
        self.leaks = 0

    def offer(self, answer: Answer, expired: bool = False) -> Answer:
        """The redirect to this answer, or the answer itself when there are no redirects."""
        if self._redirects == "off":
            return answer
        home, files = self._addresses()
        at_home = self._redirects == "origin" or (self._redirects == "both" and next(self._turns) % 2 == 0)
        path = EXPORT_PATH + secrets.token_urlsafe(24)
        now = self._clock()
        with self._lock:
            for old in [each for each, (until, _) in self._waiting.items() if until <= now]:
                del self._waiting[old]
            self._waiting[path] = (now if expired else now + LIFE_SECONDS, answer)
        return replace(
            answer, status=302, body="", location=f"{home if at_home else files}{path}", fault=None, when_sent=None
        )

    def fetch(self, path: str, has_token: bool) -> Answer:
        """The answer at this address, once; `has_token` tells that the call carried one where it must not."""
        if has_token:
            self.leaks += 1
            return NO_TOKEN_HERE
        with self._lock:
            until, answer = self._waiting.pop(path, (0.0, EXPIRED))
        return answer if until > self._clock() else EXPIRED
