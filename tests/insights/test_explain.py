"""`explain` on every database: one reason for each way in which a task can wait, and that it is the decisive one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.insights import overview
from crawlfleet.insights.explain import Explanation, Reason, explain
from crawlfleet.model import fleet_state, queue_depth, rescue
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import DAY_MARGIN_SECONDS, Charge, Cost
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.conftest import Backend
from tests.fleets import Device, ending, fresh

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE, DAY = 60.0, 86_400.0


def cost(spec: TaskSpec) -> Cost:
    """Tests say in `task_data` what a task needs: {limit: [calls, seconds]}."""
    needs = dict(spec.task_data or {}).items()
    charges = tuple(Charge("vendor", name, *each, spec.username or "", spec.app_id or "") for name, each in needs)
    return Cost(charges, 1)


DEFAULTS = TaskDefaults(cost_of=cost)


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    database = fresh(backend.url)
    yield database
    database.close()


@pytest.fixture
def device(db: Database) -> Device:
    AccountDAO(db).add(Account("vendor", "u", token_env="T"))
    made = Device(db, types=("fetch", "noop"), defaults=DEFAULTS)
    made.register(now=NOON)
    return made


def add(db: Database, count: int = 1, app_id: str = "a", **needs: object) -> list[int]:
    spec = TaskSpec("fetch", source="vendor", username="u", app_id=app_id, task_data=needs, run_at=NOON)
    return CrawlTaskDAO(db).add([spec] * count, DEFAULTS, NOON)


def why(db: Database, task_id: int, now: datetime = NOON) -> Explanation:
    found = explain(db, task_id, 300, now=now)
    assert found is not None
    assert found.task_id == task_id
    return found


def test_an_id_of_no_task_has_no_explanation(db: Database) -> None:
    assert explain(db, 7, 300) is None


def test_an_ended_task_says_when_and_why(device: Device, db: Database) -> None:
    good, bad, gone = add(db, 3)
    claims = device.claim(slots=2, now=NOON)
    device.end(ending(claims[0]), ending(claims[1], "permanent", message="no such app"), now=NOON)
    rescue.cancel(db, [gone], "ada@desk")
    assert why(db, good).reason is Reason.COMPLETED
    assert why(db, good).sentence == "completed at 2026-03-01 12:00:00 UTC, after 1 run"
    assert why(db, bad).sentence == "failed at 2026-03-01 12:00:00 UTC (permanent): no such app"
    assert why(db, gone).reason is Reason.CANCELLED
    assert "by ada@desk" in why(db, gone).sentence


def test_a_live_task_says_where_it_is(device: Device, db: Database) -> None:
    [task_id] = add(db)
    [claim] = device.claim(now=NOON)
    found = why(db, task_id)
    assert (found.reason, found.blocked_by["devices"][0]["device_id"]) == (Reason.ASSIGNED, "d1")
    device.start([claim])
    found = why(db, task_id)
    assert found.reason is Reason.RUNNING
    assert found.until is not None
    assert "running on d1 since" in found.sentence
    assert "silent" not in found.sentence
    assert why(db, task_id, NOON + timedelta(seconds=91)).sentence.endswith("; d1 is silent for 91 s")


def test_a_pause_comes_before_a_parked_account_and_that_before_devices(device: Device, db: Database) -> None:
    [task_id] = add(db)
    DeviceDAO(db).set_offline("d1", device.epoch)
    AccountDAO(db).park("vendor", "u", "contract ended")
    fleet_state.set_paused(db, True, "migration tonight")
    found = why(db, task_id)
    assert found.reason is Reason.QUEUE_PAUSED
    assert "migration tonight" in found.sentence
    fleet_state.set_paused(db, False)
    found = why(db, task_id)
    assert found.reason is Reason.ACCOUNT_PARKED
    assert "contract ended" in found.sentence
    assert found.blocked_by["account"]["username"] == "u"
    AccountDAO(db).resume("vendor", "u")
    assert why(db, task_id).reason is Reason.DEVICES_AWAY


def test_a_refused_token_is_named_with_its_reason(device: Device, db: Database) -> None:
    first, second = add(db, 2)
    [claim] = device.claim(slots=1, now=NOON)
    device.end(ending(claim, "auth", message="401: token revoked"), now=NOON)
    for task_id in (first, second):
        found = why(db, task_id)
        assert found.reason is Reason.TOKEN_EXPIRED
        assert "since 2026-03-01 12:00:00 UTC (401: token revoked, asked by device d1)" in found.sentence


def test_a_fleet_that_never_had_a_device_is_told_to_start_one(db: Database) -> None:
    """It blamed the task's type, with a hint at executors of one's own."""
    [task_id] = add(db)
    found = why(db, task_id)
    assert (found.reason, found.sentence) == (Reason.NO_DEVICE, "no device has registered yet: start a node")


def test_devices_that_do_not_know_the_type_or_take_nothing_are_told(device: Device, db: Database) -> None:
    [other] = CrawlTaskDAO(db).add([TaskSpec("unheard_of", run_at=NOON)], now=NOON)
    [mine] = add(db)
    assert why(db, other).reason is Reason.NO_DEVICE
    assert why(db, other).sentence == (
        "missing executor: no device has known the task type unheard_of yet; it waits for a node that does (--executors"
        " for types of your own)"
    )
    DeviceDAO(db).set_draining("d1", True)
    found = why(db, mine)
    assert (found.reason, found.blocked_by["devices"][0]["draining"]) == (Reason.DEVICES_AWAY, True)
    assert "d1 is draining" in found.sentence
    DeviceDAO(db).set_offline("d1", device.epoch)
    assert "d1 is offline" in why(db, mine, NOON + timedelta(seconds=299)).sentence
    found = why(db, mine, NOON + timedelta(seconds=301))
    assert found.reason is Reason.NO_DEVICE
    assert found.sentence.endswith("one that did was last seen at 2026-03-01 12:00:00 UTC: start it again")


def test_a_token_that_no_device_has_is_told_with_the_devices(device: Device, db: Database) -> None:
    [task_id] = add(db)
    lacks = [{"source": "vendor", "username": "u", "reason": "T is not set on this node"}]
    DeviceDAO(db).set_lacking("d1", device.epoch, lacks)
    found = why(db, task_id)
    told = "no device that could take it has the token of account u: d1: T is not set on this node"
    assert (found.reason, found.sentence) == (Reason.NO_TOKEN, told)
    assert overview.backlog(db).blocked == [
        "1 task of account u, whose token no device has (d1: T is not set on this node)"
    ]
    Device(db, "d2", types=("fetch",)).register(now=NOON)
    assert why(db, task_id).reason is not Reason.NO_TOKEN
    assert overview.backlog(db).blocked == []


def test_a_master_takes_no_task(device: Device, db: Database) -> None:
    DeviceDAO(db).remove("d1", offline_timeout=0)
    Device(db, "m1", types=("fetch",), mode="master").register(now=NOON)
    [task_id] = add(db)
    found = why(db, task_id)
    assert found.reason is Reason.DEVICES_AWAY
    assert "m1 is a master, which runs none" in found.sentence


def test_a_task_that_is_not_due_says_until_when(device: Device, db: Database) -> None:
    later = NOON + timedelta(hours=1)
    [waits] = CrawlTaskDAO(db).add([TaskSpec("noop", run_at=later)], now=NOON)
    [fails] = CrawlTaskDAO(db).add([TaskSpec("noop", run_at=NOON)], now=NOON)
    [claim] = device.claim(now=NOON)
    device.end(ending(claim, "transient", message="503"), now=NOON)
    assert (why(db, waits).reason, why(db, waits).until) == (Reason.NOT_DUE, later)
    found = why(db, fails)
    assert (found.reason, found.until) == (Reason.RETRY, NOON + timedelta(seconds=300))
    assert "1 of 4 attempts are spent: 503" in found.sentence


def test_a_task_that_kills_its_runner_is_told_from_the_third_time_on(device: Device, db: Database) -> None:
    """While it waits and while it runs: the process of a device may die with it."""
    [task_id] = add(db)
    killer = "; it kills its runner: 3 runs died under it, and after 21 it fails"

    def killers() -> list[tuple[int, int | None]]:
        with db.read() as reader:
            return [(each.killers, each.killer) for each in queue_depth.open_lanes(reader)]

    now = NOON
    for _ in range(3):
        assert killers() == [(0, None)]
        [claim] = device.claim(now=now)
        device.end(ending(claim, "crashed", message="ended by signal 9", started_at=now, calls=[]), now=now)
        now += timedelta(seconds=60)
    waiting = why(db, task_id, now - timedelta(seconds=60))
    assert (waiting.reason, waiting.sentence.endswith(f"ended by signal 9{killer}")) == (Reason.RETRY, True)
    assert killers() == [(1, task_id)]
    assert device.claim(now=now)
    assert why(db, task_id, now).sentence.endswith(killer)
    assert killers() == [(1, task_id)]


def test_a_used_up_budget_says_how_much_and_when_the_claim_will_have_it(device: Device, db: Database) -> None:
    first, second, third = add(db, 3, app=[1, MINUTE], account=[9, DAY])
    [claim] = device.claim(now=NOON)
    device.end(ending(claim, calls=[NOON]), now=NOON)
    assert why(db, first).reason is Reason.COMPLETED
    found = why(db, second)
    assert found.reason is Reason.BUDGET_USED_UP
    budget = found.blocked_by["budget"]
    assert (budget["limit"], budget["username"], budget["app_id"], budget["report"]) == ("app", "u", "a", None)
    assert (budget["used"], budget["allowed"], budget["opens_at"]) == (1, 1, found.until)
    assert "the budget app of vendor (u, a) is used up until 2026-03-01 12:01:00 UTC" in found.sentence
    assert "(1 of 1 calls in 60 s are used)" in found.sentence
    assert why(db, third).blocked_by["ahead"] == 1
    turn = "1 more urgent task first, so its turn is about 2026-03-01 12:02:00 UTC"
    assert why(db, third).sentence.endswith(turn)
    assert found.until is not None
    assert device.claim(now=found.until - timedelta(milliseconds=1)) == []
    assert [claim.task.id for claim in device.claim(now=found.until)] == [second]


def test_the_budget_that_opens_last_is_the_reason(device: Device, db: Database) -> None:
    _, second = add(db, 2, app=[1, MINUTE], account=[1, DAY])
    [claim] = device.claim(now=NOON)
    device.end(ending(claim, calls=[NOON]), now=NOON)
    found = why(db, second)
    assert found.blocked_by["budget"]["limit"] == "account"
    assert found.until == NOON.replace(hour=0) + timedelta(days=1, seconds=DAY_MARGIN_SECONDS)
    assert "in a UTC day" in found.sentence


def test_a_refusal_closes_a_budget_with_its_reason(device: Device, db: Database) -> None:
    _, second = add(db, 2, app=[None, MINUTE])
    [claim] = device.claim(slots=1, now=NOON)
    device.end(ending(claim, "quota", message="limit reached", retry_after=90.0, calls=[NOON]), now=NOON)
    found = why(db, second)
    assert (found.reason, found.until) == (Reason.BUDGET_CLOSED, NOON + timedelta(seconds=90))
    assert "is closed until 2026-03-01 12:01:30 UTC (limit reached)" in found.sentence
    assert found.blocked_by["budget"]["reason"] == "limit reached"


def test_calls_that_running_tasks_hold_have_no_known_end(device: Device, db: Database) -> None:
    _, second = add(db, 2, app=[1, MINUTE])
    device.claim(now=NOON)
    found = why(db, second)
    assert (found.reason, found.until) == (Reason.CALLS_HELD, None)
    assert found.blocked_by["budget"]["used"] == 1


def test_a_task_behind_others_for_the_calls_that_are_left(device: Device, db: Database) -> None:
    tasks = add(db, 4, app=[3, MINUTE])
    assert [why(db, each).reason for each in tasks] == [Reason.READY] * 3 + [Reason.BEHIND]
    found = why(db, tasks[3])
    assert (found.blocked_by["ahead"], found.blocked_by["budget"]["limit"]) == (3, "app")
    assert "behind 3 more urgent tasks" in found.sentence
    assert found.until == NOON + timedelta(seconds=60.03)


def test_a_task_behind_others_for_slots_and_how_many_are_counted(
    device: Device, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [*add(db, 4), *CrawlTaskDAO(db).add([TaskSpec("noop", run_at=NOON)] * 4, now=NOON)]
    assert why(db, tasks[4]).reason is Reason.READY  # five slots
    found = why(db, tasks[7])
    assert (found.reason, found.blocked_by["ahead"]) == (Reason.BEHIND, 7)
    assert found.sentence == "behind 7 more urgent tasks; 5 slots free on d1"
    monkeypatch.setattr(queue_depth, "COUNT_CAP", 6)
    assert "behind at least 6 more urgent tasks" in why(db, tasks[7]).sentence
    device.claim(slots=5, now=NOON)
    assert [why(db, each).reason for each in tasks[5:]] == [Reason.READY, Reason.BEHIND, Reason.BEHIND]


def test_lanes_that_are_closed_do_not_stand_before_free_slots(device: Device, db: Database) -> None:
    first, *_ = add(db, 8, app=[1, MINUTE])
    device.claim(slots=1, now=NOON)
    [mine] = CrawlTaskDAO(db).add([TaskSpec("noop", run_at=NOON)], now=NOON)
    assert why(db, mine).reason is Reason.READY
    assert why(db, first).reason is Reason.ASSIGNED
