"""What the scheduler does with the ways a body may end, and what it tells of them."""

from __future__ import annotations

import random
from datetime import date
from typing import Any

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.errors import CallRefused, NotPermitted, QuotaError, TokenUnavailable, TransientError
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.executors.contract import TaskResult
from crawlfleet.executors.permit import RunPermit
from crawlfleet.model import gate
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.claims import Claim
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceState
from crawlfleet.model.ending import Ending
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services import run_starter
from crawlfleet.services.run_keeper import Stage
from tests.conftest import Backend
from tests.fleets import task
from tests.services.bodies import ODD
from tests.services.conftest import Log, MakePump
from tests.services.poison import poison
from tests.services.pump import Pump
from tests.waiting import wait_until


def test_a_quota_costs_no_attempt_and_is_no_reason_to_park(url: str, make_pump: MakePump) -> None:
    pump = make_pump(url)
    [task_id] = pump.add("raising", task_data={"kind": "quota"})
    pump.until(lambda: pump.scheduler.stats.counters["release"], "the end of the run")
    found = task(pump.db, task_id)
    assert (found["status"], found["retry"], found["crash_count"], found["error_kind"]) == ("pending", 0, 0, "quota")
    assert found["next_run_at"] is not None
    assert pump.run_states(task_id) == ["released"]


def test_a_refused_token_parks_the_account_with_one_alert(url: str, make_pump: MakePump, log: Log) -> None:
    pump = make_pump(url)
    pump.fleet.accounts.add(Account("appsflyer", "alice", token_env="T"))
    theirs = pump.add("raising", 3, username="alice", source="appsflyer", task_data={"kind": "auth"})
    [other] = pump.add("quick", username="bob", source="appsflyer")
    pump.until_status("completed", other)
    assert [(task(pump.db, each)["status"], task(pump.db, each)["retry"]) for each in theirs] == [("pending", 0)] * 3
    [account] = pump.fleet.accounts.find("alice")
    assert (account["status"], account["status_reason"]) == ("token_expired", "refused, asked by device d1")
    assert log.count("account parked until a person resumes it") == 1
    pump.fleet.accounts.resume("appsflyer", "alice")
    before = pump.claimed
    pump.until(lambda: pump.claimed > before, "its tasks to be claimed again")


def test_a_worker_process_that_dies_gives_its_task_back_and_costs_no_attempt(url: str, make_pump: MakePump) -> None:
    pump = make_pump(url, engine="processes")
    dying, other = [*pump.add("dying"), *pump.add("quick")]
    pump.until(lambda: pump.run_states(dying)[:1] == ["expired"] and pump.status(other) == "completed", "both ends")
    found = task(pump.db, dying)
    assert found["crash_count"] >= 1
    assert found["retry"] == 0
    assert found["status"] in {"pending", "assigned", "running"}
    assert "signal 9" in str(found["error_message"])


def test_attempts_and_errors_are_counted(url: str, make_pump: MakePump) -> None:
    pump = make_pump(url)
    [permanent] = pump.add("raising", task_data={"kind": "permanent"})
    [last] = pump.add("raising", task_data={"kind": "transient"}, max_retry_count=0)
    [again] = pump.add("raising", task_data={"kind": "transient"}, max_retry_count=1)
    [well] = pump.add("quick")
    pump.until(lambda: pump.scheduler.stats.counters.total() >= 7, "four ends")
    assert dict(pump.scheduler.stats.counters) == {"fail": 2, "retry": 1, "finish": 1, "errors": 3}
    states = [(task(pump.db, each)["status"], task(pump.db, each)["retry"]) for each in (permanent, last, again, well)]
    assert states == [("failed", 1), ("failed", 1), ("pending", 1), ("completed", 0)]


def test_a_result_that_the_database_refuses_fails_its_own_task_only(
    backend: Backend, make_pump: MakePump, log: Log
) -> None:
    """The refusal spoils the whole turn, so its endings are tried one by one."""
    pump = make_pump(backend.url, slots=5)
    poison(pump.db, "cl_task_assignment", "result_data")
    good = pump.add("quick", 2, task_data={"word": "fine"})
    [bad] = pump.add("quick", task_data={"word": "poison"})
    good += pump.add("quick", 2, task_data={"word": "fine"})
    pump.turn()
    pump.wait_ended(5)
    assert pump.turn() is None
    pump.until_status("completed", *good)
    pump.until_status("failed", bad)
    found = task(pump.db, bad)
    assert "the database refused the result" in str(found["error_message"])
    assert [pump.run_states(each) for each in good] == [["completed"]] * 4
    assert log.count("ERROR turn refused by the database") == log.count("turn refused by the database") == 1
    pump.until_status("completed", *pump.add("quick", 7))


