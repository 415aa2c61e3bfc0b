"""The verdict says what a colleague would: what is wrong, what waits and until when, what is missing for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.insights.devices import MISSED_BEATS, silent_seconds, status_text
from crawlfleet.insights.overview import fleet_status, overview
from crawlfleet.insights.verdict import Backlog, Standing, verdict
from crawlfleet.insights.yesterday import Yesterday, yesterday
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import Charge, Cost, midnight_after
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.queue_depth import OpenLane
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import DEFAULT_REPORT, TaskSpec
from crawlfleet.sources.contract import Report
from tests.conftest import Backend
from tests.fleets import Device, ending, fresh
from tests.stored_figures import add_account, add_days

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
DAY = date(2026, 3, 30)
REPORTS = {
    "appsflyer": {name: Report(name, ()) for name in (DEFAULT_REPORT, "geo")},
    "store": {"details": Report("details", (), lookback_days=0)},
}


def reports_of(source: str) -> Mapping[str, Report]:
    return REPORTS.get(source, {})


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    database = fresh(backend.url)
    yield database
    database.close()


# -- the sentence


def device(device_id: str = "d1", **more: Any) -> dict[str, Any]:
    standing = {"status": "online", "device_type": "standalone", "draining": False, "version": "1", "capabilities": {}}
    return {"device_id": device_id, **standing, "silent_seconds": None, "current_tasks": 0, **more}


def lane(username: str = "acme", **more: Any) -> OpenLane:
    return OpenLane(1, "app_data", "appsflyer", username, None, **more)


def said(
    *lanes: OpenLane,
    devices: list[dict[str, Any]] | None = None,
    blocked: tuple[str, ...] = (),
    found: Yesterday | None = None,
    failed: int = 0,
) -> str:
    backlog = Backlog(sum(each.tasks for each in lanes), [*blocked], [*lanes])
    devices = [device()] if devices is None else devices
    return verdict(Standing(NOW, devices, backlog, found or Yesterday(DAY), failed))


def lacking(*apps: str, newest: date | None = None, username: str = "acme", all_apps: int = 20) -> Yesterday:
    return Yesterday(DAY, all_apps, {("appsflyer", username, app): newest for app in apps})


def test_a_quota_that_is_gone_is_waited_for_and_until_when() -> None:
    """It said `working`, although nothing could begin before midnight."""
    tomorrow = datetime(2026, 4, 1, tzinfo=UTC)
    closed = lane(due=30, is_closed=True, opens_at=tomorrow)
    assert said(closed) == "waiting for quota until 2026-04-01 00:00:00 UTC: 30 tasks of acme"
    soon = lane("bob", due=1, is_closed=True, opens_at=tomorrow - timedelta(hours=1))
    both = "waiting for quota until 2026-03-31 23:00:00 UTC to 2026-04-01 00:00:00 UTC: 31 tasks of acme, bob"
    assert said(closed, soon) == both
    assert said(lane(due=2, is_closed=True)) == "waiting for quota until running tasks end: 2 tasks of acme"
    has_opened = lane(due=1, is_closed=True, opens_at=NOW)
    assert said(has_opened) == "working: 1 task is open, 0 in hand, 1 device is online"


def test_work_that_goes_on_is_told_beside_what_waits() -> None:
    closed = lane("bob", due=5, is_closed=True, opens_at=NOW + timedelta(hours=1))
    assert said(lane(live=2, due=1), closed) == (
        "working: 8 tasks are open, 2 in hand, 1 device is online; "
        "waiting for quota until 2026-03-31 13:00:00 UTC: 5 tasks of bob"
    )


def test_tasks_that_all_wait_for_retries_are_called_so() -> None:
    """It said `working` and a success rate of 100 %."""
    waits = lane(later=12, retrying=12, next_retry_at=NOW + timedelta(minutes=5), retry_reason="HTTP 500: oh")
    assert said(waits) == "retrying: 12 tasks, the next at 2026-03-31 12:05:00 UTC (HTTP 500: oh)"
    long = lane(later=1, retrying=1, next_retry_at=NOW, retry_reason="x" * 900)
    assert len(said(long)) < 200


def test_a_task_that_kills_its_runner_is_named() -> None:
    """Its runs died one after the other, and the verdict was that it is retried."""
    told = "task 7 of type fetch kills its runner each time"
    killer = OpenLane(1, "fetch", None, None, None, later=1, killers=1, killer=7)
    assert said(killer).startswith(told)
    assert said(killer, lane(later=9, killers=9, killer=8)).startswith(f"{told}, and so do 9 more")


def test_tasks_for_another_day_are_not_called_work() -> None:
    later = lane(later=3, next_due_at=NOW + timedelta(days=1))
    assert said(later) == "3 tasks are not due before 2026-04-01 12:00:00 UTC"


def test_nothing_queued_although_a_day_is_missing_is_said() -> None:
    """Cron had died; it said `idle: nothing is open, nothing failed`."""
    missing = lacking(*"abc", newest=date(2026, 3, 25))
    assert said(found=missing) == (
        "yesterday (2026-03-30, UTC) is missing for 3 apps of acme; the last day there is 2026-03-25;"
        " nothing is queued for them"
    )
    assert said(found=lacking("a")).endswith("which was never fetched; nothing is queued for it")
    assert "is missing for 1 app and all apps at once of acme" in said(found=lacking("a", "all"))
    assert "is missing for all apps at once of acme" in said(found=lacking("all"))
    last_night = lacking("a", newest=DAY - timedelta(1))
    assert said(lane(due=1), found=last_night) == (
        "yesterday (2026-03-30, UTC) is missing for 1 app of acme;"
        " working: 1 task is open, 0 in hand, 1 device is online"
    )
    assert "nothing is queued" in said(lane("bob", due=1), found=last_night)
    unsynced = Yesterday(DAY, unsynced=(("appsflyer", "acme"),))
    assert said(found=unsynced) == "no app is known of acme: `tasks add --type user_apps`"
    assert "no app" not in said(lane(due=1), found=unsynced)


def test_healthy_is_a_fleet_with_yesterdays_figures_and_nothing_wrong() -> None:
    there = Yesterday(DAY, 15)
    healthy = "healthy: yesterday's figures (2026-03-30, UTC) are there for all 15 apps"
    assert said(found=there) == f"{healthy}; nothing is open"
    assert said(lane(live=1), found=there).startswith(f"{healthy}; working: 1 task is open, 1 in hand")
    for trouble in (
        said(found=there, failed=2),
        said(found=there, blocked=("a",)),
        said(found=lacking("a")),
        said(found=there, devices=[device(silent_seconds=70.4, current_tasks=5)]),
    ):
        assert "healthy" not in trouble
    assert said() == "idle: nothing is open, nothing failed"
    assert said(failed=1) == "1 task failed in the last 24 hours"


def test_many_things_that_wait_for_a_person_are_counted() -> None:
    assert said(blocked=tuple("abcde")) == "waits for a person: a; b; c; and 2 more"


def test_a_device_without_a_token_is_named_with_the_account() -> None:
    reason = "account acme at appsflyer: T is not set on this node"
    lacking = [{"source": "appsflyer", "username": "acme", "reason": reason}]
    devices = [device(), device("d2", capabilities={"lacking": lacking})]
    sentence = said(lane(due=1), devices=devices)
    assert "device d2 takes no tasks of acme, whose token it lacks (T is not set on this node)" in sentence
    nobody_has_it = said(lane(due=1, is_blocked=True), devices=devices[1:], blocked=("1 task of account acme (...)",))
    assert nobody_has_it == "waits for a person: 1 task of account acme (...)"


def test_a_device_that_misses_its_beats_is_called_silent() -> None:
    """After kill -9 a node was shown as online with five running tasks for five minutes."""
    killed = device(silent_seconds=70.4, current_tasks=5)
    assert said(lane(live=5), devices=[killed]) == (
        "device d1 is silent for 70 s, and 5 tasks assigned to it;"
        " working: 5 tasks are open, 5 in hand, 1 device is online"
    )
    assert status_text(killed) == "silent"
    assert status_text(device(draining=True)) == "online, draining"


def test_three_missed_beats_make_a_device_silent() -> None:
    beat: dict[str, Any] = {"status": "online", "last_heartbeat": NOW, "capabilities": {"heartbeat_interval": 20}}
    assert MISSED_BEATS == 3
    assert silent_seconds(beat, NOW + timedelta(seconds=59)) is None
    assert silent_seconds(beat, NOW + timedelta(seconds=60)) == 60
    assert silent_seconds(beat | {"status": "offline"}, NOW + timedelta(days=1)) is None
    of_an_older_version = beat | {"capabilities": {}}
    assert silent_seconds(of_an_older_version, NOW + timedelta(seconds=89)) is None
    assert silent_seconds(of_an_older_version, NOW + timedelta(seconds=90)) == 90


# -- what it is made of


def test_yesterday_is_there_when_each_kept_report_has_it(db: Database) -> None:
    """Every app of an account that is there; a report that was looked at once, long ago, is not waited for."""
    add_account(db, "a", "b", username="acme")
    add_account(db, "x", username="fresh")
    AccountDAO(db).add(Account("appsflyer", "empty", token_env="T"))
    add_account(db, "7", username="shop", source="store")
    add_days(db, "a", DAY - timedelta(2), [1, 1, 1], username="acme")
    add_days(db, "a", DAY - timedelta(60), [1], username="acme", report="geo")
    add_days(db, "7", DAY + timedelta(1), [1], username="shop", source="store", report="details")
    found = yesterday(db, reports_of, NOW)
    assert (found.day, found.apps, found.unsynced) == (DAY, 4, (("appsflyer", "empty"),))
    assert found.missing == {("appsflyer", "acme", "b"): None, ("appsflyer", "fresh", "x"): None}

    add_days(db, "b", DAY - timedelta(1), [1], username="acme")
    add_days(db, "a", DAY - timedelta(3), [1], username="acme", report="geo")
    found = yesterday(db, reports_of, NOW)
    assert found.missing[("appsflyer", "acme", "a")] == DAY - timedelta(3)
    assert found.missing[("appsflyer", "acme", "b")] == DAY - timedelta(1)

    tomorrow = yesterday(db, reports_of, NOW + timedelta(1))
    assert ("store", "shop", "7") not in tomorrow.missing
    assert ("store", "shop", "7") in yesterday(db, reports_of, NOW + timedelta(2)).missing


def test_the_status_says_what_the_queue_waits_for(db: Database) -> None:
    """From the tables: one account's quota is used up, another's task comes back, a node does not beat any more."""
    add_account(db, "a", username="acme")
    add_account(db, "b", username="bob")

    def cost(spec: TaskSpec) -> Cost:
        return Cost((Charge("appsflyer", "daily", 1, 86_400.0, spec.username or "", ""),), 1)

    defaults = TaskDefaults(cost_of=cost)
    node = Device(db, types=("fetch",), defaults=defaults)
    with db.read() as reader:
        now = reader.now
    node.register(now=now - timedelta(seconds=100))
    for username, count in (("acme", 3), ("bob", 1)):
        spec = TaskSpec("fetch", source="appsflyer", username=username, app_id="a")
        CrawlTaskDAO(db).add([spec] * count, defaults)
    for claim in node.claim():
        if claim.task.username == "acme":
            node.end(ending(claim, calls=[now]))
        else:
            node.end(ending(claim, "transient", calls=[], message="HTTP 502"))
    found = fleet_status(db, reports_of)
    sentence = found["verdict"]
    assert overview(db, reports_of)["system_overview"]["verdict"].split(";")[1:] == sentence.split(";")[1:]
    silent = float(found["devices"][0]["silent_seconds"])
    assert 100 <= silent < 160
    assert sentence.startswith(f"device d1 is silent for {silent:.0f} s; yesterday (")
    assert "is missing for 2 apps of acme, bob, which were never fetched; waiting for quota until " in sentence
    midnight = midnight_after(now)
    assert f"waiting for quota until {midnight:%Y-%m-%d} 00:0" in sentence
    assert ": 2 tasks of acme; retrying: 1 task, the next at " in sentence
    assert sentence.endswith("(HTTP 502)")
