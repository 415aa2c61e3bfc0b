from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.engines.stage import Stage


@pytest.fixture
def make_stage() -> Iterator[Callable[..., Stage]]:
    """Makes stages, and stops their engines after the test."""
    stages: list[Stage] = []

    def make(*names: str, slots: int = 2) -> Stage:
        stages.append(Stage(*names, slots=slots))
        return stages[-1]

    yield make
    for stage in stages:
        for engine in stage.engines.values():
            engine.stop()


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[Callable[[str], Stage]]:
    """One stage for each engine, for tests that play single runs."""
    stages: dict[str, Stage] = {}

    def get(engine: str) -> Stage:
        if engine not in stages:
            stages[engine] = Stage(engine)
        return stages[engine]

    yield get
    for stage in stages.values():
        stage.engine.stop()