def odd_ending(chance: random.Random) -> Any:
    """What a body returns or raises, made by chance: something odd, or something odd within what looks right."""
    junk = [
        None,
        True,
        -1,
        10**400,
        1e308,
        float("nan"),
        "",
        "x\0",
        "\ud800",
        b"x",
        object(),
        [[]],
        {},
        {1: 2},
        date.max,
    ]
    day = date(2026, 1, 1)

    def some(*usual: Any) -> Any:
        return chance.choice(junk) if chance.random() < (0.3 if usual else 1) else chance.choice(usual)

    def error() -> Exception:
        kinds = (QuotaError, TransientError, NotPermitted, CallRefused, TokenUnavailable)
        found = chance.choice(kinds)("no luck")
        for name in ("retry_after", "scope", "daily", "calls_wanted", "feed", "kind"):
            if chance.random() < 0.4:
                setattr(found, name, chance.choice([some(), (some(), some())]))
        return found

    def result() -> Any:
        if chance.random() < 0.5:
            rows = [App(some("a"), some("name"), extra=some({}))]
            return TaskResult(rows, [some({"task_type": "quick"})], some({}), AppList("s", some("u", "v")))
        scope = ReportRange("s", "u", some("a"), "r", some(day), some(day), some(2))
        figures = [Figures(day, some("x"), installs=some(1), revenue=some(2), extra=some({})) for _ in range(3)]
        return TaskResult(some(figures), (), some({}), scope)

    return chance.choice([some, error, result, result])()


def test_whatever_a_body_returns_or_raises_the_node_goes_on(backend: Backend, make_pump: MakePump) -> None:
    """A retry_after of 1e12, or a NotPermitted whose feed had another shape, stopped the pump of a node for good."""
    pump = make_pump(backend.url, slots=20)
    pump.scheduler.runs.writer.start()
    chance = random.Random(20261201)
    ODD.extend(odd_ending(chance) for _ in range(120))
    ids = pump.add("odd", 120, max_retry_count=0)
    pump.until(lambda: not ODD, "all bodies")
    good = pump.add("quick", 3)
    pump.until_status("completed", *good)
    pump.until(lambda: not pump.scheduler.runs.table.held, "every run has ended")
    states = {pump.status(each) for each in ids}
    assert states <= {"completed", "failed", "pending"}


def test_a_run_that_cannot_be_ended_is_let_go_and_the_others_end(
    url: str, make_pump: MakePump, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump = make_pump(url, slots=5)
    good, [bad], more = pump.add("quick", 2), pump.add("quick"), pump.add("quick", 2)
    move = gate.next_move

    def poisoned(ending: Ending, *args: Any) -> Any:
        if ending.task_id == bad:
            raise OverflowError("date value out of range")
        return move(ending, *args)

    monkeypatch.setattr(gate, "next_move", poisoned)
    pump.turn()
    pump.wait_ended(5)
    pump.until_status("completed", *good, *more)
    pump.until(lambda: log.count("ERROR run cannot be ended, it goes back") == 1, "the run is let go")
    assert log.count(f"goes back: task={bad} ") == 1
    assert not pump.scheduler.runs.table.held


def waiting_for_its_call(pump: Pump) -> tuple[int, TaskDefaults]:
    """A task whose body waits in its slot, and what tasks of its budget cost."""
    charge = Charge("vendor", "account", calls=5, seconds=60, username="u")
    paid = TaskDefaults(cost_of=lambda _: Cost((charge,), calls=1))
    [task_id] = CrawlTaskDAO(pump.db).add([TaskSpec("calling", source="vendor", username="u")], paid)
    pump.until(lambda: pump.scheduler.runs.table.bodies == 1, "the body to begin")
    [run] = pump.scheduler.runs.table.held.values()
    permit = run.context.permit
    assert isinstance(permit, RunPermit)
    wait_until(lambda: permit.waits(60), what="it waits for its call")
    return task_id, paid


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_body_that_waits_for_its_call_goes_back_when_the_budget_is_closed(
    url: str, make_pump: MakePump, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """It held its slot for as long as the vendor had closed the budget, and a node that stopped waited for it."""
    pump = make_pump(url, slots=2, engine=engine)
    windows = run_starter._send_windows

    def far(claim: Claim, state: DeviceState) -> Any:
        """The next call of the waiting task is due in half an hour."""
        late = pump.db.clock.monotonic() + 1800
        return [(late, late + 60, 3.0)] if claim.task.task_type == "calling" else windows(claim, state)

    monkeypatch.setattr(run_starter, "_send_windows", far)
    waiting, paid = waiting_for_its_call(pump)
    refused = {"source": "vendor", "username": "u", "task_data": {"kind": "quota"}}
    CrawlTaskDAO(pump.db).add([TaskSpec("raising", **refused)], paid)  # type: ignore[arg-type]
    pump.until(lambda: not pump.scheduler.runs.table.held, "both runs to go back")
    assert (pump.status(waiting), pump.run_states(waiting)) == ("pending", ["released"])
    pump.until(lambda: pump.scheduler.runs.table.bodies == 0, "the slots to be free")
    pump.until_status("completed", *pump.add("quick", 3))


def test_a_node_that_stops_does_not_wait_for_a_body_that_waits_for_its_call(
    url: str, make_pump: MakePump, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump = make_pump(url)
    late = pump.db.clock.monotonic() + 1800
    monkeypatch.setattr(run_starter, "_send_windows", lambda _claim, _state: [(late, late + 60, 3.0)])
    waiting, _ = waiting_for_its_call(pump)
    pump.scheduler.runs.stage = Stage.DRAINING
    pump.until(lambda: not pump.scheduler.runs.table.held, "its run to go back")
    assert (pump.status(waiting), pump.run_states(waiting)) == ("pending", ["released"])
