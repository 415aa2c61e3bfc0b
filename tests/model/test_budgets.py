"""Budgets: what a claim holds, what the vendor's refusals teach, and that nothing is held twice or forgotten."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.sql import utc
from crawlfleet.core.transaction import Transaction
from crawlfleet.insights.budgets import budgets
from crawlfleet.model import rescue
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import DAY_MARGIN_SECONDS, LONGEST_WAY_SHARE, MARGIN_SHARE, Charge, Cost
from crawlfleet.model.claim_strategy import Strategy
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.lane_budgets import ask_lanes_of_tasks
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, ending, task

MINUTE, DAY = 60.0, 86_400.0
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MARGIN = timedelta(seconds=MARGIN_SHARE * MINUTE)
WAY = timedelta(seconds=LONGEST_WAY_SHARE * MINUTE)


def cost(spec: TaskSpec) -> Cost:
    """Tests say in `task_data` what a task needs: {limit: [calls, seconds]}, {"calls": N}."""
    given = dict(spec.task_data or {})
    most = given.pop("calls", 1)
    charges = tuple(
        Charge("vendor", name, calls, seconds, spec.username or "", "" if name == "account" else spec.app_id or "")
        for name, (calls, seconds) in given.items()
    )
    return Cost(charges, most)


DEFAULTS = TaskDefaults(cost_of=cost)
HOUR = timedelta(hours=1)
tick = (timedelta(milliseconds=n) for n in itertools.count())


@pytest.fixture
def device(db: Database, strategy: Strategy) -> Device:
    made = Device(db, strategy=strategy, types=("fetch",), defaults=DEFAULTS)
    made.register(now=NOON)
    return made


def add(db: Database, count: int = 1, app_id: str = "a", now: datetime = NOON, **needs: object) -> list[int]:
    """Each a moment more urgent than the next, since those that are equal come in any order."""
    specs = [
        TaskSpec("fetch", source="vendor", username="u", app_id=app_id, task_data=needs, run_at=now - HOUR + next(tick))
        for _ in range(count)
    ]
    return CrawlTaskDAO(db).add(specs, DEFAULTS, now)


def ids(claims: object) -> list[int]:
    return [claim.task.id for claim in claims]  # type: ignore[attr-defined]


def held(db: Database) -> int:
    with db.read() as connection:
        return connection.execute(sa.text("SELECT COUNT(*) FROM cl_budget_call WHERE called_at IS NULL")).scalar_one()


def budget(db: Database) -> dict[str, object]:
    with db.read() as connection:
        return dict(connection.execute(sa.text("SELECT * FROM cl_budget")).mappings().one())


def test_a_window_is_never_overdrawn_and_fully_used(device: Device, db: Database) -> None:
    tasks = add(db, 5, app=[2, MINUTE])
    first = device.claim(now=NOON)
    assert ids(first) == tasks[:2]
    assert device.claim(now=NOON) == []
    sent = [NOON + timedelta(seconds=n) for n in (1, 4)]
    for claim, moment in zip(first, sent, strict=True):
        device.end(ending(claim, calls=[moment]), now=NOON + timedelta(seconds=10))
    assert device.claim(now=sent[0] + timedelta(seconds=MINUTE)) == []
    reopens = sent[0] + timedelta(seconds=MINUTE) + MARGIN
    assert ids(device.claim(now=reopens)) == tasks[2:3]
    assert ids(device.claim(now=sent[1] + timedelta(seconds=MINUTE) + MARGIN)) == tasks[3:4]


def test_calls_that_were_not_sent_come_back_at_once(device: Device, db: Database) -> None:
    tasks = add(db, 2, app=[1, MINUTE])
    [claim] = device.claim(now=NOON)
    device.end(ending(claim, "transient", calls=[]), now=NOON)
    assert held(db) == 0
    assert ids(device.claim(now=NOON)) == tasks[1:]


def test_a_booked_call_lets_the_next_task_be_claimed_while_the_run_goes_on(device: Device, db: Database) -> None:
    tasks = add(db, 2, app=[1, MINUTE])
    [claim] = device.claim(now=NOON)
    device.book(claim, [NOON], now=NOON)
    assert device.claim(now=NOON + timedelta(seconds=MINUTE)) == []
    assert ids(device.claim(now=NOON + timedelta(seconds=MINUTE) + MARGIN)) == tasks[1:]


def test_a_task_may_be_claimed_ahead_and_is_told_until_when_to_wait(device: Device, db: Database) -> None:
    tasks = add(db, 2, app=[1, MINUTE])
    [claim] = device.claim(now=NOON)
    device.end(ending(claim, calls=[NOON]), now=NOON)
    reopens = NOON + timedelta(seconds=MINUTE) + MARGIN
    assert device.claim(now=reopens - timedelta(seconds=2), lead_seconds=1) == []
    [ahead] = device.claim(now=reopens - timedelta(seconds=1), lead_seconds=1)
    assert ahead.task.id == tasks[1]
    assert ahead.calls is not None
    assert ahead.calls[0].not_before == reopens


def test_a_day_is_the_utc_calendar_day_and_its_calls_are_not_sent_at_its_very_end(device: Device, db: Database) -> None:
    evening = NOON.replace(hour=23, minute=59)
    midnight = NOON.replace(hour=0) + timedelta(days=1)
    tasks = add(db, 4, now=evening, app=[2, DAY])
    first = device.claim(now=evening)
    assert ids(first) == tasks[:2]
    assert first[0].calls is not None
    assert first[0].calls[0].not_after == midnight - timedelta(seconds=2)
    device.end(ending(first[0], calls=[evening]), ending(first[1], "unpaid", calls=[]), now=evening)
    assert device.claim(now=midnight - timedelta(seconds=1)) == []  # one call is left, but its day is not
    again = device.claim(now=midnight)
    assert ids(again) == [tasks[1]]
    device.end(ending(again[0], calls=[midnight]), now=midnight)
    after = midnight + timedelta(seconds=DAY_MARGIN_SECONDS)
    assert ids(device.claim(now=after)) == [tasks[2]]
    assert device.claim(now=after) == []


def test_every_budget_of_a_task_must_have_room(device: Device, db: Database) -> None:
    narrow = {"app": [2, DAY], "account": [3, DAY]}
    first = add(db, 3, app_id="one", **narrow)
    second = add(db, 3, app_id="two", **narrow)
    claimed = device.claim(slots=10, now=NOON)
    assert ids(claimed) == [*first[:2], second[0]]
    device.end(*(ending(claim, "transient", calls=[]) for claim in claimed), now=NOON)
    assert held(db) == 0


def test_a_task_holds_all_the_calls_that_it_may_make(device: Device, db: Database) -> None:
    tasks = add(db, 3, app=[5, MINUTE], calls=2)
    claimed = device.claim(now=NOON)
    assert ids(claimed) == tasks[:2]
    device.end(ending(claimed[0], calls=[NOON]), now=NOON)  # one of its two
    assert ids(device.claim(now=NOON)) == tasks[2:]


def test_a_run_that_needs_more_calls_is_queued_for_them_until_no_quota_allows_it(device: Device, db: Database) -> None:
    [task_id] = add(db, app=[3, MINUTE], calls=1)
    for wanted, now in ((2, NOON), (4, NOON + timedelta(minutes=2))):
        [claim] = device.claim(now=now)
        calls = [now] * len(claim.calls or ())
        [ended] = device.end(ending(claim, "unpaid", calls=calls, calls_wanted=wanted), now=now)
        assert (task(db, task_id)["status"], task(db, task_id)["retry"], ended.move) == ("pending", 0, "release")
    [claim] = device.claim(now=NOON + timedelta(minutes=4))
    assert len(claim.calls or ()) == 3  # all that the vendor allows in one window
    device.end(ending(claim, "unpaid", calls=[NOON] * 3, calls_wanted=4), now=NOON + timedelta(minutes=4))
    found = task(db, task_id)
    assert found["status"] == "failed"
    assert "needs more than 3 calls at once" in str(found["error_message"])


def test_calls_of_a_dead_device_count_as_sent_at_the_end_of_its_lease(device: Device, db: Database) -> None:
    tasks = add(db, 2, app=[1, MINUTE])
    other = Device(db, "d2", strategy=device.strategy, types=("fetch",), defaults=DEFAULTS)
    assert ids(device.claim(now=NOON)) == tasks[:1]
    died = NOON + timedelta(seconds=300)
    other.register(now=died)
    assert DeviceDAO(db).mark_silent_offline(300, died) == [("d1", 1)]
    assert other.claim(now=died + timedelta(seconds=MINUTE) + WAY) == []  # one may have been on its way
    assert ids(other.claim(now=died + timedelta(seconds=MINUTE) + WAY + MARGIN)) == tasks[:1]


def test_a_call_that_was_on_its_way_when_its_node_died_counts_from_its_latest_arrival(
    device: Device, db: Database
) -> None:
    """Killed with its call on the way and registered again at once: the vendor saw two calls in one window."""
    tasks = add(db, 2, app=[1, 20.0])
    device.claim(now=NOON)
    device.register(now=NOON + timedelta(milliseconds=50))
    arrived = NOON + timedelta(milliseconds=950)  # sent at once, and long on its way
    assert device.claim(now=arrived + timedelta(seconds=20)) == []
    assert ids(device.claim(now=arrived + timedelta(seconds=20.2))) == tasks[:1]


def test_a_call_that_was_seen_after_its_lease_had_ended_counts_anew(device: Device, db: Database) -> None:
    """A machine slept with its call on the way: it counted from the end of the lease, and was free when it arrived."""
    tasks = add(db, 2, app=[1, MINUTE])
    [claim] = device.claim(now=NOON)
    other = Device(db, "d2", strategy=device.strategy, types=("fetch",), defaults=DEFAULTS)
    rescue.cancel(db, tasks[:1])
    DeviceDAO(db).mark_silent_offline(300, NOON + timedelta(seconds=300))
    woken = NOON + timedelta(hours=1)
    other.register(now=woken)
    [free] = other.claim(now=woken)  # the lost call does not count any more
    other.end(ending(free, "released", calls=[]), now=woken)
    device.register(now=woken)
    device.book(claim, [woken], now=woken, is_over=True)
    assert other.claim(now=woken + timedelta(seconds=MINUTE)) == []
    assert ids(other.claim(now=woken + timedelta(seconds=MINUTE) + MARGIN)) == tasks[1:]


def test_a_late_node_tells_when_its_lost_calls_were_really_sent(device: Device, db: Database) -> None:
    add(db, 2, app=[1, MINUTE])
    [claim] = device.claim(now=NOON)
    late = NOON + timedelta(seconds=300)
    device.register(now=late)  # expires the run, whose call counts as sent now
    assert device.claim(now=late + timedelta(seconds=MINUTE)) == []
    device.end(ending(claim, calls=[NOON]), now=late)  # stale, but its call was sent long ago
    assert len(device.claim(now=late)) == 1


def test_a_cancelled_run_keeps_its_call_until_its_node_tells(device: Device, db: Database) -> None:
    first, second = add(db, 2, app=[1, MINUTE])
    [claim] = device.claim(now=NOON)
    rescue.cancel(db, [first])
    assert device.claim(now=NOON + timedelta(hours=1)) == []  # its body may not have noticed yet
    device.book(claim, [], now=NOON, is_over=True)
    assert ids(device.claim(now=NOON)) == [second]


def test_a_cancelled_run_of_a_device_that_died_gives_its_call_back_after_the_lease(
    device: Device, db: Database
) -> None:
    first, second = add(db, 2, app=[1, MINUTE])
    device.claim(now=NOON)
    rescue.cancel(db, [first])
    died = NOON + timedelta(seconds=300)
    device.register(now=died)
    assert device.claim(now=died + timedelta(seconds=MINUTE) + WAY) == []
    assert ids(device.claim(now=died + timedelta(seconds=MINUTE) + WAY + MARGIN)) == [second]


def test_a_device_that_was_taken_over_may_send_until_its_lease_ends(device: Device, db: Database) -> None:
    add(db, 2, app=[1, MINUTE])
    device.claim(now=NOON)
    device.process = {"hostname": "elsewhere"}
    device.register(now=NOON + timedelta(seconds=10))
    lease_end = NOON + timedelta(seconds=300)
    assert device.claim(now=lease_end + timedelta(seconds=MINUTE) + WAY) == []
    assert len(device.claim(now=lease_end + timedelta(seconds=MINUTE) + WAY + MARGIN)) == 1


def test_claims_whose_reply_was_lost_give_their_calls_back(device: Device, db: Database) -> None:
    tasks = add(db, 1, app=[1, MINUTE])
    assert ids(device.claim(now=NOON)) == tasks
    assert device.reconcile([], now=NOON) == (1, set())
    assert held(db) == 0
    assert ids(device.claim(now=NOON)) == tasks


def test_a_refusal_closes_the_budget_longer_each_time_and_costs_no_attempt(device: Device, db: Database) -> None:
    [task_id] = add(db, 1, app=[1, MINUTE])
    now = NOON
    for waited in (60, 120, 240):
        [claim] = device.claim(now=now)
        [ended] = device.end(ending(claim, "quota", calls=[now], message="Limit reached"), now=now)
        assert ended.next_run_at == now + timedelta(seconds=waited)
        assert (task(db, task_id)["status"], task(db, task_id)["retry"]) == ("pending", 0)
        assert device.claim(now=now + timedelta(seconds=waited - 1)) == []
        now += timedelta(seconds=waited + 1)
    assert budget(db)["closed_reason"] == "Limit reached"
    [claim] = device.claim(now=now)
    device.end(ending(claim, calls=[now]), now=now)
    assert budget(db)["refusals"] == 0


def test_a_daily_refusal_closes_until_the_utc_day_ends_and_a_named_moment_is_kept(device: Device, db: Database) -> None:
    add(db, 2, app=[5, DAY])
    first, second = device.claim(now=NOON)
    midnight = NOON.replace(hour=0) + timedelta(days=1)
    [ended] = device.end(ending(first, "quota", calls=[NOON], quota_daily=True), now=NOON)
    assert ended.next_run_at == midnight + timedelta(seconds=1)
    [ended] = device.end(ending(second, "quota", calls=[NOON], retry_after=90_000), now=NOON)
    assert ended.next_run_at == NOON + timedelta(seconds=90_000)


def test_a_refusal_before_the_declared_number_teaches_a_stricter_limit(device: Device, db: Database) -> None:
    add(db, 6, app=[24, DAY])
    claimed = device.claim(slots=2, now=NOON)
    device.end(ending(claimed[0], calls=[NOON]), ending(claimed[1], "quota", calls=[NOON]), now=NOON)
    assert budget(db)["learned_calls"] == 1
    tomorrow = NOON + timedelta(days=1)
    [claim] = device.claim(slots=5, now=tomorrow)
    device.end(ending(claim, calls=[tomorrow]), now=tomorrow)
    next_week = NOON + timedelta(days=8)
    assert len(device.claim(slots=5, now=next_week)) == 4  # put to the test again


def call(device: Device, now: datetime, kind: str = "ok") -> datetime:
    """Claim and end the next task as soon as it is allowed; when that was."""
    with device.db.read() as connection:
        open_at = utc(connection.execute(sa.text("SELECT open_at FROM cl_budget")).scalar_one())
    assert open_at is not None
    moment = max(now, open_at)
    assert moment == now or device.claim(now=moment - timedelta(milliseconds=1)) == []
    [claim] = device.claim(now=moment)
    device.end(ending(claim, kind, calls=[moment]), now=moment)
    return moment


def test_a_refusal_at_the_declared_pace_widens_the_window(device: Device, db: Database) -> None:
    """The number of calls cannot shrink below one, so every other call was refused for ever."""
    add(db, 20, app=[1, MINUTE])
    now, gaps = call(device, NOON), []
    for _ in range(3):  # one too soon, one after the pause, one at the new pace
        refused = call(device, now, "quota")
        gaps.append((refused - now).total_seconds())
        now = call(device, refused)
        assert (now - refused).total_seconds() >= gaps[-1]
    assert gaps == pytest.approx([60, 65, 70], abs=0.05)
    assert budget(db)["learned_seconds"] == pytest.approx(75)
    [facts] = budgets(db, now=now)
    assert (facts["seconds"], facts["learned_seconds"], facts["allowed"]) == (pytest.approx(75), pytest.approx(75), 1)
    week = now + timedelta(days=7, seconds=1)
    assert (call(device, call(device, week)) - week).total_seconds() == pytest.approx(60, abs=0.05)


def test_a_refusal_long_after_the_last_call_does_not_widen_the_window(device: Device, db: Database) -> None:
    """Somebody else spends the account's quota as well: our own pace is not to blame."""
    add(db, 3, app=[1, MINUTE])
    now = call(device, NOON)
    call(device, now + timedelta(seconds=95), "quota")
    assert budget(db)["learned_seconds"] is None


