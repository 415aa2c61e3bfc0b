"""Every test here runs on every database, and those that claim also under every strategy that is right there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crawlfleet.core.db import Database
from crawlfleet.model.claim_strategy import Strategy, probe_strategy
from tests.conftest import Backend
from tests.fleets import Device, fresh


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    database = fresh(backend.url)
    yield database
    database.close()


@pytest.fixture(params=list(Strategy), ids=["skip-locked", "compare-and-set"])
def strategy(request: pytest.FixtureRequest, db: Database) -> Strategy:
    if request.param is Strategy.SKIP_LOCKED and probe_strategy(db) is not Strategy.SKIP_LOCKED:
        pytest.skip(f"{db.product} does not honour SKIP LOCKED")
    return Strategy(request.param)


@pytest.fixture
def device(db: Database, strategy: Strategy) -> Device:
    made = Device(db, strategy=strategy)
    made.register()
    return made
