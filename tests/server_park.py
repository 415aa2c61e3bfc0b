"""One server of each flavour for the whole run, started when the first test needs it.

The park lives in pytest's main process. Workers of pytest-xdist ask it through a Unix socket whose path they find in
the environment, so all of them share the same servers and prepared data directories.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import subprocess
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from tests import debian_packages
from tests.servers import (
    FLAVOURS,
    Flavour,
    Server,
    SharedServer,
    is_installed,
    prepare_template,
    run_directory,
    start_server,
)
from tests.templates import make_template

PARK_VARIABLE = (
    "TESTS_OF_CRAWLFLEET_SERVERS"  # the park's socket; set for workers; the program takes CRAWLFLEET_... as its own
)


class ServerMissing(Exception):
    """A server is not installed; the text is the line that tells what to do."""


class ServerPark:
    """Starts servers on demand, each once; answers workers. Thread-safe.

    Tests need no power-cut safety, so their commits do not wait for the disk, unless the servers are `durable`.
    """

    def __init__(self, durable: bool = False) -> None:
        self._durable = durable
        self.directory = run_directory(durable)
        self.missing: dict[str, str] = {}  # flavour's name: what to do about it
        self._servers: dict[str, Server] = {}
        self._locks = {name: threading.Lock() for name in FLAVOURS}
        self._door: socketserver.ThreadingUnixStreamServer | None = None

    def open_to_workers(self) -> None:
        """Answer workers that start from now on."""
        path = str(self.directory / "park")
        self._door = socketserver.ThreadingUnixStreamServer(path, _answer_with(self))
        self._door.daemon_threads = True
        threading.Thread(target=self._door.serve_forever, name="server-park", daemon=True).start()
        os.environ[PARK_VARIABLE] = path

    def port_of(self, name: str) -> int:
        """The port of the shared server, started when it is not running yet. Raises ServerMissing."""
        flavour = FLAVOURS[name]
        with self._locks[name]:
            if name in self.missing:
                raise ServerMissing(self.missing[name])
            if name not in self._servers:
                try:
                    ensure_installed(flavour)
                except ServerMissing as error:
                    self.missing[name] = str(error)
                    raise
                prepare_template(flavour, self.directory)
                self._servers[name] = start_server(flavour, self.directory, self._durable)
                make_template(self._servers[name])
            return self._servers[name].port

    def close(self) -> None:
        """End the servers; their directories are the reaper's."""
        if self._door is not None:
            self._door.shutdown()
            self._door.server_close()
        for server in self._servers.values():
            server.kill()


class ParkVisitor:
    """What a test process sees of the park: its own, or that of the main process."""

    def __init__(self, park: ServerPark | None) -> None:
        self._park = park

    def shared(self, flavour: Flavour) -> SharedServer:
        """The server that all tests share. Raises ServerMissing."""
        return SharedServer(flavour, self._ask(flavour)[0])

    def private(self, flavour: Flavour) -> Server:
        """A running server for one test, to be stopped and killed at will. Raises ServerMissing."""
        return start_server(flavour, self._ask(flavour)[1])

    def _ask(self, flavour: Flavour) -> tuple[int, Path]:
        if self._park is not None:
            return self._park.port_of(flavour.name), self._park.directory
        path = os.environ[PARK_VARIABLE]
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path)
            line.sendall(flavour.name.encode() + b"\n")
            answer = json.loads(line.makefile().readline())
        if "missing" in answer:
            raise ServerMissing(answer["missing"])
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["port"], Path(path).parent


def _answer_with(park: ServerPark) -> type[socketserver.StreamRequestHandler]:
    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            name = self.rfile.readline().decode().strip()
            answer: dict[str, object]
            try:
                answer = {"port": park.port_of(name)}
            except ServerMissing as error:
                answer = {"missing": str(error)}
            except Exception as error:  # the worker's test must fail with it, not wait for an answer
                answer = {"error": f"{type(error).__name__}: {error}"}
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    return Answer


_installing = threading.Lock()  # apt-get allows one at a time


def ensure_installed(flavour: Flavour) -> None:
    """Install the flavour's package when it is missing and we may. Raises ServerMissing with what to do."""
    if is_installed(flavour):
        return
    reason = f"{flavour.title} is not installed ({', '.join(flavour.programs)} not found)"
    if debian_packages.may_install():
        with _installing:
            try:
                debian_packages.install([flavour.package])
            except subprocess.CalledProcessError as error:
                reason = f"{reason} and apt-get failed: {error}"
        if is_installed(flavour):
            return
    raise ServerMissing(f"{reason}; install it: apt-get install {flavour.package}")


def skip_or_fail(missing: ServerMissing) -> NoReturn:
    """A missing server skips the test on a laptop and fails it in CI."""
    if in_ci():
        pytest.fail(f"{missing} (CI is set, so this is a failure)", pytrace=False)
    pytest.skip(str(missing))


def in_ci() -> bool:
    """True when CI=true (or 1), as CI services set it."""
    return os.environ.get("CI", "").lower() in ("true", "1")
