"""A node that is told to end, or fails, while it starts: it leaves nothing online behind."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from crawlfleet.api import distribution_api
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.executors.registry import executors
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import DeviceHeartbeatDAO
from crawlfleet.services.node import Node
from crawlfleet.settings.layers import load_settings
from tests.fleets import fresh
from tests.nodes import NodeProcess


@pytest.fixture
def node(url: str) -> Node:
    fresh(url).close()
    settings = load_settings(None, {"device_id": "d1", "database_url": url, "api": False}, environ={})
    return Node(Database(url).open(), settings, executors())


def status(url: str) -> list[str]:
    db = Database(url).open()
    found = [str(each["status"]) for each in DeviceDAO(db).find()]
    db.close()
    return found


def after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, then: Callable[[], None]) -> None:
    """Let something happen right after a method has run."""
    method = getattr(owner, name)

    def run(*arguments: object, **named: object) -> object:
        found = method(*arguments, **named)
        then()
        return found

    monkeypatch.setattr(owner, name, run)


def refuse() -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("part", ["lease.register", "manager.start", "scheduler.start", "watcher.start"])
def test_a_node_that_is_told_to_end_while_it_starts_is_offline(
    node: Node, url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    owner, name = part.split(".")
    after(monkeypatch, getattr(node, owner), name, node.end)
    node.start()
    assert node.wait() == 0
    assert status(url) == ["offline"]


@pytest.mark.parametrize("part", ["lease.register", "manager.start", "scheduler.start", "watcher.start"])
def test_a_node_that_fails_after_its_registration_is_offline(
    node: Node, url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The process ended, and its device stayed online until it had been silent for long."""
    owner, name = part.split(".")
    after(monkeypatch, getattr(node, owner), name, refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        node.start()
    assert status(url) == ["offline"]


def test_a_node_whose_api_cannot_start_is_offline(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(url).close()
    settings = load_settings(None, {"device_id": "d1", "database_url": url, "port": 0}, environ={})
    node = distribution_api.init_distribution_services(settings=settings)
    monkeypatch.setattr(distribution_api.ApiServer, "start", lambda _self: refuse())
    with pytest.raises(RuntimeError):
        distribution_api.start_distribution_services(node)
    assert status(url) == ["offline"]


def test_a_node_that_is_told_to_end_before_it_could_register_does_not(
    node: Node, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        node.end()
        raise DatabaseUnreachable("away")

    monkeypatch.setattr(DeviceDAO, "register_device", away)
    node.start()
    assert node.wait() == 0
    assert status(url) == []


def test_a_node_whose_first_beat_fails_is_offline(node: Node, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registration was committed, and then its first beat did not reach the database."""
    after(monkeypatch, DeviceHeartbeatDAO, "beat", refuse)
    with pytest.raises(RuntimeError):
        node.start()
    assert status(url) == ["offline"]


def test_a_terminal_that_is_closed_while_a_node_starts_stops_it_in_good_order(url: str, tmp_path: Path) -> None:
    with NodeProcess(tmp_path, url, device_id="d1") as process:
        process.wait_for("Device registered")
        process.signal(signal.SIGHUP)
        assert process.wait() == 0, process.log
    assert status(url) == ["offline"]
