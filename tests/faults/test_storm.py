"""A short storm; `python -m tests.faults.storm` raises long ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.storm import Storm
from tests.servers import Server

SECONDS = 6


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["mariadb", "postgresql"])
def test_nothing_is_lost_or_done_twice_in_a_storm(flavour: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    start: Callable[[], Server] = request.getfixturevalue(f"{flavour}_server")
    books = Storm(start(), tmp_path, SECONDS, seed=7).run()
    assert books.tasks > 100
    assert books.wrong == [], str(books)
