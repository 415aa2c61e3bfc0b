"""How an account stands, derived from its status and its budgets, on every database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.insights.budgets import account_detail, accounts, budgets, health
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import DAY_MARGIN_SECONDS, Charge, Cost, midnight_after
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.conftest import Backend
from tests.fleets import Device, ending, fresh

MINUTE, DAY = 60.0, 86_400.0


def cost(spec: TaskSpec) -> Cost:
    """Tests say in `task_data` what a task needs: {limit: [calls, seconds]}; `shared` counts for all accounts."""
    needs = dict(spec.task_data or {}).items()
    names = {name: "" if name == "shared" else spec.username or "" for name, _ in needs}
    return Cost(tuple(Charge("vendor", name, *each, names[name], spec.app_id or "") for name, each in needs), 1)


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
    made = Device(db, types=("fetch",), defaults=DEFAULTS)
    made.register()
    return made


def use(
    device: Device, kind: str = "ok", count: int = 2, more: dict[str, object] | None = None, **needs: object
) -> None:
    """Queue so many tasks of the account u, and let the first one make its call."""
    spec = TaskSpec("fetch", source="vendor", username="u", app_id="a", task_data=needs)
    CrawlTaskDAO(device.db).add([spec] * count, DEFAULTS)
    [claim] = device.claim(slots=1)
    with device.db.read() as connection:
        now = connection.now
    device.end(ending(claim, kind, calls=[now], **(more or {})), now=now)


def state(db: Database, username: str = "u") -> dict[str, object]:
    [found] = accounts(db, username)
    return dict(found["health"])


def test_an_account_with_room_is_healthy(device: Device, db: Database) -> None:
    use(device, account=[2, DAY])
    assert (state(db)["state"], state(db)["until"]) == ("healthy", None)


def test_a_window_that_is_used_up_throttles_until_it_opens(device: Device, db: Database) -> None:
    use(device, app=[1, MINUTE], account=[9, DAY])
    found = state(db)
    assert found["state"] == "throttled"
    assert found["reason"] == "app (a): 1 of 1 calls used"
    assert timedelta(seconds=59) < found["until"] - found["since"] < timedelta(seconds=61)  # type: ignore[operator]
    assert state(db, "w")["state"] == "healthy"


def test_a_day_that_is_used_up_or_closed_is_quota_out_until_it_ends(device: Device, db: Database) -> None:
    use(device, account=[1, DAY])
    found = state(db)
    with db.read() as connection:
        midnight = midnight_after(connection.now)
    assert (found["state"], found["until"]) == ("quota_out", midnight + timedelta(seconds=DAY_MARGIN_SECONDS))


def test_a_refusal_until_the_day_ends_is_quota_out_with_the_vendors_words(device: Device, db: Database) -> None:
    use(device, "quota", more={"message": "limit reached for today", "quota_daily": True}, calls=[None, MINUTE])
    assert (state(db)["state"], state(db)["reason"]) == ("quota_out", "calls (a): limit reached for today")


def test_a_shared_budget_concerns_every_account(device: Device, db: Database) -> None:
    use(device, shared=[1, MINUTE])
    assert [state(db, name)["state"] for name in ("u", "w")] == ["throttled", "throttled"]


def test_the_status_of_the_account_comes_first(device: Device, db: Database) -> None:
    use(device, account=[1, DAY])
    AccountDAO(db).park("vendor", "u", "contract ended")
    found = state(db)
    assert (found["state"], found["reason"], found["until"]) == ("parked", "contract ended", None)


def test_a_refused_token_is_told_since_it_was_refused(device: Device, db: Database) -> None:
    use(device, "auth", more={"message": "401"}, count=1)
    assert (state(db)["state"], state(db)["reason"]) == ("token_expired", "401, asked by device d1")


def test_blocked_budgets_are_told_with_the_tasks_that_wait_for_them(device: Device, db: Database) -> None:
    use(device, count=4, app=[1, MINUTE], account=[9, DAY])
    [found] = budgets(db, blocked_only=True)
    facts = ("source", "limit", "username", "app_id", "report", "used", "allowed", "waiting", "reason", "learned_calls")
    assert [found[name] for name in facts] == ["vendor", "app", "u", "a", None, 1, 1, 3, None, None]
    assert {each["limit"] for each in budgets(db, "vendor", "u")} == {"app", "account"}
    assert budgets(db, "vendor", "w") == []
    assert budgets(db, "elsewhere") == []


def test_a_learned_limit_is_told(device: Device, db: Database) -> None:
    use(device, count=2, app=[9, MINUTE])
    [claim] = device.claim()
    with db.read() as connection:
        now = connection.now
    device.end(ending(claim, "quota", message="slow down", calls=[now]), now=now)
    [found] = budgets(db, blocked_only=True)
    assert (found["allowed"], found["learned_calls"], found["reason"]) == (1, 1, "slow down")


def test_the_detail_of_an_account_holds_what_it_used(device: Device, db: Database) -> None:
    use(device, app=[1, MINUTE], account=[9, DAY])
    [row] = AccountDAO(db).find("u")
    found = account_detail(db, row)
    assert {each["limit"]: each["used"] for each in found["budgets"]} == {"app": 1, "account": 1}
    assert (found["health"]["state"], found["denied"], found["username"]) == ("throttled", [], "u")


def test_health_without_a_known_end_has_none() -> None:
    row = {"status": "healthy", "status_since": None, "status_reason": None}
    held = {"limit": "app", "app_id": None, "report": None, "seconds": MINUTE, "used": 1, "allowed": 1}
    held |= {"opens_at": None, "last_call_at": None, "reason": None}
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert health(row, [held], now) == {
        "state": "throttled",
        "since": None,
        "until": None,
        "reason": "app: 1 of 1 calls used",
    }
    assert health(row, [held, held | {"seconds": DAY}], now)["state"] == "quota_out"
