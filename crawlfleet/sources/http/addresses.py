"""Addresses of vendors and proxies: taken apart and judged before anything is sent there."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from crawlfleet.core.errors import UsageError


def split_address(
    address: str, name: str, schemes: tuple[str, ...] = ("https", "http"), credentials: bool = False
) -> SplitResult:
    """The parts of an absolute address; raises UsageError, which does not show what may be a password."""
    try:
        parts = urlsplit(address)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        raise UsageError(f"{name} is no address: {address.rpartition('@')[2]!r:.200}") from None
    shown = address.rpartition("@")[2]
    if parts.scheme not in schemes or not parts.hostname or not port_is_valid:
        allowed = ", ".join(f"{scheme}://host" for scheme in schemes)
        raise UsageError(f"{name} must be an address like {allowed} (got {shown!r:.200})")
    if "@" in parts.netloc and not credentials:
        raise UsageError(f"{name} must not hold a user name or password (got ...@{shown!r:.200})")
    return parts


def origin_of(parts: SplitResult) -> str:
    """Scheme, host and port, the port always written: two addresses share an origin when these texts are equal."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
