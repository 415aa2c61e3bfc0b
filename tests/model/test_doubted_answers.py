"""Answers that are more often a mistake than the truth are not stored; which of two fetches counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.insights import stored_rows
from crawlfleet.insights.coverage import coverage, gaps
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.coverage_state import DayState
from crawlfleet.model.gate import Ended
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sources.contract import Report
from tests.fleets import Device, add, ending, task, tasks_of

DAYS = [date(2026, 1, 1) + timedelta(n) for n in range(4)]
RANGE = ReportRange("vendor", "alice", "com.a", "r", DAYS[0], DAYS[2])
NOON = datetime(2026, 2, 1, 12, tzinfo=UTC)
OWNER = FeedFilter("vendor", "alice")


@pytest.fixture(autouse=True)
def account(db: Database, device: Device) -> None:
    AccountDAO(db).add(Account("vendor", "alice", token_env="T"))
    device.types = ("app_data", "user_apps")


def fetch(device: Device, scope: ReportRange, counts: Sequence[int], at: datetime = NOON) -> dict[str, int]:
    """One fetch of successive days from its first one with so many rows each; what its summary tells."""
    rows = [Figures(scope.start + timedelta(n), campaign=f"{at} {i}") for n, c in enumerate(counts) for i in range(c)]
    return end_of(device, scope, rows, at)


def end_of(device: Device, scope: ReportRange | AppList, rows: Sequence[Figures | App], at: datetime) -> dict[str, int]:
    [task_id] = add(device.db, task_type="app_data", **names_of(scope))
    [claim] = device.claim()
    device.end(ending(claim, replaces=scope, rows=rows, started_at=at))
    assert task(device.db, task_id)["status"] == "completed"
    return summary_of(device.db, task_id)


def names_of(scope: ReportRange | AppList) -> dict[str, object]:
    names: dict[str, object] = {"source": scope.source, "username": scope.username}
    return names | ({"app_id": scope.app_id, "report": scope.report} if isinstance(scope, ReportRange) else {})


def summary_of(db: Database, task_id: int) -> dict[str, int]:
    told = task(db, task_id)["task_ret"]
    return json.loads(told) if isinstance(told, str) else told or {}  # type: ignore[return-value]


def rows_of(db: Database) -> dict[date, int]:
    found = [row["date"] for row in stored_rows.data_rows(db, FeedFilter())]
    return {day: found.count(day) for day in found}


def states(db: Database) -> list[DayState]:
    [found] = coverage(db, FeedFilter(), DAYS[0], DAYS[3], lambda _source: {"r": Report("r", ())}, NOON)
    return [day.state for day in found.days]


def test_an_answer_without_rows_for_days_that_had_some_changes_nothing(device: Device, db: Database) -> None:
    """Rows were removed, and the days counted as fetched, when a vendor answered a header and nothing else."""
    fetch(device, RANGE, [2, 0, 1])
    assert fetch(device, replace(RANGE, end=DAYS[3]), [], NOON + timedelta(1)) == {"kept_suspect_days": 2}
    assert rows_of(db) == {DAYS[0]: 2, DAYS[2]: 1}
    assert states(db) == [DayState.SUSPECT, DayState.FINAL, DayState.SUSPECT, DayState.MISSING]
    [first, *_] = gaps(db, FeedFilter(), DAYS[0], DAYS[3], lambda _source: {"r": Report("r", ())}, NOON)
    assert (first.start, first.state) == (DAYS[0], DayState.SUSPECT)
    assert "--believe-empty" in first.as_dict()["why"]
    fetch(device, RANGE, [2, 1, 1], NOON + timedelta(2))
    assert states(db)[:3] == [DayState.FINAL] * 3


def test_a_person_may_have_an_answer_without_rows_believed(device: Device, db: Database) -> None:
    fetch(device, RANGE, [2, 0, 1])
    fetch(device, RANGE, [])
    assert fetch(device, replace(RANGE, believe_empty=True), [], NOON + timedelta(1)) == {}
    assert rows_of(db) == {}
    assert states(db)[:3] == [DayState.FINAL] * 3


def test_a_day_with_many_rows_does_not_vanish_from_a_report_that_has_others(device: Device, db: Database) -> None:
    """A few rows of a day may go when a vendor corrects its figures; ten do not go at once."""
    fetch(device, RANGE, [10, 9, 3])
    assert fetch(device, RANGE, [0, 0, 4], NOON + timedelta(1)) == {"kept_suspect_days": 1}
    assert rows_of(db) == {DAYS[0]: 10, DAYS[2]: 4}
    assert states(db)[:3] == [DayState.SUSPECT, DayState.FINAL, DayState.FINAL]


def test_rows_of_thousands_are_confirmed_day_by_day(device: Device, db: Database) -> None:
    fetch(device, RANGE, [900, 20, 900])
    assert fetch(device, RANGE, [700, 0, 800], NOON + timedelta(1)) == {"kept_suspect_days": 1}
    assert rows_of(db) == {DAYS[0]: 700, DAYS[1]: 20, DAYS[2]: 800}


def test_a_fetch_that_begins_after_another_ended_is_the_later_one_whatever_the_clock_says(
    device: Device, db: Database
) -> None:
    """A clock that was two hours ahead made every fetch of the next two hours vanish in silence."""
    fetch(device, RANGE, [1, 1, 1], NOON + timedelta(hours=2))
    assert fetch(device, RANGE, [2, 2, 2], NOON) == {}
    assert rows_of(db) == dict.fromkeys(DAYS[:3], 2)
    end_of(device, AppList("vendor", "alice"), [App("a")], NOON + timedelta(hours=2))
    assert end_of(device, AppList("vendor", "alice"), [App("a"), App("b")], NOON) == {}
    assert [app["app_id"] for app in stored_rows.apps(db, FeedFilter())] == ["a", "b"]


def test_of_fetches_that_overlap_the_one_claimed_later_counts_and_the_other_says_so(
    device: Device, db: Database
) -> None:
    """What was dropped said `completed`, and no more."""
    first, _, third = add(db, 3, "app_data", **names_of(RANGE))
    [slow] = device.claim(slots=1)
    [quick] = device.claim(slots=1)
    device.end(ending(quick, replaces=RANGE, rows=[Figures(DAYS[0], clicks=1)], started_at=NOON))
    [latest] = device.claim(slots=1)
    earlier = NOON - timedelta(hours=3)  # the clock is set back
    device.end(ending(latest, replaces=RANGE, rows=[Figures(DAYS[0], clicks=2)], started_at=earlier))
    device.end(ending(slow, replaces=RANGE, rows=[Figures(DAYS[0], clicks=3)], started_at=NOON))
    assert [row["clicks"] for row in stored_rows.data_rows(db, FeedFilter())] == [2]
    assert [summary_of(db, each).get("kept_newer") for each in (first, third)] == [3, None]


def list_apps(device: Device, names: Sequence[str], by_hand: bool = False) -> Ended:
    scope = AppList("vendor", "alice", by_hand)
    add(device.db, task_type="user_apps", **names_of(scope))
    claim = device.claim()[0]
    [ended] = device.end(ending(claim, replaces=scope, rows=[App(name) for name in names]))
    return ended


def active(db: Database) -> list[str]:
    return [row["app_id"] for row in stored_rows.apps(db, FeedFilter()) if row["app_status"] == "active"]


def test_a_list_that_lacks_most_known_apps_parks_the_account_and_changes_nothing(device: Device, db: Database) -> None:
    """The token of another account made fifteen foreign apps known and the account's own ones gone, without a word."""
    accounts = AccountDAO(db)
    known = ["a", "b", "c", "d", "e"]
    list_apps(device, known)
    assert not list_apps(device, known[2:]).parked
    assert active(db) == known[2:]
    list_apps(device, known)
    ended = list_apps(device, ["x", "y", "z", "a", "b"])
    assert ended.parked
    assert active(db) == known
    [account] = accounts.find("alice")
    assert account["status"] == "parked"
    assert "3 of the 5 known apps are missing from the vendor's list of 5" in account["status_reason"]
    assert "accounts resume alice --accept-apps" in account["status_reason"]
    assert device.claim() == []
    accounts.resume("vendor", "alice", accept_apps=True)
    [again] = device.claim()
    [ended] = device.end(ending(again, replaces=AppList("vendor", "alice"), rows=[App("x"), App("y")]))
    assert not ended.parked
    assert active(db) == ["x", "y"]


