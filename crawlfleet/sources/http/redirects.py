"""Redirects: which of a vendor's are followed, and what of their addresses is a secret.

Vendors answer an export with the address of a file, which whoever knows it may read. So the address is as secret as
the token, and the token does not travel to another origin.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from urllib.parse import SplitResult, parse_qsl, unquote, urljoin, urlsplit

from crawlfleet.core.errors import TransientError, UsageError
from crawlfleet.core.hosts import is_loopback
from crawlfleet.sources.http.addresses import origin_of, split_address

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 3  # of one call
MAX_ADDRESS_CHARS = 4000
SECRET_CHARS = 8  # a part of a signed address that is shorter proves nothing, and may be a word of any message
HOST_PATTERN = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+")


class Redirects:
    """Where answers of one base address may lead: its own origin, https at one of `hosts`, and from loopback to
    loopback; nowhere when no hosts are given. A host `*.example.com` means each host below example.com.

    Raises UsageError for a host that is none.
    """

    def __init__(self, base: SplitResult, hosts: Sequence[str] = ()) -> None:
        for host in hosts:
            if not isinstance(host, str) or not HOST_PATTERN.fullmatch(host):
                raise UsageError(f"redirect_hosts must be hosts like files.example.com or *.example.com (got {host!r})")
        self._origin = origin_of(base)
        self._base_is_local = is_loopback(base.hostname)
        self._hosts = tuple(hosts)

    def follow(self, url: str, status: int, location: str | None) -> str:
        """The address that an answer to a request of `url` leads to; raises TransientError where we do not follow."""
        if not location:
            raise TransientError(f"redirects ({status}) to nowhere")
        if len(location) > MAX_ADDRESS_CHARS:
            raise TransientError(f"redirects ({status}) to an address of {len(location)} characters: not followed")
        try:
            target = urljoin(url, location)
            parts = split_address(target, "the address")
        except (UsageError, ValueError):
            raise TransientError(f"redirects ({status}) to what is no address: not followed") from None
        if (error := self._refusal(parts, status)) is not None:
            raise error
        # Put together anew: no reading of the address can lead elsewhere.
        return origin_of(parts) + (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def keeps_token(self, url: str) -> bool:
        """Whether the token may travel there."""
        return origin_of(urlsplit(url)) == self._origin

    def _refusal(self, parts: SplitResult, status: int) -> TransientError | None:
        origin, host = origin_of(parts), parts.hostname or ""
        if not self._hosts:
            return TransientError(
                f"redirects ({status}) to {origin}: redirects of this vendor are not followed; if it is the right"
                " address, set it as base_url"
            )
        if origin == self._origin or (self._base_is_local and is_loopback(host)):
            return None
        if parts.scheme == "https" and any(_matches(host, pattern) for pattern in self._hosts):
            return None
        return TransientError(  # a company's proxy may have sent us to its own page, for a while
            f"redirects ({status}) to {origin}, which is no https address of the vendor: not followed; if it is the"
            f" vendor's, add {host[:200]} to redirect_hosts of the source's settings"
        )


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def secret_parts(url: str, known: Collection[str]) -> list[str]:
    """What of a signed address must not show, the longest first; `known` are texts that are no secrets."""
    parts = urlsplit(url)
    found = [url, f"{parts.path}?{parts.query}", parts.path, parts.query]
    found += [value for _, value in parse_qsl(parts.query)]
    found += [unquote(part) for part in parts.path.split("/")]
    wanted = {part for part in found if len(part) >= SECRET_CHARS and part not in known}
    return sorted(wanted, key=len, reverse=True)
