"""A fleet that has been at work for a week, made in bulk by the database itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from benchmarks.bulk import insert_select, run, tidy
from benchmarks.place import Place
from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.sql import json_rows, stamp
from crawlfleet.model import schema
from crawlfleet.model.column_types import Day
from crawlfleet.model.task_spec import DEFAULT_REPORT, TaskSpec
from tests import fleets

DEVICES = 20
FEEDS = 1000  # at most; an account has 20
APPS_PER_ACCOUNT = 20
DAYS = 100  # of figures of each feed
ROWS_PER_TASK = 10
WEEK_BEATS = 7 * 24 * 3600 // 30  # of one device
FULL_TASKS = 1_000_000
FEEDS_AT_ONCE = 50  # whose figures are inserted in one transaction
STATES = {0: "failed", **dict.fromkeys(range(1, 13), "completed"), 13: "cancelled"}  # of 20; the others are pending
NOT_DUE = 19  # of 20: pending, but not due yet


def fill(place: Place, tasks: int) -> None:
    """So many tasks (5 % of them failed, 25 % due), ten times as many rows of figures in 1,000 feeds of 50 accounts,
    and the heartbeats of 20 devices over seven days; fewer feeds and heartbeats where there are fewer tasks."""
    db = place.fleet.db
    feeds = max(APPS_PER_ACCOUNT, min(FEEDS, tasks // 1000))
    beats = max(200, math.ceil(WEEK_BEATS * min(1, tasks / FULL_TASKS)))
    names = [(f"account-{n // APPS_PER_ACCOUNT}", f"com.example.app{n}") for n in range(feeds)]
    for username in sorted({username for username, _ in names}):
        place.fleet.accounts.add(Account("appsflyer", username, "agency", token_env="TOKEN_OF_NOBODY"))
    place.fleet.set_paused(True, "so that nobody works while we measure")
    place.fleet.add_tasks(TaskSpec("app_data", name, "appsflyer", app_id) for name, app_id in names)
    copies = max(1, tasks // feeds - 1)
    rows_a_day = max(1, tasks * ROWS_PER_TASK // (feeds * DAYS))
    with db.read() as connection:
        now = connection.now
    _make_helpers(db, now, max(copies, rows_a_day), beats)
    for device in range(DEVICES):
        fleets.Device(db, f"device-{device}").register()
    steps = (*_tasks(db, copies, beats), *_runs(db), *_feeds(db), *_lists(db))
    later = {"later": stamp(now + timedelta(days=1)), "now": stamp(now)}
    for statement in steps:
        run(db, statement, later)
    with db.read() as connection:
        ids = list(connection.execute(sa.text("SELECT id FROM cl_feed ORDER BY id")).scalars())
    for first in range(0, len(ids), FEEDS_AT_ONCE):
        chunk = ids[first : first + FEEDS_AT_ONCE]
        run(db, _FIGURES, {"first": chunk[0], "last": chunk[-1], "rows": rows_a_day})
    tidy(db)


def _make_helpers(db: Database, now: datetime, numbers: int, beats: int) -> None:
    """Tables of numbers, moments, devices and days, from which the others are multiplied."""
    metadata = sa.MetaData()
    number = sa.Table(
        "bench_number",
        metadata,
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("row_hash", schema.HASH),
    )
    moment = sa.Table(
        "bench_moment",
        metadata,
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True)
            .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
            .with_variant(sa.Text(), "sqlite"),
        ),
    )
    day = sa.Table("bench_day", metadata, sa.Column("n", sa.Integer), sa.Column("day", Day))
    step = timedelta(days=7) / beats
    today = now.astimezone(UTC).date()

    with db.plain.begin() as connection:  # a quick one does not know the names that SQLAlchemy wants
        metadata.create_all(connection)
    moments = ((n, now - (beats - n) * step) for n in range(beats))
    days = ((n, today - timedelta(days=DAYS - n)) for n in range(DAYS))
    hashes = ((n, f"{n:032x}") for n in range(numbers))
    _fill_helper(db, number, "row_hash", "bytes", hashes)
    _fill_helper(db, moment, "at", "moment", moments)
    _fill_helper(db, day, "day", "day", days)


def _fill_helper(db: Database, table: sa.Table, column: str, kind: str, rows: Iterable[tuple[int, object]]) -> None:
    value = db.dialect.binary(column) if kind == "bytes" else column
    statement = (
        f"INSERT INTO {table.name} (n, {column}) SELECT n, {value} FROM {db.dialect.rows(n='int', **{column: kind})}"
    )
    parameters = {"rows": json_rows(rows)}
    db.write(lambda transaction: transaction.execute(sa.text(statement), parameters).rowcount)


def _tasks(db: Database, copies: int, beats: int) -> list[str]:
    """The seeds, one for each feed, so many times; the states alternate, the moments are spread over the week."""
    part = "CAST(n.n % 20 AS " + ("SIGNED" if db.family == "mysql" else "INTEGER") + ")"
    cases = " ".join(f"WHEN {number} THEN '{state}'" for number, state in STATES.items())
    ended = f"{part} <= {max(STATES)}"
    later = db.dialect.moment("later")
    values = {
        "status": f"CASE {part} {cases} ELSE 'pending' END",
        "ready_key": f"CASE WHEN {part} > {max(STATES)} AND {part} < {NOT_DUE} THEN t.order_key END",
        "wake_at": f"CASE WHEN {part} = {NOT_DUE} THEN {later} END",
        "completed_at": f"CASE WHEN {ended} THEN m.at END",
        "created_at": "m.at",
        "updated_at": "m.at",
        "error_kind": f"CASE WHEN {part} = 0 THEN 'permanent' END",
        "error_message": f"CASE WHEN {part} = 0 THEN 'HTTP 404: there is no such app' END",
    }
    source = (
        f"bench_number n JOIN bench_moment m ON m.n = (n.n * {beats // copies if copies <= beats else 1}) % {beats}"
        f" CROSS JOIN cl_crawl_task t WHERE n.n < {copies}"
    )
    return [insert_select(schema.crawl_task, values, source)]


def _runs(db: Database) -> list[str]:
    """A run of each task that completed or failed, by its device, and the devices' beats."""
    table = schema.task_assignment
    values = {
        "id": "d.epoch * 2147483648 + t.id",
        "task_id": "t.id",
        "device_id": "d.device_id",
        "device_epoch": "d.epoch",
        "retry_count": "0",
        "assigned_at": "t.created_at",
        "taken_at": "t.created_at",
        "started_at": "t.created_at",
        "result_data": "NULL",
    }
    ended = f"cl_crawl_task t JOIN cl_device d ON d.epoch = 1 + t.id % {DEVICES}"
    runs = insert_select(table, values, f"{ended} WHERE t.status IN ('completed', 'failed')")
    beat = {
        "device_id": "d.device_id",
        "device_epoch": "d.epoch",
        "heartbeat_time": "m.at",
        "cpu_usage": "12.5",
        "memory_usage": "40.0",
        "disk_usage": "60.0",
        "network_status": "'good'",
        "running_tasks": "3",
        "system_load": "0.5",
        "error_count": "0",
        "delay_seconds": "0.01",
        "status_info": "'{}'",
        "created_at": "m.at",
    }
    return [
        runs,
        insert_select(schema.device_heartbeat, beat, "bench_moment m CROSS JOIN cl_device d ORDER BY m.n, d.id"),
    ]


