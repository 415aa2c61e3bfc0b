"""A node that is killed at any moment loses nothing and doubles nothing."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path

import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.appsflyer.invented_data import expected_rows
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from tests.conftest import Backend
from tests.nodes import NodeProcess
from tests.waiting import wait_until

START, END = date(2026, 5, 1), date(2026, 5, 3)
ACCOUNTS = [f"user{n:02}" for n in range(30)]
KILLS = 10


def completed_runs(db: Database) -> dict[int, int]:
    """How many completed runs each task has."""
    query = "SELECT task_id, COUNT(*) FROM cl_task_assignment WHERE status = 'completed' GROUP BY task_id"
    with db.read() as connection:
        return dict(connection.execute(sa.text(query)).all())


def ended(db: Database) -> int:
    with db.read() as connection:
        return connection.execute(
            sa.text("SELECT COUNT(*) FROM cl_task_assignment WHERE status = 'completed'")
        ).scalar_one()


def set_up(fleet: Fleet) -> dict[str, str]:
    environ = {}
    for name in ACCOUNTS:
        environ[f"TOKEN_{name}"] = f"sandbox-{name}"
        fleet.accounts.add(Account("appsflyer", name, "agency", token_env=f"TOKEN_{name}"))
    fleet.add_tasks(TaskSpec("user_apps", username=name, start_date=START, end_date=END) for name in ACCOUNTS)
    return environ


def test_ten_kills_in_one_run_lose_nothing_and_double_nothing(backend: Backend, tmp_path: Path) -> None:
    fleet = connect(backend.url)
    dice = random.Random(7)
    with Sandbox(apps=8, minute_seconds=0.05) as sandbox:
        environ = {**set_up(fleet), "CRAWLFLEET_APPSFLYER_BASE_URL": sandbox.base_url}
        total = len(ACCOUNTS) * 9
        for kill in range(KILLS):
            goal = total * (kill + dice.random()) / (KILLS + 1)
            with NodeProcess(tmp_path, backend.url, **environ) as node:
                wait_until(lambda goal=goal: ended(fleet.db) >= goal, 60, f"{goal:.0f} runs")  # type: ignore[misc]
                node.kill()
        with NodeProcess(tmp_path, backend.url, "--until-idle", **environ) as node:
            code = node.wait(120)
            assert code == 0, node.log[-4000:]
            node.wait_started()
    stats = fleet.tasks.stats()
    assert (stats["completed"], stats["total"]) == (total, total)
    assert set(completed_runs(fleet.db).values()) == {1}
    assert len(completed_runs(fleet.db)) == total
    stored = stored_rows.data_rows(fleet.db, FeedFilter())
    expected = 0
    for name in ACCOUNTS:
        for app in sandbox.apps_of(name):
            expected += len(expected_rows(name, app.app_id, START, END))
    assert len(list(stored)) == expected
    fleet.close()
