"""The doctor is asked through the command line, and finds files as the program makes them."""

import os
from collections.abc import Iterator

import pytest

from tests.cli.conftest import any_console, console, own_settings, ready, restored_logging
from tests.executors_apart import only_executors_of_the_program

__all__ = ["any_console", "console", "only_executors_of_the_program", "own_settings", "ready", "restored_logging"]


@pytest.fixture(autouse=True)
def private_files() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)
