"""Requests that were refused: counted, told in the log now and then, and slowed for an address that guesses tokens."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

REASONS = ("no_token", "wrong_token", "expired", "slowed", "too_weak", "out_of_scope", "foreign")
WRONG_TOKEN = "wrong_token"
FREE_GUESSES = 10  # of an address; a person who mistypes, or a program with an old token, gets so far
FIRST_PAUSE_SECONDS = 1.0  # doubled with each further wrong token
LONGEST_PAUSE_SECONDS = 60.0
FORGOTTEN_SECONDS = 600.0  # after the last wrong token
LINE_SECONDS = 60.0  # between two lines of the log
MAX_ADDRESSES = 1000
MAX_KNOWN = 1000


@dataclass
class Guesses:
    """What one address tried: how often, when it may again, and when it last did."""

    count: int = 0
    until: float = 0.0
    at: float = 0.0


@dataclass
class Strangers:
    """The refusals of one node's API. Who guesses may not even try for a while; a token that was right lately may."""

    counts: Counter[str] = field(default_factory=Counter)
    _guesses: OrderedDict[str, Guesses] = field(default_factory=OrderedDict)
    _known: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)  # (address, hash of its token)
    _untold: Counter[str] = field(default_factory=Counter)  # by address, since the last line
    _told_at: float | None = None

    def pause(self, address: str, token_hash: str) -> float:
        """Seconds until the address may offer this token; 0 for now."""
        guesses = self._guesses.get(place_of(address))
        if guesses is None or (place_of(address), token_hash) in self._known:
            return 0.0
        now = time.monotonic()
        if now > guesses.at + FORGOTTEN_SECONDS:
            del self._guesses[place_of(address)]
            return 0.0
        return max(0.0, guesses.until - now)

    def welcome(self, address: str, token_hash: str) -> None:
        """The token was right: whatever else comes from this address, it may go on."""
        key = (place_of(address), token_hash)
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def refuse(self, address: str, reason: str) -> None:
        """Count a refusal, and tell of it unless something was told within the minute."""
        self.counts[reason] += 1
        now, place = time.monotonic(), place_of(address)
        if reason == WRONG_TOKEN:
            guesses = self._guesses.setdefault(place, Guesses())
            self._guesses.move_to_end(place)
            guesses.count, guesses.at = guesses.count + 1, now
            over = guesses.count - FREE_GUESSES
            if over >= 0:
                guesses.until = now + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(over, 10))
            if len(self._guesses) > MAX_ADDRESSES:
                self._guesses.popitem(last=False)
        if place in self._untold or len(self._untold) < MAX_ADDRESSES:
            self._untold[place] += 1
        if self._told_at is None or now >= self._told_at + LINE_SECONDS:
            [(first, count)] = self._untold.most_common(1)
            more = f" other_addresses={len(self._untold) - 1}" if len(self._untold) > 1 else ""
            log.warning("API requests refused: address=%s requests=%d latest_reason=%s%s", first, count, reason, more)
            self._untold.clear()
            self._told_at = now


def place_of(address: str) -> str:
    """What belongs to one who asks: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