def _feeds(db: Database) -> list[str]:
    """A feed and an app for each seed, and the coverage of every day."""
    now = db.dialect.moment("now")
    seeds = "(SELECT MIN(id) AS id, source, username, app_id FROM cl_crawl_task GROUP BY source, username, app_id) AS t"
    feed = {
        "report": f"'{DEFAULT_REPORT}'",
        "denials": "0",
        "denied_until": "NULL",
        "denied_reason": "NULL",
        "doubted_since": "NULL",
        "fetch_count": "1",
        "created_at": now,
    }
    app = dict.fromkeys(("app_name", "platform", "timezone", "currency", "extra"), "NULL")
    app |= {"app_status": "'active'", "first_seen_at": now, "fetched_at": now}
    covered = {
        "feed_id": "f.id",
        "day": "d.day",
        "row_count": "100",
        "checksum": "'0'",
        "totals": "'{}'",
        "settled_fetches": "1",
        "fetch_number": "1",
        "suspect_fetches": "0",
        "fetched_at": now,
    }
    return [
        insert_select(schema.feed, feed, f"{seeds} ORDER BY t.id"),
        insert_select(schema.user_app, app, f"{seeds} ORDER BY t.id"),
        insert_select(
            schema.coverage, covered, "cl_feed f CROSS JOIN bench_day d WHERE d.n % 10 <> 3 ORDER BY f.id, d.n"
        ),
    ]


def _lists(db: Database) -> list[str]:
    """What people did: an event and a row of the audit for each cancelled task."""
    cancelled = "cl_crawl_task t WHERE t.status = 'cancelled' ORDER BY t.id"
    event = {"task_id": "t.id", "event": "'cancelled'", "actor": "'token deploy'", "detail": "NULL"}
    entry = {"actor": "'token deploy'", "action": "'tasks.cancel'", "target": "NULL", "detail": "'{}'"}
    return [insert_select(schema.task_event, event, cancelled), insert_select(schema.audit, entry, cancelled)]


_FIGURES = (
    "INSERT INTO cl_app_data (feed_id, date, row_hash, media_source, campaign, country, impressions, clicks, installs,"
    " sessions, loyal_users, revenue, cost) SELECT f.id, d.day, n.row_hash, 'a media source', 'a campaign of autumn',"
    " 'DE', 12000, 340, 25, 310, 8, 12.5, 33.25 FROM cl_feed f CROSS JOIN bench_day d CROSS JOIN bench_number n"
    " WHERE f.id BETWEEN :first AND :last AND n.n < :rows ORDER BY f.id, d.day, n.row_hash"
)
