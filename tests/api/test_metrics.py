"""The metrics of a node at work, name by name as documented, and what they say of the fleet."""

from __future__ import annotations

import json
import re
import threading
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from crawlfleet import TaskSpec
from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.durations import BOUNDS, Durations
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.transaction import Transaction
from crawlfleet.insights import fleet_metrics
from crawlfleet.insights.fleet_metrics import LimitUse, read_fleet_metrics
from crawlfleet.model import fleet_state
from crawlfleet.model.account import AccountDAO
from crawlfleet.planning.tariff import task_defaults
from crawlfleet.services import fleet_metrics_reader as figures_service
from crawlfleet.services.fleet import Fleet
from crawlfleet.services.fleet_metrics_reader import FleetMetricsReader
from crawlfleet.settings.definitions import Settings
from tests.api.conftest import Serve, Served
from tests.api.test_api import metrics_of
from tests.conftest import Backend
from tests.fleets import Device, add, ending, fresh
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
SUFFIXES = ("_bucket", "_sum", "_count")
ROW = re.compile(r"^\| `(crawlfleet_\w+)` \| (gauge|counter|histogram) \| ([^|]*)\|", re.MULTILINE)


def documented() -> dict[str, tuple[str, set[str]]]:
    """Name -> type and labels, as docs/metrics.md says."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert len(rows) == len({name for name, *_ in rows}), "a name is there twice"
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def shown(served: Served) -> dict[str, tuple[str, set[str]]]:
    """The same, as /metrics says."""
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(served.client.get("/metrics").raise_for_status().text):
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = next(name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix))
            found[name] = (family.type, set(sample.labels) - {"le"})
    return found


def with_fleet(served: Served) -> None:
    """Until the fleet's figures are shown."""
    wait_until(lambda: "crawlfleet_figures_age_seconds" in metrics_of(served), what="the figures of the fleet")


def test_the_document_and_the_metrics_agree_name_by_name(serve: Serve) -> None:
    served = serve(enable_monitoring=True)
    AccountDAO(served.node.db).add(Account("appsflyer", "u", token_env="SOME"))
    served.fleet.add_task("user_apps", username="u", source="appsflyer")
    served.fleet.add_task("api_test.ok")
    wait_until(lambda: served.node.scheduler.stats.counters["finish"] == 1)
    with_fleet(served)
    assert shown(served) == documented()


def test_each_metric_of_the_dashboard_exists() -> None:
    text = (ROOT / "deploy" / "grafana" / "crawlfleet.json").read_text(encoding="utf-8")
    dashboard = json.loads(text)
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 20
    used = {name for query in queries for name in re.findall(r"\bcrawlfleet_\w+", query)}
    names = documented()
    for name in used:
        base = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
        assert name in names or names[base][0] == "histogram", name
    told = {base for name in used for base in (name, *(name.removesuffix(suffix) for suffix in SUFFIXES))}
    assert set(names) - told == {
        "crawlfleet_node_info",
        "crawlfleet_device_online",
        "crawlfleet_system_load",
        "crawlfleet_figures_age_seconds",
        "crawlfleet_figures_read_seconds",
    }
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(places) == len(set(places)) == len({panel["id"] for panel in dashboard["panels"]})


def test_alerts_of_the_document_name_metrics_that_exist() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\bcrawlfleet_\w+", text.partition("## What to watch")[2])) <= set(documented())


def test_times_of_turns_and_bodies_are_counted(serve: Serve) -> None:
    served = serve()
    before = metrics_of(served)
    assert before["crawlfleet_body_seconds_count api_test.ok"] == 0
    served.fleet.add_tasks([TaskSpec("api_test.ok")] * 5)
    wait_until(lambda: served.node.scheduler.stats.counters["finish"] == 5)
    after = metrics_of(served)
    assert after["crawlfleet_body_seconds_count api_test.ok"] == 5
    assert after["crawlfleet_body_seconds_bucket +Inf api_test.ok"] == 5
    assert after["crawlfleet_body_seconds_count api_test.never"] == 0
    assert after["crawlfleet_turn_seconds_count"] > before["crawlfleet_turn_seconds_count"]
    assert after["crawlfleet_turn_seconds_sum"] > 0


def test_durations_count_each_time_in_its_bucket() -> None:
    durations = Durations()
    for seconds in (0.0, 0.005, 0.006, 59.0, 10_000.0):
        durations.observe(seconds)
    counts = dict(durations.up_to())
    assert (counts["0.005"], counts["0.01"], counts["30.0"], counts["60.0"], counts["1800.0"]) == (2, 3, 3, 4, 4)
    assert counts["+Inf"] == 5
    assert len(counts) == len(BOUNDS) + 1
    assert durations.sum_seconds == pytest.approx(10_059.011)


# -- the fleet


