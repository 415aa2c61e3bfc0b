"""Real nodes as child processes, with their log at hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from crawlfleet.core.process import SHARED_MEMORY
from tests import debian_packages
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
CLOCK_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")  # gives a node another wall clock

_ended: set[str] = set()  # pids


def remove_witnesses() -> None:
    """Remove what nodes left behind that were killed; only after all tests, since a node is started again by it."""
    for path in SHARED_MEMORY.glob("crawlfleet-*"):
        if path.is_file() and path.read_text(errors="replace").partition(" ")[0] in _ended:
            path.unlink(missing_ok=True)


def clocks_can_be_shifted() -> bool:
    """Whether nodes can be given another wall clock; root gets the library for it where it is missing."""
    if not CLOCK_LIBRARY.exists() and debian_packages.may_install():
        debian_packages.install(["faketime"])
    return CLOCK_LIBRARY.exists()


class NodeProcess:
    """`main.py distribute MODE` in a process of its own; ended, at the latest, with its `with` block.

    With `api` it serves its API on a free port. `inside` is a command that runs it, as in a network namespace.
    """

    def __init__(
        self,
        folder: Path,
        database: str,
        *options: str,
        device_id: str = "node-1",
        api: bool = False,
        mode: str = "standalone",
        inside: Sequence[str] = (),
        **environ: str,
    ) -> None:
        self.mode = mode
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / f"{device_id}-{len(list(folder.glob('*.out')))}.out"
        serving = ("--port", "0") if api else ("--no-api",)
        arguments = ["--device-id", device_id, "--database", database, *serving, *options]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*inside, sys.executable, str(ROOT / "main.py"), "distribute", mode, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
                start_new_session=True,
            )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        _ended.add(str(self.process.pid))

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def count(self, pattern: str) -> int:
        """How many lines of the log match."""
        return len(re.findall(pattern, self.log))

    def wait_for(self, pattern: str, times: int = 1, timeout: float = 30) -> None:
        """Until so many lines of the log match."""
        try:
            wait_until(lambda: self.count(pattern) >= times or self.process.poll() is not None, timeout, pattern)
        finally:
            assert self.count(pattern) >= times, f"{pattern!r} is not {times} times in the log:\n{self.log[-6000:]}"

    def wait_started(self) -> None:
        self.wait_for(f"{self.mode.capitalize()} node started")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def wait(self, timeout: float = 60) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the node did not end within {timeout} s:\n{self.log[-6000:]}") from None