def test_a_window_never_grows_beyond_twice_its_length(device: Device, db: Database) -> None:
    add(db, 40, app=[1, MINUTE])
    now = call(device, NOON)
    for _ in range(15):
        now = call(device, call(device, now, "quota"))
    assert budget(db)["learned_seconds"] == 120


def test_a_window_of_several_calls_widens_only_when_all_of_them_were_made(device: Device, db: Database) -> None:
    add(db, 9, app=[2, MINUTE])
    first, second, third = NOON, NOON + timedelta(seconds=10), NOON + timedelta(seconds=61)
    for moment, kind in ((first, "ok"), (second, "ok"), (third, "quota")):
        [claim] = device.claim(slots=1, now=moment)
        device.end(ending(claim, kind, calls=[moment]), now=moment)
    assert (budget(db)["learned_seconds"], budget(db)["learned_calls"]) == (65, None)


def test_a_quota_error_names_the_budget_that_it_closes(device: Device, db: Database) -> None:
    add(db, 1, app_id="one", app=[5, MINUTE], account=[9, DAY])
    free = add(db, 1, app_id="two", app=[5, MINUTE], account=[9, DAY])
    claim, other = device.claim(now=NOON)
    device.end(ending(other, "transient", calls=[]), now=NOON)
    device.end(ending(claim, "quota", calls=[NOON], quota_scope="app"), now=NOON)
    later = NOON + timedelta(hours=1)
    assert ids(device.claim(now=NOON + timedelta(seconds=1))) == []  # `two` waits for its retry
    assert set(ids(device.claim(now=later))) >= set(free)
    add(db, 1, app_id="three", now=later, app=[5, MINUTE], account=[9, DAY])
    [claim] = device.claim(now=later)
    device.end(ending(claim, "quota", calls=[later], quota_scope="account"), now=later)
    add(db, 1, app_id="four", now=later, app=[5, MINUTE], account=[9, DAY])
    assert device.claim(now=later + timedelta(minutes=10)) == []