def test_the_fleets_figures_tell_what_is_open_and_what_it_waits_for(backend: Backend) -> None:
    db = fresh(backend.url)
    defaults = task_defaults(Settings())
    device = Device(db, types=("noop", "app_data"), defaults=defaults)
    device.register()
    AccountDAO(db).add(Account("appsflyer", "u", token_env="SOME"))
    AccountDAO(db).add(Account("appsflyer", "v", token_env="SOME"))
    AccountDAO(db).park("appsflyer", "v", "a test")
    empty = read_fleet_metrics(db)
    assert (sum(empty.tasks.values()), empty.failed_tasks, empty.oldest_due, empty.limits) == (0, 0, {}, {})
    assert empty.devices == {"online": 1, "draining": 0, "offline": 0}
    assert empty.accounts == {"healthy": 1, "token_expired": 0, "parked": 1}
    assert not empty.paused
    failing = add(db)
    [claim] = device.claim()
    device.end(ending(claim, "permanent", message="no"))
    with db.read() as connection:
        now = connection.now
    add(db, 3, run_at=now - timedelta(hours=1))
    add(db, 2, run_at=now + timedelta(hours=1))
    claimed = device.claim(slots=2)
    device.start(claimed[:1])
    fleet = Fleet(db, defaults)
    day: dict[str, Any] = {"start_date": now.date() - timedelta(9), "end_date": now.date() - timedelta(9)}
    for username in ("u", "u", "v"):
        fleet.add_task("app_data", source="appsflyer", username=username, app_id="com.a", **day)
    [call] = [each for each in device.claim(slots=5) if each.task.source]
    fleet_state.set_paused(db, True)
    found = read_fleet_metrics(db)
    assert found.failed_tasks == len(failing) == 1
    assert found.paused
    open_tasks = {key: count for key, count in found.tasks.items() if count}
    assert open_tasks == {
        ("later", "noop"): 2,
        ("assigned", "noop"): 2,
        ("running", "noop"): 1,
        ("due", "app_data"): 2,
        ("assigned", "app_data"): 1,
    }
    assert found.oldest_due.keys() == {"closed"}
    assert 0 <= found.oldest_due["closed"] < 300
    assert found.limits["appsflyer", "aggregate_short_range"] == LimitUse(open=1, used_up=1, calls=1)
    assert call.task.username == "u"
    assert found.oldest_beat is not None
    device.end(ending(call, "quota", message="too many", retry_after=3600, calls=[now]))
    assert read_fleet_metrics(db).limits["appsflyer", "aggregate_short_range"].closed == 1
    db.close()


def test_feeds_that_miss_a_day_are_counted(backend: Backend) -> None:
    db = fresh(backend.url)
    with db.read() as connection:
        now = connection.now
    feeds = {"whole": (1, 2, 3, 4), "lacks one": (2, 3, 4), "lacks three": (4,), "given up": (30,), "denied": (4,)}

    def work(connection: Transaction) -> None:
        for number, (name, days) in enumerate(feeds.items(), 1):
            values: dict[str, Any] = {"id": number, "app": name, "now": now.isoformat(" ")[:26]}
            values["until"] = (now + timedelta(days=1)).isoformat(" ")[:26] if name == "denied" else None
            connection.execute(
                sa.text(
                    "INSERT INTO cl_feed (id, source, username, app_id, report, denials, denied_until, created_at)"
                    " VALUES (:id, 's', 'u', :app, 'r', 0, :until, :now)"
                ),
                values,
            )
            for days_ago in days:
                connection.execute(
                    sa.text(
                        "INSERT INTO cl_coverage (feed_id, day, row_count, checksum, totals, settled_fetches,"
                        " fetched_at) VALUES (:id, :day, 0, '', '{}', 0, :now)"
                    ),
                    {"id": number, "day": _day(now, days_ago), "now": values["now"]},
                )

    db.write(work)
    found = read_fleet_metrics(db)
    assert found.feeds == 5
    assert found.feeds_missing == {1: 2, 2: 1, 3: 1}
    db.close()


def _day(now: datetime, days_ago: int) -> str:
    return (now.date() - timedelta(days=days_ago)).isoformat()


def test_labels_are_bounded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_metrics, "MAX_LABELS", 2)
    db = fresh(backend.url)
    for number, task_type in enumerate(("a", "b", "c", "d"), 1):
        add(db, number, task_type=task_type)
    found = read_fleet_metrics(db).tasks
    assert {key: count for key, count in found.items() if count} == {
        ("due", "d"): 4,
        ("due", "c"): 3,
        ("due", "other"): 3,
    }
    assert read_fleet_metrics(db).oldest_due.keys() == {"open"}
    db.close()


def test_a_scrape_never_asks_the_database(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fleet's figures hang: scrapes are answered without them."""
    answers = threading.Event()
    monkeypatch.setattr(figures_service, "read_fleet_metrics", lambda db: answers.wait(30))
    served = serve()
    for _ in range(20):
        assert "crawlfleet_figures_age_seconds" not in metrics_of(served)
    answers.set()


def test_nobody_reads_figures_that_nobody_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = fresh(f"sqlite:///{tmp_path}/crawlfleet.db")
    figures = FleetMetricsReader(db)
    assert not figures.run_once()
    figures._wanted_at = db.clock.monotonic()
    assert figures.run_once()
    assert figures.latest is not None
    assert not figures.run_once(), "not so soon again"
    assert 0 < figures.next_wait() <= 15
    figures._due_at = 0

    def away(_db: Database) -> None:
        raise DatabaseUnreachable("cannot use the database x")

    with monkeypatch.context() as patch:
        patch.setattr(figures_service, "read_fleet_metrics", away)
        assert not figures.run_once()
    assert figures.latest is None
    figures._due_at, figures._wanted_at = 0, db.clock.monotonic() - 301
    assert not figures.run_once()
    db.close()


def test_a_deep_queue_is_counted_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = fresh(f"sqlite:///{tmp_path}/crawlfleet.db")
    figures = FleetMetricsReader(db)
    clock = iter([0.0, 0.0, 2.0, 2.0])
    figures._wanted_at = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(db, "clock", SimpleNamespace(monotonic=clock.__next__))
        patch.setattr(figures_service, "read_fleet_metrics", lambda db: None)
        assert figures.run_once()
    assert figures.read_seconds == 2.0
    assert figures._due_at == 2.0 + 2.0 / 0.02
    db.close()
