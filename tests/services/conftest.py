from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core import clock as clocks
from tests.conftest import Backend
from tests.services.pump import Pump
from tests.tcp_proxy import TcpProxy

MakePump = Callable[..., Pump]


class Log:
    """What the services said from INFO on."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="crawlfleet")
        self._caplog = caplog

    @property
    def lines(self) -> list[str]:
        """`LEVEL text` of each line."""
        records = [record for record in self._caplog.records if record.name.startswith("crawlfleet.")]
        return [f"{record.levelname} {record.getMessage()}" for record in records]

    def count(self, part: str) -> int:
        """How many lines hold this."""
        return sum(part in line for line in self.lines)

    def clear(self) -> None:
        self._caplog.clear()


class Clock(clocks.Clock):
    """The clock of the pumps' databases. It runs like the real one, or not at all once it is frozen.

    `advance` moves what this machine reads, `let_pass` also what the database says.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._database_ahead = 0.0
        self._frozen_at: float | None = None

    def monotonic(self) -> float:
        return self._ahead + (time.monotonic() if self._frozen_at is None else self._frozen_at)

    def freeze(self) -> None:
        self._frozen_at = time.monotonic()

    def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def let_pass(self, seconds: float) -> None:
        self._ahead += seconds
        self._database_ahead += seconds

    def step_database(self, seconds: float) -> None:
        """The database's clock is set, this machine's is not."""
        self._database_ahead += seconds

    @property
    def database_ahead_seconds(self) -> float:
        return self._database_ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


@pytest.fixture
def make_pump(clock: Clock) -> Iterator[MakePump]:
    """Makes devices that are driven by hand, all with the test's clock; they are given up after the test."""
    pumps: list[Pump] = []

    def make(url: str, **options: Any) -> Pump:
        pumps.append(Pump(url, clock, **options))
        return pumps[-1]

    yield make
    for pump in pumps:
        pump.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A file, for what does not depend on the database."""
    return f"sqlite:///{tmp_path}/crawlfleet.db"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that does not exist yet: held bodies wait for it. It comes into being with `touch`."""
    return tmp_path / "gate"


@pytest.fixture
def proxy(backend: Backend) -> Iterator[TcpProxy]:
    """The network in front of the backend's server."""
    assert backend.server is not None
    with TcpProxy("127.0.0.1", backend.server.port) as made:
        yield made
