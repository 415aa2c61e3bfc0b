"""What a vendor refuses an account costs its calls once, not for every task, and is told once."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from crawlfleet.core.account import Account
from crawlfleet.insights import stored_rows
from crawlfleet.insights.budgets import accounts
from crawlfleet.insights.explain import Reason, explain
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model.feed import denied_feeds
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from tests.conftest import Backend
from tests.fleets import tasks_of
from tests.nodes import NodeProcess

SLOTS = 5
FIRST, LAST = date(2026, 4, 1), date(2026, 4, 7)
GEO = "geo_by_date_report"


def run_until_idle(folder: Path, fleet: Fleet, url: str, sandbox: Sandbox, **environ: str) -> NodeProcess:
    options = ("--until-idle", "--concurrent-tasks", str(SLOTS))
    with NodeProcess(folder, url, *options, CRAWLFLEET_APPSFLYER_BASE_URL=sandbox.base_url, **environ) as node:
        node.wait(90)
    return node


def test_a_refused_token_parks_its_account_with_one_line_and_the_other_account_goes_on(
    backend: Backend, tmp_path: Path
) -> None:
    fleet = connect(backend.url)
    with Sandbox(apps=60) as sandbox:
        for name in ("alice", "bob"):
            fleet.accounts.add(Account("appsflyer", name, "agency", token_env=f"TOKEN_{name}"))
        apps = [app.app_id for app in sandbox.apps_of("alice")][:50]
        ids = fleet.add_tasks(
            TaskSpec("app_data", username="alice", app_id=app, start_date=FIRST, end_date=LAST) for app in apps
        )
        [other] = fleet.add_tasks([TaskSpec("user_apps", username="bob")])
        tokens = {"TOKEN_alice": "of-last-year", "TOKEN_bob": "sandbox-bob"}
        node = run_until_idle(tmp_path, fleet, backend.url, sandbox, **tokens)
        refused = sandbox.stats()["refused"]
    assert len(ids) == 50
    tasks = {row["id"]: row for row in tasks_of(fleet.db)}
    assert {(tasks[each]["status"], tasks[each]["retry"]) for each in ids} == {("pending", 0)}
    assert tasks[other]["status"] == "completed"
    assert 1 <= refused <= SLOTS
    assert node.count(r"\[WARNING\].*account parked until a person resumes it: source=appsflyer username=alice") == 1
    assert node.count(r"\[(WARNING|ERROR)\].*[Tt]ask \d+") == 0
    assert node.count("50 tasks of account alice") == 1
    assert "of-last-year" not in node.log
    [found] = accounts(fleet.db, "alice")
    assert found["health"]["state"] == "token_expired"
    explained = explain(fleet.db, ids[-1], 300)
    assert explained is not None
    assert explained.reason is Reason.TOKEN_EXPIRED
    fleet.close()


def test_a_report_that_the_vendor_denies_is_asked_for_once_for_each_app(backend: Backend, tmp_path: Path) -> None:
    fleet = connect(backend.url)
    fleet.accounts.add(Account("appsflyer", "alice", "agency", token_env="TOKEN"))

    def fetch_all(report: str, environ: dict[str, str]) -> tuple[dict[str, int], int]:
        """(tasks by state, calls refused) after all apps were asked for."""
        before = fleet.tasks.stats()
        refused = sandbox.stats()["refused"]
        fleet.add_tasks([TaskSpec("app_data", username="alice", report=report, start_date=FIRST, end_date=LAST)])
        run_until_idle(tmp_path, fleet, backend.url, sandbox, **environ)
        after = fleet.tasks.stats()
        return {name: after[name] - before[name] for name in after}, sandbox.stats()["refused"] - refused

    granted = {GEO: False}
    with Sandbox(apps=3, permits=lambda _username, report: granted.get(report, True)) as sandbox:
        environ = {"TOKEN": "sandbox-alice"}
        first, refused = fetch_all(GEO, environ)
        assert (first["failed"], first["completed"], refused) == (3, 1, 3)
        second, refused = fetch_all(GEO, environ)
        assert (second["total"], second["completed"], refused) == (1, 1, 0)
        other, refused = fetch_all("daily_report", environ)
        assert (other["total"], other["completed"], refused) == (4, 4, 0)

        feeds = denied_feeds(fleet.db, "appsflyer", "alice")
        assert [(feed["report"], feed["denials"]) for feed in feeds] == [(GEO, 1)] * 3
        granted[GEO] = True
        app_id = feeds[0]["app_id"]
        day = LAST + timedelta(days=1)
        fleet.add_tasks(
            [TaskSpec("app_data", username="alice", app_id=app_id, report=GEO, start_date=FIRST, end_date=day)]
        )
        run_until_idle(tmp_path, fleet, backend.url, sandbox, **environ)
    assert [feed["app_id"] for feed in denied_feeds(fleet.db, "appsflyer", "alice")] == [
        feed["app_id"] for feed in feeds[1:]
    ]
    assert {row["app_id"] for row in stored_rows.data_rows(fleet.db, FeedFilter(report=GEO))} == {app_id}
    fleet.close()
