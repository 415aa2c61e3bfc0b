"""A backfill from end to end: planned, fetched by a node from a vendor that counts, and nothing left to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from crawlfleet.core.account import Account
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import connect
from tests.conftest import Backend
from tests.nodes import NodeProcess

APPS, DAYS = 15, 90


def test_ninety_days_of_fifteen_apps_cost_fifteen_calls_once(backend: Backend, tmp_path: Path) -> None:
    last = datetime.now(UTC).date() - timedelta(10)  # no longer changed by the vendor
    days = last - timedelta(DAYS - 1), last
    fleet = connect(backend.url)
    fleet.accounts.add(Account("appsflyer", "demo_agency", "agency", token_env="TOKEN"))
    with Sandbox(apps=APPS) as sandbox:
        environ = {"CRAWLFLEET_APPSFLYER_BASE_URL": sandbox.base_url, "TOKEN": "sandbox-demo_agency"}

        def run() -> None:
            with NodeProcess(tmp_path, backend.url, "--until-idle", **environ) as node:
                assert node.wait(90) == 0, node.log[-4000:]

        fleet.add_task("user_apps", username="demo_agency")
        run()
        listed = sandbox.stats()["calls"]
        assert len(fleet.backfill("demo_agency", *days).ids) == APPS
        run()
        calls = sandbox.stats()
        apps = [app.app_id for app in sandbox.apps_of("demo_agency")]
        expected = sum(len(sandbox.expected_rows("demo_agency", app, *days)) for app in apps)
    assert len(list(stored_rows.data_rows(fleet.db, FeedFilter()))) == expected
    assert (calls["calls"] - listed, calls["refused"]) == (APPS, 0)
    again = fleet.backfill("demo_agency", *days)
    assert (again.ids, dict(again.skipped)["final"]) == ([], APPS * DAYS)
    fleet.close()
