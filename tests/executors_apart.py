"""Executors of a test module stay registered in the process of the tests; here is how to be rid of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crawlfleet.executors import registry
from crawlfleet.services import fleet


@pytest.fixture(autouse=True)
def only_executors_of_the_program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What other tests registered in this process is unknown, as it is to a program."""
    own = {name: each for name, each in registry._registered.items() if _is_own(each.function)}
    monkeypatch.setattr(registry, "_registered", own)
    fleet._types_here.cache_clear()
    yield
    fleet._types_here.cache_clear()


def _is_own(function: object) -> bool:
    return str(getattr(function, "__module__", "")).startswith("crawlfleet.")
