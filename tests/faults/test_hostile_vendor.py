"""A vendor with all its moods: what is stored in the end is what it has, and no call was one too many."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.appsflyer.invented_data import GEO, MASTER, PARTNERS
from crawlfleet.sandbox.moods import MOODS
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from tests.nodes import NodeProcess
from tests.stored_figures import invented_cells, stored_cells

ACCOUNTS = ("agency_a", "agency_b")
APPS = 3
MINUTE = 0.5
FIRST = date(2026, 3, 1)
LAST_OF = {PARTNERS: FIRST + timedelta(1), GEO: FIRST + timedelta(9)}
MASTER_LAST = FIRST + timedelta(20)


def run_node(folder: Path, url: str, sandbox: Sandbox) -> None:
    """Until everything that is queued has ended well."""
    config = folder / "fleet.toml"
    config.write_text(f"[sources.appsflyer.limits]\naggregate_short_range = {{ seconds = {MINUTE} }}\n")
    environ = {f"TOKEN_{name}": f"sandbox-{name}" for name in ACCOUNTS}
    environ |= {
        "CRAWLFLEET_APPSFLYER_BASE_URL": sandbox.base_url,
        "CRAWLFLEET_RETRY_DELAY_SECONDS": "0.02",
        "CRAWLFLEET_MAX_RETRY": "30",
    }
    with NodeProcess(folder, url, "--until-idle", "--config", str(config), **environ) as node:
        assert node.wait(120) == 0, "\n".join(line for line in node.log.splitlines() if "failed" in line)
    assert "/export/token/" not in node.log, "a signed address was shown"


def queue_all(fleet: Fleet) -> None:
    """Each report of each listed app, short and long ranges, and one of all apps together."""
    for username in ACCOUNTS:
        for report, last in LAST_OF.items():
            spec = TaskSpec("app_data", username, "appsflyer", None, FIRST, last, report, max_retry_count=30)
            fleet.add_tasks([spec])
        fleet.add_tasks(
            [TaskSpec("app_data", username, "appsflyer", "all", FIRST, MASTER_LAST, MASTER, max_retry_count=30)]
        )


def assert_complete(fleet: Fleet, sandbox: Sandbox) -> None:
    for username in ACCOUNTS:
        wanted = [(app.app_id, report, last) for app in sandbox.apps_of(username) for report, last in LAST_OF.items()]
        for app_id, report, last in [*wanted, ("all", MASTER, MASTER_LAST)]:
            truth = invented_cells(sandbox.expected_rows(username, app_id, FIRST, last, report))
            assert stored_cells(fleet, username, app_id, report) == truth, (username, app_id, report)


def test_all_moods_at_once_cost_time_but_no_row_and_no_quota(tmp_path: Path) -> None:
    """Pages of a CDN, bare and spurious refusals and expired addresses failed tasks for good or denied their apps."""
    url = f"sqlite:///{tmp_path / 'moods.db'}"
    fleet = connect(url)
    shares = dict.fromkeys(MOODS, "=0.05") | {"pace": "", "odd-ids": "", "empty": "=0.5"}
    options: dict[str, Any] = {"failure_rate": 0.03, "cut_rate": 0.03, "seed": 5}
    with Sandbox(apps=APPS, minute_seconds=MINUTE, moods=[*map("".join, shares.items())], **options) as sandbox:
        for name in ACCOUNTS:
            fleet.accounts.add(Account("appsflyer", name, "agency", token_env=f"TOKEN_{name}"))
        for _ in range(2):  # fetched anew, days that had rows may come back empty
            queue_all(fleet)
            run_node(tmp_path, url, sandbox)
        told = sandbox.stats()
        assert_complete(fleet, sandbox)
    assert (told["over_quota"], told["token_leaks"]) == (0, 0)
    missing = {*MOODS} - {*told["moods"]} - {"odd-ids"}
    assert missing == set(), told["moods"]
    stats = fleet.tasks.stats()
    assert stats["completed"] == stats["total"]
    with fleet.db.read() as reader:
        [(denied,)] = reader.execute(sa.text("SELECT COUNT(*) FROM cl_feed WHERE denied_until IS NOT NULL"))
    assert denied == 0
    fleet.close()


def test_a_refusal_at_the_declared_pace_is_learned_and_not_repeated_for_ever(tmp_path: Path) -> None:
    """Every other call was refused, as long as there were any."""
    url = f"sqlite:///{tmp_path / 'pace.db'}"
    fleet = connect(url)
    days = 5
    with Sandbox(apps=1, minute_seconds=MINUTE, moods=["pace"]) as sandbox:
        [app] = sandbox.apps_of("agency_a")
        fleet.accounts.add(Account("appsflyer", "agency_a", "agency", token_env="TOKEN_agency_a"))
        fleet.add_tasks(
            TaskSpec("app_data", "agency_a", "appsflyer", app.app_id, day, day)
            for day in (FIRST + timedelta(n) for n in range(days))
        )
        run_node(tmp_path, url, sandbox)
        moods = Counter(call["mood"] for call in sandbox.calls())
    assert moods.pop("") == days
    assert moods.pop("pace") <= 2
    assert moods == {}
    fleet.close()
