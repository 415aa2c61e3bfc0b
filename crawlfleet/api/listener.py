"""The socket of the API: whether there is to be one, and where. Imports nothing that costs memory or time."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from crawlfleet.core.errors import UsageError
from crawlfleet.core.hosts import is_loopback, with_port
from crawlfleet.core.private_files import read_secret
from crawlfleet.settings.definitions import FIELDS, Settings

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

PARTS = ("fastapi", "prometheus_client", "uvicorn")  # import names of the extra `api`
BACKLOG = 1024  # who finds no place in this queue comes again after a second, which is too late for a probe
MAX_PEM_BYTES = 1024 * 1024


def open_listener(settings: Settings, has_tokens: Callable[[], bool] = lambda: False) -> socket.socket | None:
    """The listening socket for this node's API; None, with a line that says why, when the node goes on without.

    It listens at once, before anybody serves it: two sockets that are only bound may share a port on Linux.
    `has_tokens` tells whether `tokens add` made any; it is only asked where a token is needed and not set.
    Raises UsageError for an address off loopback without a token, for a certificate that cannot be used, and for a
    host or port that was asked for and cannot be had.
    """
    if not settings.api:
        return None
    family, address = _resolve(settings)
    if not is_loopback(address[0]) and settings.api_token is None and not has_tokens():
        raise UsageError(
            f"host {settings.host} can be reached from other machines and api_token is not set: set it with the"
            " environment variable CRAWLFLEET_API_TOKEN or in the config file, make a token with `tokens add`, or"
            " listen on 127.0.0.1, or use --no-api"
        )
    if settings.tls_certificate is not None or settings.tls_key is not None:
        tls_context(settings)
    missing = [part for part in PARTS if find_spec(part) is None]
    if missing:
        text = f"{missing[0]} is not installed: pip install 'crawlfleet[api]'"
        if _is_given(settings, "host") or _is_given(settings, "port"):
            raise UsageError(f"the API cannot be served on {with_port(settings.host, settings.port)}: {text}")
        log.info("HTTP API is off: %s", text)
        return None
    try:
        return _listen(family, address)
    except OSError as error:
        reason = "the port is taken" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        text = f"cannot listen on {with_port(settings.host, settings.port)}: {reason}"
        advice = "choose another with --port N, any free one with --port 0, none with --no-api"
        if _is_given(settings, "port") or error.errno != errno.EADDRINUSE:
            raise UsageError(f"{text}: {advice}") from None
        log.warning("HTTP API is off: %s: %s", text, advice)
        return None


def tls_context(settings: Settings) -> ssl.SSLContext:
    """What makes the API speak TLS; raises UsageError that names the setting and the file that cannot be used."""
    import ssl  # costs 10 ms

    files = {name: getattr(settings, name) for name in ("tls_certificate", "tls_key")}
    for name, path in files.items():
        if path is None:
            raise UsageError(f"tls_certificate and tls_key belong together ({name} is missing): set both or neither")
        text = read_secret(name, path, MAX_PEM_BYTES) if name == "tls_key" else _read_certificate(path)
        if b"-----BEGIN " not in text:
            raise UsageError(f"{name} must be a file in PEM format, with a line -----BEGIN ...----- (got {path})")
    if b"ENCRYPTED" in text:
        raise UsageError(f"tls_key must not be encrypted, since nobody is there to give its password (got {path})")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files["tls_certificate"], files["tls_key"])
    except ssl.SSLError as error:
        reason = (error.reason or "unknown").lower().replace("_", " ")
        raise UsageError(
            f"tls_certificate {files['tls_certificate']} and tls_key {files['tls_key']} cannot be used together:"
            f" {reason}: the first must hold the certificate and those that signed it, the second its private key"
        ) from None
    return context


def _read_certificate(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_PEM_BYTES)
    except OSError as error:
        raise UsageError(f"tls_certificate {path} cannot be read: {os.strerror(error.errno or 0)}") from None


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where clients find it."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{with_port(host, port)}"


def _is_given(settings: Settings, name: str) -> bool:
    """Whether somebody chose this setting, and be it code that made the settings without a layer."""
    return settings.origins.get(name, "default") != "default" or getattr(settings, name) != FIELDS[name].default


def _resolve(settings: Settings) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The address to listen on. Of several, IPv4 comes first: that is what clients mean by localhost."""
    try:
        addresses = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(
            f"host {settings.host} is no address of this machine: use 127.0.0.1, or an address of one of its interfaces"
        ) from None
    addresses.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, address = addresses[0]
    return family, (str(address[0]), int(address[1]))


def _listen(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    # asyncio only turns Nagle's delay off, which would hold each answer back for 40 ms, where the protocol is named
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
