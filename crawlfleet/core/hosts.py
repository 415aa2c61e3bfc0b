"""Names of hosts and addresses, as people write them, sockets take them and URLs hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


def bare_host(text: str) -> str:
    """The host without the brackets that an IPv6 address has in a URL."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def is_loopback(host: str | None) -> bool:
    """True for `localhost` and loopback addresses; other names are not looked up."""
    if host == "localhost":
        return True
    import ipaddress  # 5 ms

    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def with_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def family_of(host: str) -> socket.AddressFamily:
    """The family of sockets that listen at this host. Of several, IPv4 comes first: that is what clients mean by
    localhost. Raises OSError for what is no host."""
    import socket  # 2 ms that most commands do without

    found = [entry[0] for entry in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)]
    return socket.AF_INET if socket.AF_INET in found else found[0]
