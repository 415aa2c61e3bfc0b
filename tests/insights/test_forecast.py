"""`forecast` on every database: when each account is done, what limits it, and when it never will be."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.insights.forecast import AccountForecast, Bottleneck, forecast
from crawlfleet.model import fleet_state
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import DAY_MARGIN_SECONDS, Charge, Cost
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.conftest import Backend
from tests.fleets import Device, ending, fresh

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOMORROW = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(seconds=DAY_MARGIN_SECONDS)


def cost(spec: TaskSpec) -> Cost:
    """Tests say in `task_data` how many calls a day an account has; a task makes up to two."""
    calls = dict(spec.task_data or {}).get("day")
    charges = () if calls is None else (Charge("vendor", "day", calls, 86_400.0, spec.username or ""),)
    return Cost(charges, 2)


DEFAULTS = TaskDefaults(cost_of=cost)


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    database = fresh(backend.url)
    for name in ("u", "w"):
        AccountDAO(database).add(Account("vendor", name, token_env="T"))
    yield database
    database.close()


@pytest.fixture
def device(db: Database) -> Device:
    made = Device(db, types=("fetch", "noop"), defaults=DEFAULTS)
    made.register(now=NOON)
    return made


def add(db: Database, count: int = 1, username: str = "u", now: datetime = NOON, **needs: object) -> list[int]:
    spec = TaskSpec("fetch", source="vendor", username=username, task_data=needs, run_at=now)
    return CrawlTaskDAO(db).add([spec] * count, DEFAULTS, now)


def of(db: Database, username: str | None = "u", now: datetime = NOON) -> AccountForecast:
    [found] = [each for each in forecast(db, now=now).accounts if each.username == username]
    return found


def test_an_empty_queue_is_done(device: Device, db: Database) -> None:
    found = forecast(db, now=NOON)
    assert (found.open_tasks, found.done_at, found.accounts, found.budgets) == (0, NOON, [], [])


def test_a_daily_quota_decides_with_its_arithmetic(device: Device, db: Database) -> None:
    add(db, 30, day=24)
    [claim] = device.claim(slots=1, now=NOON)
    device.end(ending(claim, calls=[NOON, NOON]), now=NOON)
    found = of(db)
    assert (found.open_tasks, found.limit) == (29, Bottleneck.QUOTA)
    # 58 calls are owed, 22 are left today, 24 come tomorrow, 12 the day after
    assert found.done_at == TOMORROW + timedelta(days=1)
    assert found.why == "58 calls are owed to day, which allows 24 a day"
    [budget] = forecast(db, now=NOON).budgets
    facts = ("tasks", "owed", "used", "allowed", "calls_per_day", "added_per_day")
    assert [budget[name] for name in facts] == [29, 58, 2, 24, 24, None]


def test_devices_decide_by_their_slots_and_the_recent_speed_of_the_type(device: Device, db: Database) -> None:
    add(db, 2)
    claims = device.claim(slots=2, now=NOON)
    for claim, seconds in zip(claims, (10, 20), strict=True):
        end = NOON + timedelta(seconds=seconds)
        device.end(ending(claim, started_at=NOON, completed_at=end, calls=[]), now=end)
    add(db, 100)
    found = of(db)
    assert (found.limit, found.done_at) == (Bottleneck.DEVICES, NOON + timedelta(seconds=15 * 100 / 5))
    assert found.why == "100 tasks of the fleet share 5 slots"
    [work] = forecast(db, now=NOON).work
    assert (work.task_type, work.tasks, work.seconds) == ("fetch", 100, 15)


def test_an_unknown_speed_is_said(device: Device, db: Database) -> None:
    add(db)
    assert of(db).why == "1 tasks of the fleet share 5 slots; how long fetch takes is not known yet"


def test_a_task_that_is_not_due_decides(device: Device, db: Database) -> None:
    later = NOON + timedelta(days=3)
    CrawlTaskDAO(db).add([TaskSpec("noop", run_at=later), TaskSpec("noop", run_at=NOON)], now=NOON)
    found = of(db, None)
    assert (found.open_tasks, found.not_due, found.limit, found.done_at) == (2, 1, Bottleneck.DUE, later)


def test_what_is_never_done_as_things_stand_says_why(device: Device, db: Database) -> None:
    add(db)
    add(db, username="w")
    CrawlTaskDAO(db).add([TaskSpec("unheard_of", run_at=NOON)], now=NOON)
    AccountDAO(db).park("vendor", "w", "contract ended")
    assert (of(db, "w").limit, of(db, "w").done_at) == (Bottleneck.PARKED, None)
    assert of(db, "w").why == "parked: contract ended"
    assert of(db, None).limit is Bottleneck.NO_DEVICE
    assert "unheard_of" in of(db, None).why
    assert of(db).done_at is not None
    assert forecast(db, now=NOON).done_at is None
    assert forecast(db, "u", NOON).done_at is not None
    DeviceDAO(db).set_draining("d1", True)
    assert of(db).limit is Bottleneck.NO_DEVICE
    fleet_state.set_paused(db, True)
    assert {each.limit for each in forecast(db, now=NOON).accounts} == {Bottleneck.PAUSED}


def test_an_account_whose_token_no_device_has_is_never_done(device: Device, db: Database) -> None:
    add(db)
    lacks = [{"source": "vendor", "username": "u", "reason": "T is not set on this node"}]
    DeviceDAO(db).set_lacking("d1", device.epoch, lacks)
    found = of(db)
    assert (found.limit, found.done_at, found.why) == (Bottleneck.NO_TOKEN, None, "d1: T is not set on this node")
    Device(db, "d2", types=("fetch",)).register(now=NOON)
    assert of(db).limit is Bottleneck.DEVICES


def test_an_account_whose_runs_all_failed_is_failing_until_one_does_not(device: Device, db: Database) -> None:
    add(db, 7)
    for n in range(5):
        [claim] = device.claim(slots=1, now=NOON)
        assert of(db).limit is Bottleneck.DEVICES
        device.end(ending(claim, "permanent", calls=[], completed_at=NOON + timedelta(seconds=n)), now=NOON)
    assert (of(db).limit, of(db).done_at) == (Bottleneck.FAILING, None)
    [claim] = device.claim(slots=1, now=NOON)
    device.end(ending(claim, calls=[], completed_at=NOON + timedelta(seconds=9)), now=NOON)
    assert of(db).limit is Bottleneck.DEVICES


def test_a_backlog_that_grows_is_said_from_the_habit_of_three_days(device: Device, db: Database) -> None:
    for days, count in ((4, 1), (3, 14), (2, 13), (1, 200)):
        add(db, count, now=NOON - timedelta(days=days) + timedelta(minutes=1), day=24)
    found = of(db)
    assert (found.limit, found.done_at) == (Bottleneck.INFLOW, None)  # 14 tasks of two calls are the median
    assert found.why == "28 calls are added on a usual day and day allows 24: the backlog grows"
    assert found.budget is not None
    assert found.budget["added_per_day"] == 28


def test_a_queue_of_less_than_three_days_has_no_habit(device: Device, db: Database) -> None:
    for days in (2, 1):
        add(db, 20, now=NOON - timedelta(days=days), day=24)
    assert of(db).limit is Bottleneck.QUOTA
    assert forecast(db, now=NOON).budgets[0]["added_per_day"] is None


def test_a_large_order_on_one_day_is_no_habit(device: Device, db: Database) -> None:
    for days, count in ((4, 1), (3, 2), (2, 2), (1, 200)):
        add(db, count, now=NOON - timedelta(days=days) + timedelta(minutes=1), day=24)
    assert of(db).limit is Bottleneck.QUOTA
    assert forecast(db, now=NOON).budgets[0]["added_per_day"] == 4
