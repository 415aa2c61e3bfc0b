"""Several nodes, one vendor that counts: whatever happens to them, no call is one too many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.appsflyer.invented_data import expected_rows
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from tests.conftest import Backend
from tests.nodes import CLOCK_LIBRARY, NodeProcess, clocks_can_be_shifted
from tests.waiting import wait_until

WINDOW = 2.0  # the vendor's minute
ACCOUNTS = ("alice", "bob")
APPS = 3
DAYS = 3  # each fetched by a call of its own
FIRST = date(2026, 4, 1)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Writes a settings file for this vendor; gives the options that name it."""

    def write(base_url: str) -> tuple[str, ...]:
        path = tmp_path / "settings.toml"
        path.write_text(
            "heartbeat_interval = 0.5\noffline_timeout = 3\n"
            + f'[sources.appsflyer]\nbase_url = "{base_url}"\n[sources.appsflyer.limits]\n'
            + f"aggregate_short_range = {{calls = 1, seconds = {WINDOW}}}\n"
        )
        return "--config", str(path)

    return write


def apps_of_accounts() -> list[tuple[str, str]]:
    """(account, app) for every app of the vendor."""
    return [(name, app.app_id) for name in ACCOUNTS for app in Sandbox(apps=APPS).apps_of(name)]


def queue_days(fleet: Fleet, due_in_seconds: float = 0) -> dict[str, str]:
    """One task for each account, app and day, of a range that costs the call of a window."""
    due_at = datetime.now(UTC) + timedelta(seconds=due_in_seconds) if due_in_seconds else None
    environ = {}
    for name in ACCOUNTS:
        environ[f"TOKEN_{name}"] = f"sandbox-{name}"
        fleet.accounts.add(Account("appsflyer", name, "agency", token_env=f"TOKEN_{name}"))
    fleet.add_tasks(
        TaskSpec("app_data", username=name, app_id=app, start_date=day, end_date=day, run_at=due_at)
        for name, app in apps_of_accounts()
        for day in (FIRST + timedelta(n) for n in range(DAYS))
    )
    return environ


def assert_complete(fleet: Fleet) -> None:
    """Every row of every day is there, once."""
    stats = fleet.tasks.stats()
    assert stats["completed"] == stats["total"] == len(ACCOUNTS) * APPS * DAYS
    last = FIRST + timedelta(DAYS - 1)
    expected = sum(len(expected_rows(name, app, FIRST, last)) for name, app in apps_of_accounts())
    assert len(list(stored_rows.data_rows(fleet.db, FeedFilter()))) == expected


def test_no_call_is_one_too_many_when_a_node_is_killed(
    backend: Backend, tmp_path: Path, config: Callable[[str], tuple[str, ...]]
) -> None:
    fleet = connect(backend.url)
    with Sandbox(minute_seconds=WINDOW, apps=APPS) as sandbox:
        options = config(sandbox.base_url)
        environ = queue_days(fleet)
        with (
            NodeProcess(tmp_path, backend.url, *options, device_id="killed", **environ) as killed,
            NodeProcess(tmp_path, backend.url, *options, "--until-idle", device_id="left", **environ) as left,
        ):
            wait_until(lambda: fleet.tasks.stats()["completed"] >= 6, 60, "the first calls")
            killed.kill()
            assert left.wait(90) == 0, left.log[-4000:]
        calls = sandbox.stats()
    assert calls["refused"] == 0
    assert_complete(fleet)
    fleet.close()


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_no_call_is_one_too_many_when_the_clocks_of_nodes_differ_by_an_hour(
    backend: Backend, tmp_path: Path, config: Callable[[str], tuple[str, ...]]
) -> None:
    if not clocks_can_be_shifted():
        pytest.skip("needs libfaketime: apt-get install faketime")
    fleet = connect(backend.url)
    with Sandbox(minute_seconds=WINDOW, apps=APPS) as sandbox:
        options = (*config(sandbox.base_url), "--until-idle")
        due = queue_days(fleet, due_in_seconds=4)  # both nodes have started by then, and share the work
        environ = {**due, "LD_PRELOAD": str(CLOCK_LIBRARY), "DONT_FAKE_MONOTONIC": "1"}
        with (
            NodeProcess(tmp_path, backend.url, *options, device_id="ahead", FAKETIME="+1h", **environ) as ahead,
            NodeProcess(tmp_path, backend.url, *options, device_id="behind", FAKETIME="-1h", **environ) as behind,
        ):
            for node in (ahead, behind):
                assert node.wait(90) == 0, node.log[-4000:]
        calls = sandbox.stats()
        hours = {node.log[:13] for node in (ahead, behind)}
    assert len(hours) == 2, "the clocks were not shifted"
    assert calls["refused"] == 0
    assert_complete(fleet)
    with fleet.db.read() as connection:
        devices = connection.execute(sa.text("SELECT COUNT(DISTINCT device_id) FROM cl_task_assignment")).scalar_one()
    assert devices == 2
    fleet.close()
