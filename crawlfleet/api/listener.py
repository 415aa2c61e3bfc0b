"""The socket of the API: whether there is to be one, and where. Imports nothing that costs memory or time."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from importlib.util import find_spec

from crawlfleet.core.errors import UsageError
from crawlfleet.settings import FIELDS, Settings

log = logging.getLogger(__name__)

PARTS = ("fastapi", "prometheus_client", "uvicorn")  # import names of the extra `api`
BACKLOG = 128


def open_listener(settings: Settings) -> socket.socket | None:
    """The listening socket for this node's API; None, with a line that says why, when the node goes on without.

    It listens at once, before anybody serves it: two sockets that are only bound may share a port on Linux.
    Raises UsageError for an address off loopback without a token, and for a host or port that was asked for and
    cannot be had.
    """
    if not settings.api:
        return None
    family, address = _resolve(settings)
    if not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback and settings.api_token is None:
        raise UsageError(
            f"host {settings.host} can be reached from other machines and api_token is not set: set it with the"
            " environment variable CRAWLFLEET_API_TOKEN or in the config file, or listen on 127.0.0.1, or use --no-api"
        )
    missing = [part for part in PARTS if find_spec(part) is None]
    if missing:
        text = f"{missing[0]} is not installed: pip install 'crawlfleet[api]'"
        if _is_given(settings, "host") or _is_given(settings, "port"):
            raise UsageError(f"the API cannot be served on {settings.host}:{settings.port}: {text}")
        log.info("HTTP API is off: %s", text)
        return None
    try:
        return _listen(family, address)
    except OSError as error:
        reason = "the port is taken" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        text = f"cannot listen on {settings.host}:{settings.port}: {reason}"
        advice = "choose another with --port N, any free one with --port 0, none with --no-api"
        if _is_given(settings, "port") or error.errno != errno.EADDRINUSE:
            raise UsageError(f"{text}: {advice}") from None
        log.warning("HTTP API is off: %s: %s", text, advice)
        return None


def url_of(listener: socket.socket) -> str:
    """Where clients find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_given(settings: Settings, name: str) -> bool:
    """Whether somebody chose this setting, and be it code that made the settings without a layer."""
    return settings.origins.get(name, "default") != "default" or getattr(settings, name) != FIELDS[name].default


def _resolve(settings: Settings) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The address to listen on. Of several, IPv4 comes first: that is what clients mean by localhost."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(
            f"host {settings.host} is no address of this machine: use 127.0.0.1, or an address of one of its interfaces"
        ) from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def _listen(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two processes share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
