from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawlfleet.core import logs
from crawlfleet.settings.definitions import ENVIRONMENT_PREFIX
from tests.cli.console import Console
from tests.conftest import Backend
from tests.templates import sqlite_url_with_tables


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """`main` configures logging for the whole process and hides secrets; neither may reach the next test."""
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, threading.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    threading.excepthook = hook
    for name in ("crawlfleet", "__main__"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logs._secrets.clear()


@pytest.fixture
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the environment says reaches the test; lines are as long as they would like to be."""
    monkeypatch.setenv("COLUMNS", "300")
    for name in list(os.environ):
        if name.startswith(ENVIRONMENT_PREFIX) or name == "DEVICE_ID":
            monkeypatch.delenv(name)


@pytest.fixture
def console(own_settings: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    """The program on an SQLite database that is not there yet."""
    return Console(f"sqlite:///{tmp_path}/crawlfleet.db", capsys)


@pytest.fixture
def ready(console: Console) -> Console:
    """The program on an SQLite database with tables."""
    sqlite_url_with_tables(Path(console.url.removeprefix("sqlite:///")))
    return console


@pytest.fixture
def any_console(own_settings: None, backend: Backend, capsys: pytest.CaptureFixture[str]) -> Console:
    """The program on each kind of database in turn, with tables."""
    return Console(backend.url, capsys)
