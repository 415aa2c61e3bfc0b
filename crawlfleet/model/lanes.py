"""cl_lane: the queues within the queue.

A lane is the set of tasks that wait for the same things: a device that knows the type and has the label, an account
that is not parked, and so many calls of the same budgets. The claim looks at one head per lane and only at open
lanes, so a million tasks that cannot run cost the others nothing. Lanes are never deleted; there are as many as
combinations.

Lanes without a source are always open. The others have a row of state, which `refresh` computes anew from the
queue, the account and the budgets whenever one of them changed; it is the last thing that a transaction does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from crawlfleet.core.sql import MANY_ROWS, json_batches, json_rows, sql, stamp
from crawlfleet.core.transaction import Answer, Statements, Transaction
from crawlfleet.model.budget import NEVER, Charge, Cost, CostOf, digest
from crawlfleet.model.lifecycle import AccountStatus
from crawlfleet.model.task_spec import TaskSpec

NO_COST = Cost()
REFRESH_BATCH = 5000  # lanes of one statement
LONG_AGO = "2000-01-01 00:00:00.000000"


class Lane(NamedTuple):
    """What tasks of one lane have in common; tasks without a source share one lane for each type and label."""

    task_type: str
    source: str | None = None
    username: str | None = None
    cost: Cost = NO_COST
    label: str | None = None

    @property
    def key(self) -> str:
        charges = (charge.key for charge in self.cost.charges)
        return digest(self.task_type, self.source, self.username, self.label, self.cost.calls, *charges)


@lru_cache(maxsize=1024)
def _open_lane(task_type: str, label: str | None) -> Lane:
    return Lane(task_type, label=label)


def lane_of(spec: TaskSpec, cost_of: CostOf) -> Lane:
    """The lane of a task to be added."""
    if spec.source is None:
        return _open_lane(spec.task_type, spec.label)
    return Lane(spec.task_type, spec.source, spec.username, cost_of(spec), spec.label)


def ensure_lanes(transaction: Transaction, wanted: set[Lane]) -> Answer[Mapping[Lane, int]]:
    """Ask for the ids of these lanes; reading the answer makes those that are missing, with their budgets."""
    if not wanted:
        return Answer.of({})
    by_key = {lane.key: lane for lane in wanted}

    def ensure(former: dict[str, int]) -> Mapping[Lane, int]:
        ids = dict(former)
        missing = sorted(set(by_key) - set(ids))  # sorted: two adders must not lock them crosswise
        if missing:
            charges = {charge.key: charge for key in missing for charge in by_key[key].cost.charges}
            budgets = _ensure_budgets(transaction, charges)
            rows = [_lane_row(by_key[key]) for key in missing]
            columns = dict.fromkeys(("lane_key", "task_type", "source", "username", "label"), "text")
            _insert(transaction, "cl_lane", {**columns, "calls": "int", "budget_count": "int"}, "lane_key", rows)
            ids |= _ask_keys(transaction, "cl_lane", "lane_key", missing).read()
            links = [
                (ids[key], budgets[charge.key], position)
                for key in missing
                for position, charge in enumerate(by_key[key].cost.charges)
            ]
            if links:
                columns = {"lane_id": "int", "budget_id": "int", "position": "int"}
                _insert(transaction, "cl_lane_budget", columns, "lane_id, budget_id", sorted(links), dated=False)
        return {by_key[key]: lane_id for key, lane_id in ids.items()}

    return _ask_keys(transaction, "cl_lane", "lane_key", by_key).map(ensure)


def _lane_row(lane: Lane) -> tuple[object, ...]:
    names = (lane.key, lane.task_type, lane.source, lane.username, lane.label)
    return (*names, lane.cost.calls, len(lane.cost.charges))


def _ensure_budgets(transaction: Transaction, charges: Mapping[str, Charge]) -> dict[str, int]:
    ids = _ask_keys(transaction, "cl_budget", "budget_key", charges).read()
    missing = sorted(set(charges) - set(ids))
    if missing:
        columns = {
            "budget_key": "text",
            "source": "text",
            "limit_name": "text",
            "username": "text",
            "app_id": "text",
            "report": "text",
            "calls": "int",
            "seconds": "real",
            "refusals": "int",
            "open_at": "moment",
            "updated_at": "moment",
        }
        rows = [
            (
                key,
                c.source,
                c.limit_name,
                c.username,
                c.app_id,
                c.report,
                c.calls,
                c.seconds,
                0,
                LONG_AGO,
                transaction.now,
            )
            for key, c in ((key, charges[key]) for key in missing)
        ]
        _insert(transaction, "cl_budget", columns, "budget_key", rows)
        ids |= _ask_keys(transaction, "cl_budget", "budget_key", missing).read()
    return ids


def _insert(
    transaction: Transaction,
    table: str,
    columns: Mapping[str, str],
    key: str,
    rows: Sequence[tuple[object, ...]],
    dated: bool = True,
) -> None:
    """Insert what is not there yet; `dated` tables have a column for when."""
    names = ", ".join(columns)
    dialect = transaction.dialect
    created = (", created_at", f", {dialect.moment('now')}") if dated else ("", "")
    statement = f"INSERT INTO {table} ({names}{created[0]}) SELECT {names}{created[1]} FROM {dialect.rows(**columns)}"
    moment = {"now": stamp(transaction.now)} if dated else {}
    for texts in json_batches(rows, dialect.batch_bytes):
        transaction.execute(sql(dialect.insert_ignore(statement, key)), {"rows": texts, **moment})


def _ask_keys(transaction: Transaction, table: str, column: str, keys: Iterable[str]) -> Answer[dict[str, int]]:
    statement = f"SELECT t.{column}, t.id FROM {table} t JOIN {transaction.dialect.rows(k='text')} ON t.{column} = v.k"
    asked = [
        transaction.execute(sql(statement), {"rows": rows})
        for rows in json_batches([(key,) for key in keys], transaction.dialect.batch_bytes)
    ]
    return Answer(lambda: dict(row for reply in asked for row in reply))


def of_account(reader: Statements, source: str, username: str) -> list[int]:
    """The lanes of an account."""
    statement = sql("SELECT id FROM cl_lane WHERE source = :source AND username = :username ORDER BY id")
    return list(reader.execute(statement, {"source": source, "username": username}).scalars())


def refresh(
    transaction: Statements,
    lane_ids: Collection[int],
    postponed: Mapping[int, datetime] | None = None,
    budgets: Mapping[int, int] | None = None,
) -> None:
    """Compute the state of lanes anew; those `postponed` open no earlier than that.

    Also of those lanes of `budgets` whose tasks need more calls than is said there for the budget.

    The lock comes first, in a statement of its own: what another transaction added to the lane is either committed
    and seen by the second statement, or that transaction waits for the lock and then sees ours.
    """
    if not lane_ids and not budgets:
        return
    if len(lane_ids) > REFRESH_BATCH:
        ordered = sorted(lane_ids)
        for first in range(0, len(ordered), REFRESH_BATCH):
            refresh(transaction, ordered[first : first + REFRESH_BATCH], postponed)
        refresh(transaction, (), None, budgets)
        return
    dialect = transaction.dialect
    named = [(each, None, None, (postponed or {}).get(each, LONG_AGO)) for each in sorted(lane_ids)]
    by_budget = [(None, budget_id, calls, LONG_AGO) for budget_id, calls in sorted((budgets or {}).items())]
    rows = json_rows([*named, *by_budget])
    given = dialect.rows(id="int", budget_id="int", calls="int", not_before="moment")
    source = (
        "(SELECT u.id, MAX(u.not_before) AS not_before FROM"
        f" (SELECT v.id, v.not_before FROM {given} WHERE v.id IS NOT NULL UNION ALL"
        f" SELECT l.id, v.not_before FROM {given} JOIN cl_lane_budget lb ON lb.budget_id = v.budget_id"
        " JOIN cl_lane l ON l.id = lb.lane_id WHERE l.calls > v.calls) AS u"
        f" GROUP BY u.id ORDER BY u.id LIMIT {MANY_ROWS}) AS v"
    )
    if dialect.family != "sqlite":
        join = f"{dialect.by_key(source, 'cl_lane')} ON t.id = v.id"
        lock = f"SELECT t.id FROM {join} ORDER BY t.id{dialect.for_update_of_t}"
        transaction.execute(sql(lock), {"rows": rows})
    # MAX over what must be waited for; a lane whose account is parked waits for a person
    state = (
        "(SELECT l.id AS id, (SELECT k.ready_key FROM cl_crawl_task k WHERE k.ready_lane_id = l.id"
        " ORDER BY k.ready_key LIMIT 1) AS head,"
        " (SELECT MAX(b.open_at) FROM cl_lane_budget lb JOIN cl_budget b ON b.id = lb.budget_id"
        " WHERE lb.lane_id = l.id) AS budgets_open_at, v.not_before AS not_before,"
        " (SELECT a.status FROM cl_account a WHERE a.source = l.source AND a.username = l.username) AS account_status"
        f" FROM {source} JOIN cl_lane l ON l.id = v.id) AS s"
    )
    open_at = f"{dialect.greatest}(COALESCE(s.budgets_open_at, s.not_before), s.not_before)"
    moment, never = dialect.moment("now"), dialect.moment("never")
    parked = f"COALESCE(s.account_status, '{AccountStatus.HEALTHY}') <> '{AccountStatus.HEALTHY}'"
    statement = dialect.update_from(
        "cl_lane",
        {
            "head_key": "s.head",
            "ready_key": f"CASE WHEN {parked} OR {open_at} > {moment} THEN NULL ELSE s.head END",
            "wake_at": f"CASE WHEN {parked} OR s.head IS NULL OR {open_at} <= {moment} OR {open_at} >= {never}"
            f" THEN NULL ELSE {open_at} END",
        },
        state,
        "t.id = s.id",
    )
    transaction.execute(sql(statement), {"rows": rows, "now": stamp(transaction.now), "never": stamp(NEVER)})
