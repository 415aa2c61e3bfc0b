"""A node against the simulated AppsFlyer: what its tables hold is what the vendor has, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.account import Account
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.moods import REFUSALS
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from crawlfleet.sources.appsflyer.source import MASTER, PULL_REPORTS
from tests.conftest import Backend
from tests.nodes import NodeProcess
from tests.stored_figures import invented_cells, stored_cells

START = date(2026, 3, 1)
ACCOUNTS = ("agency_a", "agency_b")


def days_after(days: int) -> date:
    return START + timedelta(days)


def run_node(folder: Path, fleet: Fleet, url: str, sandbox: Sandbox) -> None:
    """Until everything that is queued has ended well."""
    config = folder / "fleet.toml"
    config.write_text("[sources.appsflyer.limits]\naggregate_short_range = { seconds = 0.5 }\n")
    environ = {"CRAWLFLEET_APPSFLYER_BASE_URL": sandbox.base_url, "CRAWLFLEET_RETRY_DELAY_SECONDS": "0.05"}
    for name in ACCOUNTS:
        environ[f"TOKEN_{name}"] = f"sandbox-{name}"
        fleet.accounts.add(Account("appsflyer", name, "agency", token_env=f"TOKEN_{name}"))
    with NodeProcess(folder, url, "--until-idle", "--config", str(config), **environ) as node:
        assert node.wait(120) == 0, node.log[-4000:]


def feeds(sandbox: Sandbox) -> Iterator[tuple[str, str, str, date]]:
    """(account, app, report, last day) of all that is fetched: a short or a long range, by turns."""
    for username in ACCOUNTS:
        for number, app in enumerate(sandbox.apps_of(username)):
            for report in PULL_REPORTS:
                yield username, app.app_id, report, days_after((1, 9)[number % 2])
        yield username, "all", MASTER, days_after(30)


@pytest.mark.slow
@pytest.mark.parametrize("failure_rate", [0.0, 0.05])
def test_all_reports_arrive_whole_also_from_a_vendor_that_fails(
    backend: Backend, tmp_path: Path, failure_rate: float
) -> None:
    fleet = connect(backend.url)
    options: dict[str, Any] = {"failure_rate": failure_rate, "cut_rate": failure_rate, "seed": 3}
    if failure_rate:
        options["moods"] = [*(f"{name}={failure_rate}" for name in REFUSALS), f"expired={failure_rate}", "odd-ids"]
    with Sandbox(apps=8, minute_seconds=0.05, day_seconds=60, **options) as sandbox:
        wanted = list(feeds(sandbox))
        fleet.add_tasks(
            TaskSpec("app_data", username, "appsflyer", app_id, START, last, report, max_retry_count=20)
            for username, app_id, report, last in wanted
        )
        run_node(tmp_path, fleet, backend.url, sandbox)
        assert (sandbox.stats()["refused"] > 0) == (failure_rate > 0)
        for username, app_id, report, last in wanted:
            truth = invented_cells(sandbox.expected_rows(username, app_id, START, last, report))
            assert truth
            assert stored_cells(fleet, username, app_id, report) == truth, (username, app_id, report)
    assert fleet.tasks.stats()["total"] == len(wanted)
    fleet.close()


def test_a_range_that_the_vendor_refuses_for_its_many_rows_arrives_in_parts(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'parts.db'}"
    fleet = connect(url)
    with Sandbox(apps=4, row_cap=150) as sandbox:
        fleet.add_tasks(
            TaskSpec("app_data", username, "appsflyer", "all", START, days_after(30), MASTER) for username in ACCOUNTS
        )
        run_node(tmp_path, fleet, url, sandbox)
        for username in ACCOUNTS:
            truth = invented_cells(sandbox.expected_rows(username, "all", START, days_after(30), MASTER))
            assert sum(truth.values()) > 2 * 150
            assert stored_cells(fleet, username, "all", MASTER) == truth
    stats = fleet.tasks.stats()
    assert stats["completed"] == stats["total"] > 6
    fleet.close()
