"""Hosts as people write them, IPv6 among them."""

from __future__ import annotations

import socket

import pytest

from crawlfleet.api.listener import open_listener, url_of
from crawlfleet.core.hosts import bare_host, family_of, with_port
from crawlfleet.core.system_metrics import local_ip
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.settings.layers import load_settings


@pytest.mark.parametrize(
    ("written", "host", "shown"),
    [("::1", "::1", "[::1]:80"), ("[::1]", "::1", "[::1]:80"), ("vm1", "vm1", "vm1:80"), ("[", "[", "[:80")],
)
def test_an_address_has_brackets_only_before_a_port(written: str, host: str, shown: str) -> None:
    assert bare_host(written) == host
    assert with_port(host, 80) == shown


def test_the_family_is_that_of_the_address() -> None:
    assert (family_of("::1"), family_of("127.0.0.1")) == (socket.AF_INET6, socket.AF_INET)
    assert family_of("localhost") == socket.AF_INET


@pytest.mark.parametrize("written", ["::1", "[::1]"])
def test_an_ipv6_address_is_taken_wherever_a_host_is(written: str) -> None:
    """The sandbox said that the address family was not supported, and the API did not know [::1]."""
    with Sandbox(written) as sandbox:
        assert sandbox.base_url.startswith("http://[::1]:")
    settings = load_settings(None, {"host": written, "port": "0"}, {})
    listener = open_listener(settings)
    assert listener is not None
    assert url_of(listener).startswith("http://[::1]:")
    listener.close()
    assert local_ip("::1") == "::1"
