"""Query plans: what a scheduler asks in each turn walks an index, however many rows wait or have ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from crawlfleet.core.db import Database
from crawlfleet.core.transaction import Statements
from crawlfleet.core.vendor_data import Figures, ReportRange
from crawlfleet.model import claim_strategy, claims, lanes
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.range_store import replace_range
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, ending

LANES = 608  # 64 are looked at, 16 claimed from at once
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
Statement = tuple[str, Any]


def cost(spec: TaskSpec) -> Cost:
    """One call of the app's hour."""
    return Cost((Charge("vendor", "hour", 1, HOUR.total_seconds(), "u", spec.app_id or ""),), 1)


DEFAULTS = TaskDefaults(cost_of=cost)


@pytest.fixture
def device(db: Database) -> Device:
    """A device whose queue has many lanes: most have used their budget up, and have a task that waits for it."""
    made = Device(db, types=("fetch",), strategy=claim_strategy.probe_strategy(db), defaults=DEFAULTS)
    made.register(now=NOON)
    for _ in range(2):
        specs = [TaskSpec("fetch", source="vendor", username="u", app_id=f"app{n}", run_at=NOON) for n in range(LANES)]
        CrawlTaskDAO(db).add(specs, DEFAULTS, NOON)
    used = [claim for _ in range(LANES // 16 - 1) for claim in made.take(slots=16, now=NOON)]
    made.end(*(ending(claim, calls=[NOON]) for claim in used), now=NOON)
    later = [TaskSpec("fetch", source="vendor", username="u", app_id="app0", run_at=NOON + HOUR)] * LANES
    CrawlTaskDAO(db).add(later, DEFAULTS, NOON)
    analyze = {
        "sqlite": "ANALYZE",
        "postgresql": "ANALYZE",
        "mysql": "ANALYZE TABLE cl_crawl_task, cl_lane, cl_lane_budget, cl_budget, cl_budget_call",
    }
    with db.plain.begin() as connection:
        connection.exec_driver_sql(analyze[db.family])
    return made


@contextmanager
def recorded(db: Database) -> Iterator[list[Statement]]:
    """The statements that are run meanwhile, with their parameters."""
    found: list[Statement] = []

    def noting(execute: Callable[..., Any]) -> Callable[..., Any]:
        def note(connection: Any, statement: sa.TextClause, parameters: Any = None) -> Any:
            found.append((statement.text, parameters or {}))
            return execute(connection, statement, parameters)

        return note

    with pytest.MonkeyPatch.context() as patch:
        for kind in (Connection, Statements):
            patch.setattr(kind, "execute", noting(kind.execute))
        yield found


def plan(db: Database, statement: str, parameters: dict[str, Any]) -> str:
    """The plan of a statement, a step a line. PostgreSQL must not read a table whole merely because it is small."""
    with db.plain.connect() as connection, connection.begin() as transaction:
        if db.family == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN " if db.family == "sqlite" else "EXPLAIN "
        found = connection.execute(sa.text(explain + statement), parameters).mappings().all()
        transaction.rollback()
    if db.family == "mysql":
        return "\n".join(f"{row['type']} of {row['table']}: {row['Extra']}" for row in found)
    return "\n".join(str(row["detail" if db.family == "sqlite" else "QUERY PLAN"]) for row in found)


# A table of ours read from end to end: by its alias, unlike JSON rows and subqueries. Accounts, devices and the
# fleet's state fill a page or two.
WHOLE = {
    "sqlite": r"SCAN (l|t|k|b|lb|c|f|cl_\w+)$",
    "postgresql": r"Seq Scan on cl_(?!device|fleet_state|account)",
    "mysql": r"(ALL|index) of (l|t|k|b|lb|c|f|cl_\w+):",
}
SORTED = {"sqlite": "TEMP B-TREE", "postgresql": r"Sort(?! Key)", "mysql": "filesort|temporary"}


def assert_walks_indexes(db: Database, statements: list[Statement]) -> None:
    plans = {statement: plan(db, statement, parameters) for statement, parameters in statements if " cl_" in statement}
    assert plans
    for statement, steps in plans.items():
        assert not re.search(WHOLE[db.family], steps, flags=re.MULTILINE), f"{statement}\n{steps}"


def assert_unsorted(db: Database, statements: list[Statement], of: str) -> None:
    [(statement, parameters)] = [each for each in statements if of in each[0]]
    steps = plan(db, statement, parameters)
    assert not re.search(SORTED[db.family], steps), f"{statement}\n{steps}"


def test_open_lanes_are_found_along_an_index_and_without_sorting(device: Device, db: Database) -> None:
    for state, expected in (("few open", 16), ("all open", claims.MAX_LANES)):
        with db.read() as connection, recorded(db) as statements:
            found = claims.open_heads(connection, ["fetch"], ["eu"])
        assert len(found) == expected, state
        assert_walks_indexes(db, statements)
        assert_unsorted(db, statements, "open_lanes")
        claims.promote(db, now=NOON + 2 * HOUR)


def test_what_comes_due_is_found_along_an_index_and_without_sorting(device: Device, db: Database) -> None:
    with recorded(db) as statements:
        promoted = claims.promote(db, now=NOON + 2 * HOUR)
    assert promoted > LANES
    assert_walks_indexes(db, statements)
    for table in ("cl_crawl_task", "cl_lane"):
        assert_unsorted(db, statements, f"FROM {table} WHERE wake_at <=")


def test_a_claim_and_its_end_read_no_table_whole(device: Device, db: Database) -> None:
    with recorded(db) as statements:
        [claim] = device.take(slots=1, now=NOON)
        device.end(ending(claim, calls=[NOON]), now=NOON)
    assert_walks_indexes(db, statements)


def test_results_are_stored_along_indexes(device: Device, db: Database) -> None:
    ranges = [ReportRange("vendor", "u", f"app{n}", "r", NOON.date(), NOON.date() + timedelta(2)) for n in range(LANES)]
    rows = [Figures(NOON.date(), clicks=1)]
    for first in range(0, LANES, 50):
        db.write(lambda c, f=first: [replace_range(c, each, rows, NOON) for each in ranges[f : f + 50]])  # type: ignore[misc]
    with db.plain.begin() as connection:
        tables = "cl_feed, cl_coverage, cl_app_data"
        connection.exec_driver_sql(f"ANALYZE TABLE {tables}" if db.family == "mysql" else "ANALYZE")
    with recorded(db) as statements:
        claimed = device.take(slots=3, now=NOON)
        device.end(
            *(
                ending(each, calls=[NOON], rows=rows, replaces=ranges[n], started_at=NOON)
                for n, each in enumerate(claimed)
            ),
            now=NOON,
        )
    assert len([text for text, _ in statements if "FROM cl_app_data" in text]) == 3
    assert_walks_indexes(db, statements)


def test_the_state_of_lanes_is_computed_along_indexes(device: Device, db: Database) -> None:
    def refresh(connection: Any) -> None:
        lanes.refresh(connection, range(1, 50))

    with recorded(db) as statements:
        db.write(refresh, NOON)
    assert_walks_indexes(db, statements)


def rows_read(db: Database, work: Callable[[], object]) -> int:
    """How many rows and entries of indexes MariaDB reads meanwhile, for the one connection that is in use."""
    with db.read() as connection:
        connection.exec_driver_sql("FLUSH STATUS")
    work()
    with db.read() as connection:
        counts = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all()
    return sum(int(count) for _, count in counts)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_turn_reads_no_more_rows_however_many_have_ended_or_are_not_due(db: Database) -> None:
    """MariaDB has no partial index: what has ended is in the claim's, too."""
    device = Device(db)
    device.register()
    kinds = [TaskSpec("noop", run_at=NOON), TaskSpec("fetch", source="vendor", username="u", app_id="a", run_at=NOON)]
    [_, fetching] = [CrawlTaskDAO(db).add([spec], DEFAULTS, NOON)[0] for spec in kinds]

    def find_heads() -> None:
        with db.read() as connection:
            assert len(claims.open_heads(connection, ["fetch", "noop"])) == 2

    def stand() -> None:
        with db.read() as connection:
            assert DeviceDAO(db).state(connection, device.device_id, device.epoch).due_at == NOON + HOUR

    def refresh(connection: Any) -> None:
        lanes.refresh(connection, [lane_id])

    lane_id = CrawlTaskDAO(db).get(fetching)["lane_id"]  # type: ignore[index]
    works: list[Callable[[], object]] = [find_heads, stand, lambda: db.write(refresh, NOON)]
    CrawlTaskDAO(db).add([TaskSpec("noop", run_at=NOON + HOUR)], DEFAULTS, NOON)
    before = [rows_read(db, work) for work in works]
    later = [TaskSpec("noop", run_at=NOON + HOUR + timedelta(seconds=n)) for n in range(500)]
    CrawlTaskDAO(db).add(later, DEFAULTS, NOON)
    CrawlTaskDAO(db).add(kinds * 500, DEFAULTS, NOON)
    with db.plain.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE cl_crawl_task SET status = 'completed', ready_key = NULL"
            f" WHERE id > {fetching} AND ready_key IS NOT NULL"
        )
        connection.exec_driver_sql("ANALYZE TABLE cl_crawl_task")
    assert [rows_read(db, work) for work in works] == before


def test_a_table_read_whole_is_noticed(device: Device, db: Database) -> None:
    steps = plan(db, "SELECT t.id FROM cl_crawl_task t WHERE t.retry = 7 ORDER BY t.order_key", {})
    assert re.search(WHOLE[db.family], steps, flags=re.MULTILINE), steps
    assert re.search(SORTED[db.family], steps), steps
