"""A real node fetches all that Apple gives of two developers, on every database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from crawlfleet.core.account import Account
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.sandbox.apple.invented_data import (
    DEVELOPERS,
    apps_of,
    expected_apps,
    expected_details,
    expected_rank,
    expected_reviews,
)
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from crawlfleet.sources.apple.source import CHARTS
from tests.conftest import Backend
from tests.nodes import NodeProcess

COUNTRIES = ("us", "jp")
MINUTE_SECONDS = 0.3
CONFIG = f"""
[sources.apple]
countries = ["us", "jp"]

[sources.apple.limits.store_calls]
seconds = {MINUTE_SECONDS}
"""
END = datetime.now(UTC).date() - timedelta(1)
START = END - timedelta(6)


def queue(fleet: Fleet) -> None:
    for developer in DEVELOPERS:
        fleet.accounts.add(Account("apple", developer))
        fleet.add_task("user_apps", username=developer)
        for report in ("app_details", *CHARTS):
            fleet.add_task("app_data", username=developer, report=report)
        fleet.add_task("app_data", username=developer, report="reviews", start_date=START, end_date=END)


def stored(fleet: Fleet, report: str) -> dict[tuple[str, ...], dict[str, object]]:
    """What is in `extra`, by app, day, storefront and, for reviews, the review."""
    rows = [
        row
        for developer in DEVELOPERS
        for row in stored_rows.data_rows(fleet.db, FeedFilter("apple", developer, report=report))
    ]
    found = {
        (row["app_id"], str(row["date"]), row["country"], row["extra"].pop("review_id", "")): row["extra"]
        for row in rows
    }
    assert len(found) == len(rows), "no row is there twice"
    return found


def test_a_node_stores_all_reports_of_two_developers(backend: Backend, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG, encoding="utf-8")
    fleet = connect(backend.url)
    queue(fleet)
    with Sandbox(minute_seconds=MINUTE_SECONDS) as sandbox:
        options = ("--config", str(config), "--until-idle")
        with NodeProcess(tmp_path, backend.url, *options, CRAWLFLEET_APPLE_BASE_URL=sandbox.base_url) as node:
            assert node.wait() == 0, node.log[-6000:]
        assert sandbox.stats()["calls"] > 60
    apps = [app for developer in DEVELOPERS for app in apps_of(developer)]
    assert fleet.tasks.stats()["completed"] == 10 + 4 * len(apps) == fleet.tasks.stats()["total"]
    for developer in DEVELOPERS:
        found = stored_rows.apps(fleet.db, FeedFilter("apple", developer))
        assert [(row["app_id"], row["app_name"], row["platform"], row["currency"], row["extra"]) for row in found] == [
            (app.app_id, app.name, app.platform, app.currency, app.extra) for app in expected_apps(developer)
        ]
    details = stored(fleet, "app_details")
    [day] = {key[1] for key in details}  # today, when the node asked
    today = datetime.fromisoformat(day).date()
    places = [(app, country) for app in apps for country in COUNTRIES]
    assert details == {
        (f"id{app.number}", day, country, ""): expected_details(app, country, today).extra
        for app, country in places
        if app.is_sold_in(country)
    }
    for report, chart in CHARTS.items():
        assert stored(fleet, report) == {
            (f"id{app.number}", day, country, ""): row.extra
            for app, country in places
            for row in expected_rank(app, country, chart, today)
        }
    assert stored(fleet, "reviews") == {
        (f"id{app.number}", str(row.day), country, row.dimensions["review_id"]): row.extra
        for app, country in places
        for row in expected_reviews(app, country, START, END)
    }
    fleet.close()


def test_a_node_refuses_a_setting_that_the_source_does_not_know(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.replace("countries", "storefronts"), encoding="utf-8")
    with NodeProcess(tmp_path, f"sqlite:///{tmp_path}/x.db", "--config", str(config)) as node:
        assert node.wait() == 2
    assert "sources.apple: storefronts is unknown: known are countries" in node.log
