"""Proxies: their addresses, and the passwords that stay in environment variables until a request is made.

http://proxy.example:3128    https://...    socks5://user:${PROXY_PASSWORD}@proxy.example:1080
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from crawlfleet.core.errors import ProxyError, UsageError
from crawlfleet.core.reach import PROXY_VARIABLES, read_variable
from crawlfleet.sources.http.addresses import split_address

SCHEMES = ("http", "https", "socks5", "socks5h")  # a host name is looked up by the proxy in any case
ANY_VARIABLE = ("*",)  # but crawlfleet's own; for addresses of the node's own settings
DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class OpenProxy:
    """A proxy for one request: its address, which is also its name for people, and beside it the credentials."""

    address: str
    auth: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not show anywhere, in the spellings that a proxy or a library may echo."""
        if self.auth is None:
            return ()
        user, password = self.auth
        basic = b64encode(f"{user}:{password}".encode()).decode()
        return tuple(dict.fromkeys(filter(None, (password, quote(password, safe=""), basic))))


class Proxy:
    """A proxy as it is stored or configured; user and password may each be a `${VARIABLE}`, read at each use."""

    def __init__(self, address: str, variables: Sequence[str] = PROXY_VARIABLES) -> None:
        """`variables` are patterns of those that it may name.

        Raises UsageError for an address that no proxy can have; it does not show what may be a password."""
        parts = split_address(address, "proxy", SCHEMES, credentials=True)
        if "$" in parts.netloc.rpartition("@")[2]:
            raise UsageError("of a proxy's address only user and password may be ${VARIABLES}")
        self._parts = parts
        self._variables = variables
        self.host = parts.hostname
        self.port = parts.port or DEFAULT_PORTS[parts.scheme]
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def __repr__(self) -> str:
        return f"Proxy({self.name})"

    @property
    def holds_password(self) -> bool:
        """Whether a password stands in the address itself, rather than the name of its variable."""
        return bool(self._parts.password) and not REFERENCE.fullmatch(self._parts.password or "")

    def open(self) -> OpenProxy:
        """The proxy with its credentials; raises ProxyError that names a variable which is not set on this node."""
        user, password = (self._value(part or "") for part in (self._parts.username, self._parts.password))
        return OpenProxy(self.name, (user, password) if user or password else None)

    def with_password(self) -> str:
        """The address with its credentials in clear, for a host that lacks their variables; raises ProxyError."""
        auth = self.open().auth
        if auth is None:
            return self.name
        scheme, _, place = self.name.partition("://")
        return f"{scheme}://{quote(auth[0], safe='')}:{quote(auth[1], safe='')}@{place}"

    def _value(self, part: str) -> str:
        """What a part of the credentials means: the value of a variable, cleaned, other text percent-decoded."""
        reference = REFERENCE.fullmatch(part)
        if reference is None:
            return unquote(part)
        try:
            return read_variable(reference[1], self._variables, "proxy_variables")
        except UsageError as error:
            raise ProxyError(f"proxy {self.name}: {error}") from None