def test_without_a_known_number_only_refusals_close_a_budget(device: Device, db: Database) -> None:
    add(db, 30, app=[None, MINUTE])
    claimed = device.claim(slots=20, now=NOON)
    assert len(claimed) == 20
    assert {claim.calls for claim in claimed} == {None}
    device.end(*(ending(claim) for claim in claimed[1:]), ending(claimed[0], "quota"), now=NOON)
    assert device.claim(slots=20, now=NOON + timedelta(seconds=30)) == []
    assert len(device.claim(slots=20, now=NOON + timedelta(seconds=61))) == 11


def test_a_closed_lane_keeps_nobody_waiting_and_its_tasks_keep_their_order(device: Device, db: Database) -> None:
    tasks = add(db, 3, app_id="narrow", app=[1, MINUTE])
    [free] = add(db, 1, app_id="wide", app=[9, MINUTE])
    assert set(ids(device.claim(now=NOON))) == {tasks[0], free}
    urgent = CrawlTaskDAO(db).add(
        [TaskSpec("fetch", source="vendor", username="u", app_id="narrow", task_data={"app": [1, MINUTE]}, priority=9)],
        DEFAULTS,
        NOON,
    )
    device.register(now=NOON)
    later = NOON + timedelta(minutes=5)
    assert ids(device.claim(now=later))[:1] == urgent


