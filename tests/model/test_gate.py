"""Ending runs: retries, waits, crashes, and rows that commit together with their run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from crawlfleet.core import db as db_module
from crawlfleet.core import sending
from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.transaction import Transaction
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.insights import restatements, stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model import task_insert
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.gate import FenceVerdict
from crawlfleet.model.next_move import CRASH_CAP
from crawlfleet.model.task_spec import TaskSpec
from tests.conftest import Backend
from tests.fleets import Device, add, ending, fresh, runs, task, tasks_of

DAY = date(2026, 1, 1)
RANGE = ReportRange("appsflyer", "alice", "com.a", "partners_by_date_report", DAY, date(2026, 1, 3))


def figures(n: int, day: date = DAY, **more: object) -> Figures:
    return Figures(day, media_source=f"m{n}", installs=n, revenue=Decimal("1.2345"), **more)  # type: ignore[arg-type]


def stored(db: Database) -> list[tuple[object, ...]]:
    return sorted(
        (row["date"], row["media_source"], row["installs"]) for row in stored_rows.data_rows(db, FeedFilter())
    )


def test_retries_grow_and_the_last_one_fails(device: Device, db: Database) -> None:
    [task_id] = add(db, max_retry_count=2)
    waits = []
    now = datetime.now(UTC) + timedelta(days=1)
    for _ in range(3):
        [claim] = device.claim(now=now)
        [ended] = device.end(ending(claim, "transient", message="no luck"), now=now)
        if ended.next_run_at is not None:
            waits.append((ended.next_run_at - now).total_seconds())
            now = ended.next_run_at
    assert waits == [300, 600]
    found = task(db, task_id)
    assert (found["status"], found["retry"], found["error_message"]) == ("failed", 3, "no luck")
    assert [run["status"] for run in runs(db, task_id)] == ["failed"] * 3


def test_a_vendor_may_ask_for_a_later_retry_and_a_quota_costs_no_attempt(device: Device, db: Database) -> None:
    later, quota = add(db, 2)
    first, second = device.claim()
    now = datetime.now(UTC)
    transient, waiting = device.end(
        ending(first, "transient", retry_after=5000.0), ending(second, "quota", retry_after=60.0), now=now
    )
    assert transient.next_run_at == now + timedelta(seconds=5000)
    assert waiting.next_run_at == now + timedelta(seconds=60)
    assert (task(db, later)["retry"], task(db, quota)["retry"]) == (1, 0)
    assert task(db, quota)["status"] == "pending"
    assert device.claim() == []


@pytest.mark.parametrize("kind", ["wait", "token", "proxy"])
def test_what_this_node_lacks_costs_no_attempt_and_parks_nothing(device: Device, db: Database, kind: str) -> None:
    AccountDAO(db).add(Account("appsflyer", "alice", token_env="T"))
    device.types = ("app_data",)
    [task_id] = add(db, task_type="app_data", username="alice", source="appsflyer")
    [claim] = device.claim()
    now = datetime.now(UTC)
    lost_reply = ending(claim, kind, message="not here", retry_after=60.0)
    [ended] = device.end(lost_reply, now=now)
    wait = 0 if kind == "token" else 60  # another device may have the token, and this one takes no more of its tasks
    assert ended.next_run_at is not None
    assert ended.next_run_at <= now + timedelta(seconds=wait)
    assert (ended.next_run_at == now + timedelta(seconds=60)) is (wait > 0)
    assert [each.verdict for each in device.end(lost_reply, now=now)] == [FenceVerdict.ALREADY]
    found = task(db, task_id)
    assert (found["status"], found["retry"], found["error_kind"]) == ("pending", 0, kind)
    assert AccountDAO(db).find("alice")[0]["status"] == "healthy"
    assert len(device.claim(now=now + timedelta(seconds=61))) == 1


def test_a_refused_token_parks_the_account_once_and_spends_no_attempt(device: Device, db: Database) -> None:
    AccountDAO(db).add(Account("appsflyer", "alice", token_env="T"))
    device.types = ("app_data",)
    ids = add(db, 3, task_type="app_data", username="alice", source="appsflyer")
    first, second, _ = device.claim()
    ended = device.end(ending(first, "auth", message="token refused"), ending(second, "auth", message="token refused"))
    assert [each.parked for each in ended] == [True, False]
    assert [(task(db, i)["status"], task(db, i)["retry"]) for i in ids[:2]] == [("pending", 0)] * 2
    [account] = AccountDAO(db).find("alice")
    assert (account["status"], account["status_reason"]) == ("token_expired", "token refused, asked by device d1")
    assert device.claim() == []


def test_only_runs_that_had_begun_count_as_crashes_and_the_cap_ends_the_task(device: Device, db: Database) -> None:
    [task_id] = add(db)
    device.claim()
    device.register()
    assert task(db, task_id)["crash_count"] == 0
    now = datetime.now(UTC)
    for crash in range(CRASH_CAP + 1):
        now += timedelta(minutes=2)  # it runs again later each time, at most a minute
        [claim] = device.claim(now=now)
        device.start([claim])
        device.register(now=now)
        if crash == 1:
            assert device.claim(now=now) == []
    found = task(db, task_id)
    assert (found["status"], found["crash_count"], found["retry"]) == ("failed", CRASH_CAP + 1, 0)


def test_a_released_task_keeps_its_place(device: Device, db: Database) -> None:
    first, second = add(db, 2)
    claim = device.claim(slots=1)[0]
    device.end(ending(claim, "released"))
    assert [each.task.id for each in device.claim()] == [first, second]


def test_rows_follow_ups_and_end_commit_together(device: Device, db: Database) -> None:
    [task_id] = add(db)
    [claim] = device.claim()
    extra = {"af_purchase (Event counter)": 3}
    rows = [figures(1, extra=extra), figures(2, DAY + timedelta(days=1))]
    done = ending(
        claim, summary='{"n": 2}', rows=rows, replaces=RANGE, follow_ups=[TaskSpec("next", task_data={"a": 1})]
    )
    device.end(done)
    found = task(db, task_id)
    assert (found["status"], found["task_ret"]) == ("completed", {"n": 2})
    assert runs(db, task_id)[0]["result_data"] == {"n": 2}
    [follower] = tasks_of(db, "next")
    assert (follower["parent_id"], follower["task_data"]) == (task_id, {"a": 1})
    row = next(iter(stored_rows.data_rows(db, FeedFilter())))
    assert (row["revenue"], row["clicks"], row["extra"]) == (Decimal("1.2345"), None, extra)
    assert device.end(done)[0].verdict is FenceVerdict.ALREADY
    assert len(list(stored_rows.data_rows(db, FeedFilter()))) == 2
    assert len(tasks_of(db, "next")) == 1


def test_no_run_begins_or_ends_before_it_was_assigned(device: Device, db: Database) -> None:
    """Whatever moments a slow answer makes a node take them for."""
    [task_id] = add(db)
    [claim] = device.claim()
    early = datetime.now(UTC) - timedelta(minutes=1)
    device.end(ending(claim, started_at=early, completed_at=early))
    [run] = runs(db, task_id)
    assert run["started_at"] == run["completed_at"] == run["assigned_at"]


def test_a_stale_run_stores_nothing(device: Device, db: Database) -> None:
    add(db)
    [claim] = device.claim()
    device.register()
    [ended] = device.end(ending(claim, rows=[figures(1)], replaces=RANGE, follow_ups=[TaskSpec("next")]))
    assert ended.verdict is FenceVerdict.STALE
    assert list(stored_rows.data_rows(db, FeedFilter())) == []
    assert tasks_of(db, "next") == []


@pytest.mark.parametrize(
    "bad_row",
    [Figures(DAY, clicks=2**70), Figures(DAY, campaign="\ud800"), Figures(DAY, revenue=Decimal("1e30"))],
    ids=["too big", "no UTF-8", "too many digits"],
)
def test_what_cannot_be_stored_fails_one_task_and_spares_the_others(
    device: Device, db: Database, bad_row: Figures
) -> None:
    if db.family == "sqlite" and bad_row.revenue is not None:
        pytest.skip("SQLite stores an amount of any size")
    bad, good = add(db, 2)
    first, second = device.claim()
    device.end(
        ending(first, rows=[figures(1), bad_row], replaces=RANGE),
        ending(second, rows=[figures(3)], replaces=RANGE),
    )
    assert (task(db, bad)["status"], task(db, good)["status"]) == ("failed", "completed")
    assert "refused" in str(task(db, bad)["error_message"])
    assert stored(db) == [(DAY, "m3", 3)]


def test_fetching_a_range_again_replaces_exactly_what_it_covered(device: Device, db: Database) -> None:
    add(db, 2)
    first, second = device.claim()
    outside = figures(9, DAY + timedelta(days=2))
    device.end(ending(first, rows=[figures(1), figures(2), outside], replaces=RANGE))
    narrow = ReportRange("appsflyer", "alice", "com.a", "partners_by_date_report", DAY, DAY)
    device.end(ending(second, rows=[figures(2)], replaces=narrow))
    assert stored(db) == [(DAY, "m2", 2), (outside.day, "m9", 9)]


def test_results_of_one_feed_that_end_together_are_stored_one_after_the_other(device: Device, db: Database) -> None:
    add(db, 3)
    first, second, late = device.claim()
    began = datetime.now(UTC)
    narrow = ReportRange("appsflyer", "alice", "com.a", "partners_by_date_report", DAY, DAY)
    device.end(
        ending(first, started_at=began, rows=[figures(1), figures(2, DAY + timedelta(days=1))], replaces=RANGE),
        ending(second, started_at=began + timedelta(seconds=1), rows=[figures(3)], replaces=narrow),
        ending(late, started_at=began - timedelta(seconds=1), rows=[figures(4)], replaces=RANGE),
    )
    assert stored(db) == [(DAY, "m3", 3), (DAY + timedelta(days=1), "m2", 2)]
    [changed] = restatements.restatements(db, FeedFilter(), DAY, RANGE.end)
    assert (changed.day, changed.figure, changed.before, changed.after) == (DAY, "installs", 1, 3)


def test_many_results_wait_for_the_database_as_often_as_one(
    device: Device, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets: list[int] = []
    send = Transaction.send
    monkeypatch.setattr(Transaction, "send", lambda self: (self._queue and packets.append(1), send(self))[1])
    waits = []
    for number, count in ((1, 1), (1, 1), (2, 5), (2, 5)):  # in feeds that are new, then in feeds that are known
        add(db, count)
        claimed = device.claim(slots=count)
        packets.clear()
        device.end(
            *(
                ending(each, rows=[figures(1)], replaces=replace(RANGE, app_id=f"com.{number}.{n}"))
                for n, each in enumerate(claimed)
            )
        )
        waits.append(len(packets))
    assert waits[:2] == waits[2:]
    assert waits[0] == waits[1] + 1
    assert len(stored(db)) == 6


def test_an_older_fetch_that_comes_late_leaves_newer_days_alone(device: Device, db: Database) -> None:
    add(db, 2)
    old, new = device.claim()
    began = datetime.now(UTC)
    narrow = ReportRange("appsflyer", "alice", "com.a", "partners_by_date_report", DAY, DAY)
    device.end(ending(new, started_at=began + timedelta(seconds=5), rows=[], replaces=narrow))
    device.end(ending(old, started_at=began, rows=[figures(1), figures(2, DAY + timedelta(days=1))], replaces=RANGE))
    assert stored(db) == [(DAY + timedelta(days=1), "m2", 2)]


def test_null_is_a_dimension_of_its_own_and_twins_are_both_kept(device: Device, db: Database) -> None:
    add(db)
    [claim] = device.claim()
    rows = [Figures(DAY, campaign=name, installs=1) for name in (None, "None", "", "none", None)]
    device.end(ending(claim, rows=rows, replaces=RANGE))
    assert sorted(str(row["campaign"]) for row in stored_rows.data_rows(db, FeedFilter())) == [
        "",
        "None",
        "None",
        "None",
        "none",
    ]


def test_an_app_that_vanished_is_marked_gone_and_comes_back(device: Device, db: Database) -> None:
    scope = AppList("appsflyer", "alice")
    for names in (["a", "b"], ["b"], ["a", "b"]):
        add(db)
        [claim] = device.claim()
        device.end(ending(claim, rows=[App(name, f"App {name} 应用") for name in names], replaces=scope))
        found = {row["app_id"]: row["app_status"] for row in stored_rows.apps(db, FeedFilter())}
        assert found == {name: "active" if name in names else "gone" for name in ("a", "b")}


def test_the_view_for_other_tools_shows_names(device: Device, db: Database) -> None:
    add(db)
    [claim] = device.claim()
    device.end(ending(claim, rows=[figures(4)], replaces=RANGE))
    with db.read() as connection:
        row = connection.execute(sa.text("SELECT source, username, app_id, report, installs FROM v_app_data")).one()
    assert tuple(row) == ("appsflyer", "alice", "com.a", "partners_by_date_report", 4)


@pytest.mark.parametrize("count", [2, 5, 50])
def test_no_task_waits_for_the_lock_of_another(backend: Backend, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Also in tables of a few rows, which a database may rather read whole."""
    if backend.server is None:
        pytest.skip("SQLite locks the file")
    for module in (db_module, sending):
        monkeypatch.setattr(module, "LOCK_WAIT_SECONDS", 1)
    monkeypatch.setattr(db_module, "ATTEMPTS", 1)
    db = fresh(backend.url)
    device = Device(db)
    device.register()
    add(db, count)
    held, other, *more = device.claim(slots=count)
    add(db, 1)
    with db.plain.begin() as holder:
        for table, number in (("cl_crawl_task", held.task.id), ("cl_task_assignment", held.assignment_id)):
            holder.execute(sa.text(f"SELECT id FROM {table} WHERE id = :id FOR UPDATE"), {"id": number}).all()
        device.start([other, *more])
        device.end(*(ending(each) for each in [other, *more]))
        assert len(device.claim(slots=1)) == 1
    device.end(ending(held))
    db.close()


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
def test_a_follow_up_that_another_node_adds_at_the_same_moment_is_left_to_it(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four nodes whose results added the same follow-up failed one task in ten for good: duplicate key."""
    db = fresh(backend.url)
    device = Device(db)
    device.register()
    [parent] = add(db)
    [claim] = device.claim()
    look, others = task_insert._place, []

    def look_and_be_late(*args: Any) -> Any:
        """Another node opens one of the keys after this one has looked."""
        found = look(*args)
        monkeypatch.setattr(task_insert, "_place", look)
        others.extend(CrawlTaskDAO(db).add([TaskSpec("noop", unique_key="shared")]))
        return found

    monkeypatch.setattr(task_insert, "_place", look_and_be_late)
    specs = [TaskSpec("noop", unique_key="shared"), TaskSpec("noop"), TaskSpec("noop", unique_key="own")]
    [ended] = device.end(ending(claim, follow_ups=specs))
    assert (ended.move, task(db, parent)["status"]) == ("finish", "completed")
    children = [each for each in tasks_of(db) if each["parent_id"] == parent]
    assert sorted(str(each["unique_key"]) for each in children) == ["None", "own"]
    [held] = [each for each in tasks_of(db) if each["open_key"] == "shared"]
    assert held["id"] == others[0]
    db.close()
