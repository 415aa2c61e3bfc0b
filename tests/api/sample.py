"""A small fleet with something of everything, and the API's application without a node behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI

from crawlfleet.api.app import make_app
from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.model import schema
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services.fleet import Fleet
from crawlfleet.settings.layers import load_settings
from tests import fleets
from tests.stored_figures import add_account, add_days

SECRET = "token-that-no-answer-shows"
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date()


@dataclass(frozen=True)
class Sample:
    """The application, its database, and ids of tasks by their state."""

    app: FastAPI
    db: Database
    tasks: dict[str, int]

    @property
    def fleet(self) -> Fleet:
        return Fleet(self.db)

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        with self.db.read() as connection:
            return {
                name: sorted(map(tuple, connection.execute(sa.select(*_lasting(table))).all()), key=str)
                for name, table in schema.metadata.tables.items()
            }


def _lasting(table: sa.Table) -> list[sa.Column[Any]]:
    """The columns that reading with a token leaves alone."""
    return [column for column in table.c if column.name != "last_used_at"]


@contextmanager
def sample_fleet(url: str, **settings: Any) -> Iterator[Sample]:
    """A database at this URL with a device, tasks in every state, an account, apps, figures and budgets."""
    db = fleets.fresh(url)
    app_db = Database(url)
    try:
        given = {"device_id": "d1", "database_url": url, "executors": ["tests.api.bodies"], **settings}
        listener = SimpleNamespace(getsockname=lambda: (given.get("host", "127.0.0.1"), 8080))
        node: Any = SimpleNamespace(settings=load_settings(None, given, environ={}), ending=False, listener=listener)
        yield Sample(make_app(node, app_db), db, _fill(db))
    finally:
        app_db.close()
        db.close()


def _fill(db: Database) -> dict[str, int]:
    fleet = Fleet(db)
    add_account(db, "app")
    fleet.accounts.add(Account("appsflyer", "sealed", "agency", token_sealed=SECRET))
    add_days(db, "app", YESTERDAY - timedelta(days=2), [3, 3, 3], datetime.now(UTC), cost="1234.000001")
    device = fleets.Device(db, types=("noop",))
    epoch = device.register()
    DeviceHeartbeatDAO(db).beat("d1", epoch, Beat(12.5, 40.0, 70.0, "good", 1, 0.5, 0, 0.01, {"process_threads": 9}))
    states = ("completed", "failed", "running", "assigned")
    ids = fleets.add(db, len(states))
    claims = {claim.task.id: claim for claim in device.claim(slots=len(states))}
    done, failed, running, _ = (claims[task_id] for task_id in ids)
    device.start([done, failed, running])
    device.end(fleets.ending(done, summary='{"seen": 1}'), fleets.ending(failed, "permanent", message="never"))
    tasks = dict(zip(states, ids, strict=True))
    tasks["pending"], tasks["cancelled"] = fleets.add(db, 2)
    fleet.cancel_tasks([tasks["cancelled"]], "somebody")
    fleet.add_tasks([TaskSpec("app_data", username="u", app_id="app", task_data={"days": 1})], "somebody")
    return tasks
