"""Claiming: who gets what, in which order, and never twice."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.model import claims, lanes
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.claim_strategy import Strategy
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.fleet_state import set_paused
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, add, ending, task


def test_several_devices_never_get_one_task(db: Database, strategy: Strategy) -> None:
    ids = add(db, 240)
    devices = [Device(db, f"d{n}", strategy=strategy) for n in range(4)]
    for each in devices:
        each.register()
    taken: list[int] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(devices))

    def work(device: Device) -> None:
        try:
            barrier.wait()
            empty = 0
            while empty < 3:  # compare-and-set may lose a whole batch to the others and must look again
                claimed = device.claim(slots=7)
                empty = 0 if claimed else empty + 1
                taken.extend(claim.task.id for claim in claimed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert max(Counter(taken).values()) == 1
    assert sorted(taken) == ids


def test_the_most_urgent_task_comes_first_and_a_low_priority_only_waits_so_much_longer(
    device: Device, db: Database
) -> None:
    now = datetime.now(UTC)
    specs = [
        TaskSpec("noop", priority=0, run_at=now - timedelta(minutes=5)),
        TaskSpec("noop", priority=1, run_at=now - timedelta(minutes=1)),  # ten minutes of head start
        TaskSpec("noop", priority=0, run_at=now - timedelta(minutes=30)),  # has waited longer than any head start
        TaskSpec("noop", priority=-1, run_at=now - timedelta(minutes=2)),
    ]
    a, b, c, d = CrawlTaskDAO(db).add(specs)
    assert [claim.task.id for claim in device.claim(slots=10)] == [c, b, a, d]


def test_tasks_of_several_lanes_come_in_one_order(device: Device, db: Database) -> None:
    device.types = ("noop", "other")
    now = datetime.now(UTC)
    specs = [TaskSpec(("noop", "other")[n % 2], run_at=now - timedelta(minutes=n)) for n in range(6)]
    ids = CrawlTaskDAO(db).add(specs)
    assert [claim.task.id for claim in device.claim(slots=4)] == ids[::-1][:4]


def test_a_task_is_not_claimed_before_its_time(device: Device, db: Database) -> None:
    with db.read() as connection:
        now = connection.now
    [task_id] = add(db, run_at=now + timedelta(hours=1), priority=1000)
    assert device.claim() == []
    with db.read() as connection:
        standing = DeviceDAO(db).state(connection, "d1", device.epoch)
    assert standing.due_at == now + timedelta(hours=1)
    assert [claim.task.id for claim in device.claim(now=now + timedelta(hours=2))] == [task_id]


def test_unknown_types_parked_accounts_drain_and_pause_keep_tasks_waiting(device: Device, db: Database) -> None:
    AccountDAO(db).add(Account("appsflyer", "alice", token_env="T"))
    device.types = ("noop", "app_data")
    add(db, task_type="stranger")
    [bound] = add(db, task_type="app_data", username="alice", source="appsflyer")
    AccountDAO(db).park("appsflyer", "alice", "token refused")
    [free] = add(db)
    assert [claim.task.id for claim in device.claim()] == [free]
    AccountDAO(db).resume("appsflyer", "alice")
    set_paused(db, True)
    assert device.claim() == []
    set_paused(db, False)
    DeviceDAO(db).set_draining("d1", True)
    assert device.claim() == []
    DeviceDAO(db).set_draining("d1", False)
    [claim] = device.claim()
    assert claim.task.id == bound
    assert claim.account == Account("appsflyer", "alice", token_env="T")


def test_the_reserve_never_holds_tasks_of_a_source(device: Device, db: Database) -> None:
    device.types = ("noop", "app_data")
    add(db, 5, task_type="app_data", username="alice", source="appsflyer")
    add(db, 5)
    claimed = device.claim(slots=2, reserve=3)
    assert len(claimed) == 5
    assert Counter(claim.task.task_type for claim in claimed) == {"app_data": 2, "noop": 3}


def test_a_unique_key_is_held_by_one_open_task_and_free_again_after_it(device: Device, db: Database) -> None:
    dao = CrawlTaskDAO(db)
    first, again, other = dao.add(
        [TaskSpec("noop", unique_key="k"), TaskSpec("noop", unique_key="k"), TaskSpec("noop")]
    )
    assert first == again != other
    assert dao.add([TaskSpec("noop", unique_key="k")]) == [first]
    device.end(*(ending(claim) for claim in device.claim()))
    assert dao.add([TaskSpec("noop", unique_key="k")]) != [first]


def test_adding_returns_ids_in_the_order_of_the_specs(db: Database) -> None:
    ids = CrawlTaskDAO(db).add(TaskSpec("noop", task_data={"n": n}) for n in range(3001))
    assert ids == sorted(ids)
    assert len(set(ids)) == 3001
    assert [task(db, ids[n])["task_data"] for n in (0, 1500, 3000)] == [{"n": 0}, {"n": 1500}, {"n": 3000}]


def test_a_task_keeps_every_field(db: Database, device: Device) -> None:
    spec = TaskSpec(
        "noop",
        "用户",
        None,
        "id1",
        "2026-01-01",
        "2026-01-31",
        "geo",
        -3,
        None,
        {"a": ["ü", 1, None]},
        "key",
        7,
        2,  # type: ignore[arg-type]
    )
    [task_id] = CrawlTaskDAO(db).add([spec])
    found = task(db, task_id)
    for name in ("username", "app_id", "start_date", "end_date", "report", "priority", "task_data", "unique_key"):
        assert found[name] == getattr(spec, name)
    [claim] = device.claim()
    assert (claim.task.execution_timeout, claim.task.start_date, claim.task.task_data) == (
        7,
        spec.start_date,
        spec.task_data,
    )


def test_the_claim_walks_its_index_alone(db: Database) -> None:
    """With statistics of a table of which little is claimable, as after months of work."""
    add(db, 3000)
    with db.plain.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE cl_crawl_task SET status = 'completed', ready_key = NULL WHERE id - id / 100 * 100 <> 0"
            if db.family != "mysql"
            else "UPDATE cl_crawl_task SET status = 'completed', ready_key = NULL WHERE MOD(id, 100) <> 0"
        )
    analyze = {"sqlite": "ANALYZE", "postgresql": "ANALYZE cl_crawl_task", "mysql": "ANALYZE TABLE cl_crawl_task"}
    with db.read() as connection:
        connection.exec_driver_sql(analyze[db.family])
        query = claims._candidates(db.family, 1, False).text
        explain = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN ", "mysql": "EXPLAIN "}[db.family]
        for name, value in (("lane0", "1"), ("count0", "5")):
            query = query.replace(f":{name}", value)
        plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + query))
    assert "ix_crawl_task_claim" in plan
    assert "filesort" not in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


@pytest.mark.parametrize("bad", ["", "x" * 65, "a b", "名"])
def test_a_bad_type_name_is_refused(bad: str) -> None:
    from crawlfleet.core.errors import UsageError

    with pytest.raises(UsageError, match="task_type"):
        TaskSpec(bad)


def test_a_reserve_alone_takes_nothing_while_all_that_is_due_has_a_source(device: Device, db: Database) -> None:
    add(db, 3, source="appsflyer", username="a")
    assert device.claim(slots=0, reserve=10) == []
    add(db, 3)
    assert len(device.claim(slots=0, reserve=10)) == 3


def test_equally_urgent_tasks_come_in_the_order_in_which_they_were_added_also_after_a_return(
    device: Device, db: Database
) -> None:
    ids = add(db, 3)
    [first] = device.claim(slots=1)
    device.end(ending(first, "unpaid"))
    assert [claim.task.id for claim in device.claim()] == ids


def test_types_are_told_apart_by_case(device: Device, db: Database) -> None:
    add(db, task_type="Noop")
    add(db, task_type="Noop", source="vendor", username="u")
    assert device.claim() == []
    device.types = ("Noop",)
    assert len(device.claim()) == 2


def test_so_many_lanes_that_no_statement_holds_them_all_open_at_once(
    device: Device, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of all lanes that a transaction touched went into one statement, however many they were."""
    monkeypatch.setattr(lanes, "REFRESH_BATCH", 2)
    for number in range(5):
        AccountDAO(db).add(Account("appsflyer", f"user{number}", token_env="T"))
    CrawlTaskDAO(db).add([TaskSpec("noop", f"user{number}", "appsflyer") for number in range(5)])
    with db.read() as reader:
        assert len([head for head in claims.open_heads(reader, ["noop"]) if head.sourced]) == 5
