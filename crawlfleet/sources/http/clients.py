"""The HTTP clients of one source: for each proxy that its accounts go through, and for none, one for https and one for
plain http where both are used."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crawlfleet.core.errors import UsageError
from crawlfleet.sources.http.proxies import OpenProxy

if TYPE_CHECKING:
    import httpx2

MAX_CLIENTS = 16  # a client holds up to 20 idle connections; with more proxies than this the least recent reconnects
CONNECT_SECONDS = 10.0

_Key = tuple[OpenProxy | None, bool]  # the proxy, and whether requests are https


class Clients:
    """At most `MAX_CLIENTS` open clients. Of the idle ones, the least recently used is closed first.

    A client in use is never closed to make room, so there may be more while as many requests are under way.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._open: dict[_Key, httpx2.Client] = {}  # the least recently used first
        self._users: dict[_Key, int] = {}
        self._trust: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    @contextmanager
    def use(self, proxy: OpenProxy | None, is_https: bool) -> Iterator[httpx2.Client]:
        """The client for this proxy, for as long as a request takes; made where there is none yet."""
        wanted = (proxy, is_https)
        with self._lock:
            client = self._open.pop(wanted, None) or self._make(proxy, is_https)
            self._open[wanted] = client
            self._users[wanted] = self._users.get(wanted, 0) + 1
        try:
            yield client
        finally:
            with self._lock:
                self._users[wanted] -= 1
                if not self._users[wanted]:
                    del self._users[wanted]
                idle = [key for key in self._open if key not in self._users]
                surplus = [self._open.pop(key) for key in idle[: max(0, len(self._open) - MAX_CLIENTS)]]
            for each in surplus:
                each.close()

    def close(self) -> None:
        """Close all clients; the next use makes new ones."""
        with self._lock:
            clients, self._open = list(self._open.values()), {}
        for client in clients:
            client.close()

    def _make(self, proxy: OpenProxy | None, is_https: bool) -> httpx2.Client:
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx2  # 60 ms and 10 MB that a node without fetches never pays

        for library in ("httpx2", "httpcore2"):  # below WARNING they log addresses and headers that a server may echo
            logging.getLogger(library).setLevel(logging.WARNING)
        # Plain http needs no certificates, and loading them takes 70 ms; this context would trust nobody.
        verify = self._trusted() if is_https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        try:
            return httpx2.Client(
                # A transport of our own: HTTPS_PROXY and its like do not count.
                transport=httpx2.HTTPTransport(verify=verify, limits=limits, proxy=self._proxy(proxy)),
                timeout=httpx2.Timeout(self._timeout_seconds, connect=min(CONNECT_SECONDS, self._timeout_seconds)),
                follow_redirects=False,
                headers={"Accept-Encoding": "gzip, deflate", "User-Agent": "crawlfleet"},
                # One client serves many accounts: a cookie must not travel from one to another.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        except ImportError:
            address = proxy.address if proxy else "none"
            raise UsageError(f"proxy {address} needs the package socksio: pip install 'crawlfleet[socks]'") from None

    def _proxy(self, proxy: OpenProxy | None) -> httpx2.Proxy | None:
        import httpx2

        if proxy is None:
            return None
        trusted = self._trusted() if proxy.address.startswith("https://") else None
        return httpx2.Proxy(proxy.address, auth=proxy.auth, ssl_context=trusted)

    def _trusted(self) -> ssl.SSLContext:
        import httpx2

        if self._trust is None:
            self._trust = httpx2.create_ssl_context()
        return self._trust