def test_a_parked_account_closes_its_lanes_and_resuming_opens_them(device: Device, db: Database) -> None:
    AccountDAO(db).add(Account("vendor", "u", token_env="T"))
    tasks = add(db, 2, app=[5, MINUTE])
    AccountDAO(db).park("vendor", "u", "holidays")
    more = add(db, 1, app_id="new", app=[5, MINUTE])
    assert device.claim(now=NOON) == []
    AccountDAO(db).resume("vendor", "u")
    assert sorted(ids(device.claim(now=NOON))) == sorted([*tasks, *more])


def test_the_settings_of_a_device_prevail_over_stored_limits(device: Device, db: Database) -> None:
    add(db, 5, app=[1, MINUTE])
    device.limit_of = lambda source, name: (3, MINUTE)
    assert len(device.claim(now=NOON)) == 3
    assert budget(db)["calls"] == 3


def test_two_devices_never_hold_more_than_there_is(device: Device, db: Database) -> None:
    other = Device(db, "d2", strategy=device.strategy, types=("fetch",), defaults=DEFAULTS)
    other.register(now=NOON)
    for app in range(6):
        add(db, 4, app_id=f"app{app}", app=[2, DAY], account=[7, DAY])

    claimed: list[int] = []
    barrier = threading.Barrier(2)
    failures: list[BaseException] = []

    def work(each: Device) -> None:
        try:
            barrier.wait()
            for _ in range(12):
                claimed.extend(ids(each.claim(slots=2, now=NOON)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in (device, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(claimed) == len(set(claimed)) == 7
    with db.read() as connection:
        counts = connection.execute(
            sa.text(
                "SELECT b.limit_name, b.calls, COUNT(*) FROM cl_budget b JOIN cl_budget_call c ON c.budget_id = b.id"
                " GROUP BY b.id, b.limit_name, b.calls"
            )
        ).all()
    assert all(used <= allowed for _, allowed, used in counts)


def test_many_lanes_of_one_budget_share_it_by_urgency(device: Device, db: Database) -> None:
    tasks = [add(db, 1, app_id=f"app{n:02}", now=NOON - timedelta(minutes=n), account=[3, DAY])[0] for n in range(20)]
    assert ids(device.claim(slots=10, now=NOON)) == tasks[::-1][:3]
    assert device.claim(slots=10, now=NOON) == []


def test_a_task_that_must_change_its_lane_keeps_its_fields(device: Device, db: Database) -> None:
    [task_id] = add(db, app=[9, MINUTE])
    before = task(db, task_id)
    [claim] = device.claim(now=NOON)
    device.end(ending(claim, "unpaid", calls=[], calls_wanted=3), now=NOON)
    after = task(db, task_id)
    assert after["lane_id"] != before["lane_id"]
    same = ("task_type", "source", "username", "app_id", "task_data", "order_key", "priority")
    assert [after[name] for name in same] == [before[name] for name in same]
    [claim] = device.claim(now=NOON)
    assert len(claim.calls or ()) == 3


def test_a_type_without_a_cost_may_not_call_its_source(device: Device, db: Database) -> None:
    device.defaults = replace(DEFAULTS, cost_of=lambda spec: Cost(cost(spec).charges, 0))
    [task_id] = CrawlTaskDAO(db).add(
        [TaskSpec("fetch", source="vendor", username="u", task_data={"app": [None, MINUTE]})], device.defaults, NOON
    )
    [claim] = device.claim(now=NOON)
    assert claim.calls == ()
    device.end(ending(claim, "unpaid", calls=[], calls_wanted=1), now=NOON)
    assert "declares no cost" in str(task(db, task_id)["error_message"])


def test_a_call_that_neither_opens_nor_closes_its_budget_leaves_the_other_lanes_alone(
    device: Device, db: Database
) -> None:
    for app in range(20):
        add(db, 2, app_id=f"app{app}", app=[9, DAY], account=[100, DAY])
    [claim] = device.claim(slots=1, now=NOON)
    marked = sa.text("UPDATE cl_lane SET head_key = -1")
    db.write(lambda connection: connection.execute(marked).rowcount)
    device.end(ending(claim, calls=[NOON]), now=NOON)
    with db.read() as connection:
        heads = connection.execute(sa.text("SELECT head_key FROM cl_lane")).scalars().all()
    assert heads == [-1] * 20  # its task was the head no longer


def test_a_call_that_closes_its_budget_closes_all_its_lanes(device: Device, db: Database) -> None:
    for app in range(20):
        add(db, 2, app_id=f"app{app}", app=[9, DAY], account=[1, DAY])
    device.claim(slots=1, now=NOON)
    with db.read() as connection:
        assert set(connection.execute(sa.text("SELECT ready_key FROM cl_lane")).scalars()) == {None}


def test_loading_budgets_locks_them_and_waits_for_nothing_else(
    device: Device, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if db.family == "sqlite":
        pytest.skip("SQLite has no row locks")
    [task_id, _] = add(db, 2, app=[2, DAY])
    device.claim(slots=1, now=NOON)
    lane_id = task(db, task_id)["lane_id"]
    give_up = {"mysql": "SET innodb_lock_wait_timeout = 1", "postgresql": "SET LOCAL lock_timeout = '1s'"}
    monkeypatch.setattr("crawlfleet.core.db.ATTEMPTS", 1)

    def load(connection: Transaction) -> list[int]:
        connection.execute(sa.text(give_up[db.family]))
        by_task, by_lane = (Ledger(connection) for _ in range(2))
        by_task.take(ask_lanes_of_tasks(connection, [task_id]))
        return [len(ledger.load([lane_id])[lane_id].budgets[0].busy) for ledger in (by_task, by_lane)]  # type: ignore[list-item,index]

    with db.plain.connect() as other:
        for table in ("cl_lane", "cl_lane_budget", "cl_budget_call"):
            other.exec_driver_sql(f"SELECT * FROM {table} FOR UPDATE")
        assert db.write(load, NOON) == [1, 1]
        other.exec_driver_sql("SELECT * FROM cl_budget FOR UPDATE")
        with pytest.raises(DatabaseUnreachable, match="lock"):
            db.write(load, NOON)
        other.rollback()
