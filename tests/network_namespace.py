"""A host of its own on this machine, whose only cable can be pulled: a Linux network namespace and a pair of veth.

    with NetworkNamespace() as elsewhere, TcpProxy("127.0.0.1", port, host=elsewhere.gateway) as door:
        subprocess.run([*elsewhere.inside, "program"])      # sees door.host:door.port, and nothing else
        elsewhere.unplug()                                  # packets are lost, nobody is told

Needs Debian's iproute2 and the right to make namespaces.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from types import TracebackType

import pytest

from tests import debian_packages

_numbers = itertools.count(1)


class NetworkNamespace:
    """Made and taken away with its `with` block; the test is skipped with the reason where that is not permitted."""

    def __init__(self) -> None:
        number = (os.getpid() * 16 + next(_numbers)) % 2**14
        self.name = f"crawlfleet-{number}"
        self.cable = f"cf{number}"
        self.gateway = f"198.18.{number // 64}.{number % 64 * 4 + 1}"  # RFC 2544: for tests, never routed
        self._address = f"198.18.{number // 64}.{number % 64 * 4 + 2}"

    @property
    def inside(self) -> tuple[str, ...]:
        """What to put before a command so that it runs there."""
        return ("ip", "netns", "exec", self.name)

    def unplug(self) -> None:
        """Lose every packet in both directions, without an error to anybody."""
        _ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        """Let packets pass again; open connections go on if both ends still want them."""
        _ip("link", "set", self.cable, "up")

    def __enter__(self) -> NetworkNamespace:
        if shutil.which("ip") is None and debian_packages.may_install():
            debian_packages.install(["iproute2"])
        if shutil.which("ip") is None:
            pytest.skip("network namespaces need the program ip; install it: apt-get install iproute2")
        try:
            _ip("netns", "add", self.name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        try:
            _ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            _ip("address", "add", f"{self.gateway}/30", "dev", self.cable)
            _ip("link", "set", self.cable, "up")
            for command in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"{self._address}/30", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
            ):
                _ip("-netns", self.name, *command)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ip("netns", "del", self.name)  # its end of the cable goes with it, and the other one, too


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
