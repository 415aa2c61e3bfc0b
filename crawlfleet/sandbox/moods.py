"""Moods of a simulated vendor: what real ones answer now and then, though their documents do not say so."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from crawlfleet.core.errors import UsageError
from crawlfleet.sandbox.answer import Answer

CDN_PAGE = (
    "<!DOCTYPE html><html><head><title>ERROR: The request could not be satisfied</title></head>"
    "<body><h1>403 ERROR</h1><p>Request blocked. Try again later.</p></body></html>"
)
REFUSALS = {  # before any quota
    "cdn-page": Answer(403, CDN_PAGE, "text/html"),
    "bare-403": Answer(403, "", "text/plain"),
    "spurious-404": Answer(404, "<html><body><h1>Page not found</h1></body></html>", "text/html"),
    "spurious-408": Answer(408, "", "text/plain"),
    "spurious-416": Answer(416, "", "text/plain"),
    "spurious-425": Answer(425, "", "text/plain"),
}
STANDING = ("pace", "odd-ids")  # they hold all the time
MOODS = {
    "cdn-page": "403 with the page of a CDN",
    "bare-403": "403 without a word",
    "spurious-404": "404 for an app that is there",
    "spurious-408": "408 in no time",
    "spurious-416": "416 for a range that can be had",
    "spurious-425": "425",
    "expired": "the signed address of a report has expired already",
    "empty": "a report without rows, for days that were answered with rows before",
    "pace": "calls at exactly the declared pace are refused: the minute is a twentieth longer",
    "odd-ids": "app ids with blanks, slashes, letters of other scripts or of digits only",
}
ALL = "all"
DEFAULT_SHARE = 0.1
PACE = 1.05  # of the declared minute


@dataclass(frozen=True, slots=True)
class Mood:
    """It strikes a share of the calls, or the first `count` ones."""

    share: float = DEFAULT_SHARE
    count: int | None = None


def parse_moods(texts: Iterable[str]) -> dict[str, Mood]:
    """Moods by name, from `NAME`, `NAME=SHARE` or `NAME=COUNTx`; `all` names each. Raises UsageError."""
    found: dict[str, Mood] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in MOODS and name != ALL:
            raise UsageError(f"mood must be {ALL} or one of {', '.join(MOODS)} (got {text!r:.80})")
        mood = _strength(value, text)
        if value and name in STANDING:
            raise UsageError(f"mood {name} holds all the time: leave out {'=' + value!r:.80}")
        found |= dict.fromkeys(MOODS if name == ALL else (name,), mood)
    return found


def _strength(value: str, text: str) -> Mood:
    if not value:
        return Mood()
    if re.fullmatch(r"\d{1,9}x", value):
        return Mood(1.0, int(value[:-1]))
    if re.fullmatch(r"[01]|[01]?\.\d{1,9}", value) and float(value) <= 1:
        return Mood(float(value))
    raise UsageError(f"a mood is NAME, NAME=SHARE with a share from 0 to 1, or NAME=COUNTx (got {text!r:.80})")


class Moods:
    """Decides which calls are struck.

    The same seed strikes the same calls, in whatever order they come: each is known by whose it is, what it asks for,
    and how often that was asked.
    """

    def __init__(self, texts: Iterable[str], seed: int) -> None:
        self._moods = parse_moods(texts)
        self._seed = seed
        self._lock = threading.Lock()
        self._asked: Counter[tuple[str, ...]] = Counter()
        self._struck: Counter[str] = Counter()

    def has(self, name: str) -> bool:
        """Whether the vendor has this mood at all."""
        return name in self._moods

    def strikes(self, name: str, call: tuple[str, ...]) -> bool:
        """Whether the mood strikes this call; asking counts it."""
        mood = self._moods.get(name)
        if mood is None:
            return False
        with self._lock:
            self._asked[name, *call] += 1
            roll = _share_of(self._seed, name, *call, self._asked[name, *call])
            hit = roll < mood.share and (mood.count is None or self._struck[name] < mood.count)
            self._struck[name] += hit
        return hit

    def refusal(self, call: tuple[str, ...]) -> tuple[str, Answer] | None:
        """The name and the answer of the first mood that refuses this call."""
        for name, answer in REFUSALS.items():
            if self.strikes(name, call):
                return name, answer
        return None


def _share_of(*parts: object) -> float:
    text = "\x1f".join(map(str, parts))
    return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48)