@pytest.mark.parametrize("known", [["a"], ["a", "b"]])
@pytest.mark.parametrize("listed", [[], ["x", "y", "z"]])
def test_an_account_of_few_apps_is_not_replaced_by_another_one(
    device: Device, db: Database, known: list[str], listed: list[str]
) -> None:
    """Lists were doubted only where three apps or more vanished; most advertisers have one or two."""
    list_apps(device, known)
    assert list_apps(device, listed).parked
    assert active(db) == known


def test_an_empty_list_is_doubted_as_well_but_not_the_apps_that_a_person_names(device: Device, db: Database) -> None:
    list_apps(device, ["a", "b", "c"])
    assert not list_apps(device, ["x"], by_hand=True).parked
    list_apps(device, ["a", "b", "x"])
    assert list_apps(device, []).parked
    assert active(db) == ["a", "b", "x"]


@pytest.mark.parametrize("listed", [["x", "y", "z"], ["a", "b", "z"]])
def test_a_task_for_all_apps_queues_none_of_a_list_that_lacks_most_known_apps(
    device: Device, db: Database, listed: list[str]
) -> None:
    list_apps(device, ["a", "b", "c"])
    [task_id] = add(db, task_type="app_data", source="vendor", username="alice", report="r")
    [claim] = device.claim()
    specs = [TaskSpec("app_data", "alice", "vendor", app_id, *DAYS[:2], "r") for app_id in listed]
    [ended] = device.end(ending(claim, follow_ups=specs))
    is_foreign = "a" not in listed
    assert ended.parked == is_foreign
    assert task(db, task_id)["status"] == ("pending" if is_foreign else "completed")
    assert len(tasks_of(db, "app_data")) == (1 if is_foreign else 4)
