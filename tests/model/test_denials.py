"""What a vendor denies an account is remembered with the ending that heard of it, and asked for again rarely."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import AppList, ReportRange
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.feed import FeedKey, denied_among, denied_feeds
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, ending, task, tasks_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPORT = "daily_report"
FEED = FeedKey("vendor", "u", "com.a", REPORT)
DAY = date(2026, 2, 1)


@pytest.fixture
def device(db: Database) -> Device:
    AccountDAO(db).add(Account("vendor", "u", token_env="T"))
    made = Device(db, types=("app_data", "user_apps"))
    made.register(now=NOON)
    return made


def spec(app_id: str | None = "com.a", report: str | None = REPORT) -> TaskSpec:
    return TaskSpec("app_data", source="vendor", username="u", app_id=app_id, report=report, run_at=NOON)


def run(device: Device, now: datetime, kind: str = "ok", added: TaskSpec | None = None, **more: object) -> int:
    """The id of a task that was added, run and ended at `now`."""
    [task_id] = CrawlTaskDAO(device.db).add([added or spec()], now=NOON)
    [claim] = device.claim(now=now)
    device.end(ending(claim, kind, started_at=now, **more), now=now)
    return task_id


def deny(
    device: Device, now: datetime, added: TaskSpec | None = None, feed: tuple[str, str] = ("com.a", REPORT)
) -> int:
    return run(device, now, "permanent", added, message="not in your package", denied=feed)


def denied(db: Database, now: datetime, *keys: FeedKey) -> set[FeedKey]:
    return db.write(lambda connection: denied_among(connection, keys or (FEED,)), now)


def test_a_denied_feed_pauses_twice_as_long_each_time_and_at_most_thirty_days(device: Device, db: Database) -> None:
    now, pauses = NOON, []
    for _ in range(7):
        task_id = deny(device, now)
        [found] = denied_feeds(db, "vendor", "u")
        pauses.append((found["denied_until"] - now).days)
        now = found["denied_until"]
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert (found["app_id"], found["report"], found["denials"]) == ("com.a", REPORT, 7)
    assert found["denied_reason"] == "not in your package"
    assert task(db, task_id)["status"] == "failed"


def test_the_other_tasks_of_one_night_do_not_lengthen_the_pause(device: Device, db: Database) -> None:
    for hours in range(3):
        deny(device, NOON + timedelta(hours=hours))
    [found] = denied_feeds(db, "vendor", "u")
    assert (found["denials"], found["denied_until"]) == (1, NOON + timedelta(days=1))


def test_only_until_its_pause_is_over_a_feed_counts_as_denied(device: Device, db: Database) -> None:
    deny(device, NOON)
    other = FEED._replace(report="geo")
    assert denied(db, NOON + timedelta(hours=23), FEED, other) == {FEED}
    assert denied(db, NOON + timedelta(days=1)) == set()


def test_figures_that_arrive_forget_the_denial(device: Device, db: Database) -> None:
    deny(device, NOON)
    run(device, NOON, replaces=ReportRange(*FEED, DAY, DAY))
    assert denied_feeds(db, "vendor", "u") == []
    assert denied(db, NOON) == set()


def test_a_plain_failure_denies_nothing(device: Device, db: Database) -> None:
    run(device, NOON, "permanent", message="wrong day")
    assert denied_feeds(db, "vendor", "u") == []


def test_the_feed_that_was_asked_for_counts_also_when_the_task_left_it_open(device: Device, db: Database) -> None:
    deny(device, NOON, spec(app_id=None, report=None), ("all", "master"))
    [found] = denied_feeds(db, "vendor", "u")
    assert (found["app_id"], found["report"]) == ("all", "master")


def test_a_denial_of_a_run_that_was_lost_is_not_written(device: Device, db: Database) -> None:
    CrawlTaskDAO(db).add([spec()], now=NOON)
    [claim] = device.claim(now=NOON)
    device.register(now=NOON)
    device.end(ending(claim, "permanent", denied=("com.a", REPORT)), now=NOON)
    assert denied_feeds(db, "vendor", "u") == []


def follow_ups_of(device: Device, parent: TaskSpec, now: datetime, *wanted: TaskSpec) -> tuple[list[object], object]:
    """(apps of the tasks that follow this one, its summary)."""
    summary = '{"app_tasks": 2}'
    task_id = run(device, now, added=parent, follow_ups=wanted, summary=summary)
    children = [each for each in tasks_of(device.db) if each["parent_id"] == task_id]
    return sorted(each["app_id"] for each in children), task(device.db, task_id)["task_ret"]


def test_a_task_for_all_apps_leaves_out_the_denied_ones_until_their_pause_is_over(device: Device, db: Database) -> None:
    deny(device, NOON)
    wanted = (spec("com.a"), spec("com.b"))
    for parent in (spec(app_id=None), TaskSpec("user_apps", source="vendor", username="u", run_at=NOON)):
        apps, summary = follow_ups_of(device, parent, NOON, *wanted)
        assert apps == ["com.b"]
        assert summary == {"app_tasks": 2, "denied_skipped": 1}
        device.end(*(ending(claim) for claim in device.claim(now=NOON)), now=NOON)
    apps, summary = follow_ups_of(device, spec(app_id=None), NOON + timedelta(days=1), *wanted)
    assert apps == ["com.a", "com.b"]
    assert summary == {"app_tasks": 2}


def test_parts_of_a_task_for_the_app_itself_are_kept(device: Device, db: Database) -> None:
    deny(device, NOON)
    apps, _ = follow_ups_of(device, spec(), NOON, spec(), spec())
    assert apps == ["com.a", "com.a"]


def test_a_denial_and_a_list_of_apps_end_in_one_transaction(device: Device, db: Database) -> None:
    CrawlTaskDAO(db).add([spec(), spec(app_id=None)], now=NOON)
    first, fan_out = device.claim(now=NOON)
    device.end(
        ending(fan_out, follow_ups=[spec("com.b")], replaces=AppList("vendor", "u"), started_at=NOON),
        ending(first, "permanent", message="no", denied=("com.a", REPORT)),
        now=NOON,
    )
    assert denied(db, NOON) == {FEED}
    assert [claim.task.app_id for claim in device.claim(now=NOON)] == ["com.b"]


def refuse(device: Device, now: datetime, task_id: int, in_words: bool = True) -> tuple[object, object]:
    """A run of this task is denied the feed at `now`; (state, attempts used) of the task after it."""
    [claim] = device.claim(now=now)
    assert claim.task.id == task_id
    outcome = {"message": "not in your package", "denied": ("com.a", REPORT), "denied_in_words": in_words}
    device.end(ending(claim, "permanent", started_at=now, **outcome), now=now)
    found = task(device.db, task_id)
    return found["status"], found["retry"]


def test_a_feed_that_worked_is_not_denied_by_one_answer(device: Device, db: Database) -> None:
    """One spurious refusal failed the task for good and denied the app for a day."""
    run(device, NOON, replaces=ReportRange(*FEED, DAY, DAY))
    [task_id] = CrawlTaskDAO(db).add([spec()], now=NOON)
    assert refuse(device, NOON, task_id) == ("pending", 1)
    assert denied(db, NOON) == set()
    later = NOON + timedelta(minutes=59)
    assert refuse(device, later, task_id) == ("pending", 2)
    assert denied_feeds(db, "vendor", "u") == []


def test_a_refusal_that_persists_denies_a_feed_that_worked(device: Device, db: Database) -> None:
    run(device, NOON, replaces=ReportRange(*FEED, DAY, DAY))
    [task_id] = CrawlTaskDAO(db).add([spec()], now=NOON)
    assert refuse(device, NOON, task_id) == ("pending", 1)
    run_at = NOON + timedelta(hours=1)
    assert refuse(device, run_at, task_id) == ("failed", 2)
    assert denied(db, run_at) == {FEED}


def test_an_answer_in_between_ends_the_doubt(device: Device, db: Database) -> None:
    run(device, NOON, replaces=ReportRange(*FEED, DAY, DAY))
    [task_id] = CrawlTaskDAO(db).add([spec()], now=NOON)
    assert refuse(device, NOON, task_id) == ("pending", 1)
    hour = timedelta(hours=1)
    [claim] = device.claim(now=NOON + hour)
    device.end(ending(claim, replaces=ReportRange(*FEED, DAY, DAY), started_at=NOON + hour), now=NOON + hour)
    [again] = CrawlTaskDAO(db).add([spec()], now=NOON + 2 * hour)
    assert refuse(device, NOON + 2 * hour, again) == ("pending", 1)
    assert denied_feeds(db, "vendor", "u") == []


def test_a_refusal_without_words_must_persist_until_the_next_night(device: Device, db: Database) -> None:
    """Also of an app that never worked: a page of a company's proxy looks like the vendor's own."""
    [task_id] = CrawlTaskDAO(db).add([spec()], now=NOON)
    assert refuse(device, NOON, task_id, in_words=False) == ("pending", 1)
    assert refuse(device, NOON + timedelta(hours=19), task_id, in_words=False) == ("pending", 2)
    night = NOON + timedelta(hours=20)
    assert refuse(device, night, task_id, in_words=False) == ("failed", 3)
    assert denied(db, night) == {FEED}


def test_a_doubted_task_fails_when_its_attempts_are_spent_and_denies_nothing(device: Device, db: Database) -> None:
    run(device, NOON, replaces=ReportRange(*FEED, DAY, DAY))
    [task_id] = CrawlTaskDAO(db).add([replace(spec(), max_retry_count=1)], now=NOON)
    assert refuse(device, NOON, task_id) == ("pending", 1)
    assert refuse(device, NOON + timedelta(minutes=10), task_id) == ("failed", 2)
    assert denied_feeds(db, "vendor", "u") == []
