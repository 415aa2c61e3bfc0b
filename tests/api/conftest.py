from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from crawlfleet.api import strangers
from crawlfleet.api.distribution_api import init_distribution_services, start_distribution_services
from crawlfleet.api.server import ApiServer
from crawlfleet.services.fleet import Fleet
from crawlfleet.services.node import Node
from crawlfleet.settings.definitions import Settings
from crawlfleet.settings.layers import load_settings

SettingsOf = Callable[..., Settings]


@dataclass
class Served:
    """A node at work, and a client of its API."""

    node: Node
    server: ApiServer
    client: httpx2.Client

    @property
    def fleet(self) -> Fleet:
        return Fleet(self.node.db)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.server.url.rpartition(":")[2])


Serve = Callable[..., Served]


@pytest.fixture(autouse=True)
def patient_with_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that try many wrong tokens are all answered from one address; test_strangers tries the limit."""
    monkeypatch.setattr(strangers, "FREE_GUESSES", 1_000_000)


@pytest.fixture
def settings_of(tmp_path: Path) -> SettingsOf:
    """Settings as options on the command line would give them, on a fresh SQLite database."""

    def make(**given: Any) -> Settings:
        base = {"device_id": "api-01", "database_url": f"sqlite:///{tmp_path}/crawlfleet.db", "shutdown_grace": 1}
        return load_settings(None, base | {"executors": ["tests.api.bodies"]} | given, environ={})

    return make


@pytest.fixture
def serve(settings_of: SettingsOf) -> Iterator[Serve]:
    """Starts nodes in this process that serve on a free port; they end after the test."""
    running: list[Served] = []

    def start(**given: Any) -> Served:
        node = init_distribution_services(settings=settings_of(**{"port": 0} | given))
        server = start_distribution_services(node)
        assert server is not None
        client = httpx2.Client(base_url=server.url, timeout=20, trust_env=False)
        running.append(Served(node, server, client))
        return running[-1]

    yield start
    for served in running:
        served.client.close()
        served.node.end()
        served.node.wait()
        served.server.stop()
        assert not served.server.serving
