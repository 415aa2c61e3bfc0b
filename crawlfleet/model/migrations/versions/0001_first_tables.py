"""The first tables.

Made to be repeated: MySQL and MariaDB commit each table by itself, so a start that was cut off leaves some behind.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up only in an INTEGER PRIMARY KEY
MOMENT = (
    sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb").with_variant(sa.Text(), "sqlite")
)
DAY = sa.Date().with_variant(sa.Text(), "sqlite")
AMOUNT = sa.Numeric(24, 6).with_variant(sa.REAL(), "sqlite")
HASH = sa.LargeBinary(16).with_variant(mysql.BINARY(16), "mysql", "mariadb").with_variant(sa.Text(), "sqlite")
LONG_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
NAME = sa.String(64)  # device, type, source, report
LABEL = sa.String(190)  # account, app, unique key: 190 x 4 bytes fits every index
READY_LANE = "CASE WHEN ready_key IS NULL THEN NULL ELSE lane_id END"

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}


def _moment(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, MOMENT, nullable=nullable)


def _only(condition: str) -> dict[str, Any]:
    """A partial index where there is one, so that finished rows do not weigh on it; MySQL has none."""
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def _create_index(name: str, table: str, columns: list[str], **options: Any) -> None:
    """MySQL, unlike the others, knows no CREATE INDEX IF NOT EXISTS."""
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns, **options)


def upgrade() -> None:
    op.create_table(
        "cl_crawl_task",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("task_type", NAME, nullable=False),
        sa.Column("source", NAME),
        sa.Column("username", LABEL),
        sa.Column("app_id", LABEL),
        sa.Column("report", NAME),
        sa.Column("label", NAME),
        sa.Column("start_date", DAY),
        sa.Column("end_date", DAY),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("lane_id", sa.BigInteger, nullable=False),
        sa.Column("order_key", sa.BigInteger, nullable=False),
        sa.Column("ready_key", sa.BigInteger),
        sa.Column("ready_lane_id", sa.BigInteger, sa.Computed(READY_LANE, persisted=True)),
        _moment("wake_at", nullable=True),
        _moment("next_run_at"),
        sa.Column("assignment_id", sa.BigInteger),
        sa.Column("assigned_device_id", NAME),
        _moment("assigned_at", nullable=True),
        sa.Column("execution_timeout", sa.Integer, nullable=False),
        sa.Column("max_retry_count", sa.Integer, nullable=False),
        sa.Column("retry", sa.Integer, nullable=False),
        sa.Column("crash_count", sa.Integer, nullable=False),
        sa.Column("unique_key", LABEL),
        sa.Column("open_key", LABEL, unique=True),
        sa.Column("parent_id", sa.BigInteger),
        sa.Column("task_data", sa.JSON),
        sa.Column("task_ret", sa.JSON),
        sa.Column("error_kind", sa.String(16)),
        sa.Column("error_message", sa.Text),
        _moment("created_at"),
        _moment("updated_at"),
        _moment("completed_at", nullable=True),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_lane",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("lane_key", sa.String(32), nullable=False, unique=True),
        sa.Column("task_type", NAME, nullable=False),
        sa.Column("source", NAME),
        sa.Column("username", LABEL),
        sa.Column("label", NAME),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("budget_count", sa.Integer, nullable=False),
        sa.Column("head_key", sa.BigInteger),
        sa.Column("ready_key", sa.BigInteger),
        _moment("wake_at", nullable=True),
        _moment("created_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_task_assignment",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("task_id", sa.BigInteger, nullable=False),
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("device_epoch", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("retry_count", sa.Integer, nullable=False),
        _moment("assigned_at"),
        _moment("taken_at", nullable=True),
        _moment("started_at", nullable=True),
        _moment("completed_at", nullable=True),
        sa.Column("error_kind", sa.String(16)),
        sa.Column("error_message", sa.Text),
        sa.Column("result_data", sa.JSON),
        _moment("created_at"),
        _moment("updated_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_device",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("device_id", NAME, nullable=False, unique=True),
        sa.Column("device_name", LABEL, nullable=False),
        sa.Column("device_type", sa.String(16), nullable=False),
        sa.Column("ip_address", sa.String(64)),
        sa.Column("port", sa.Integer),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("capabilities", sa.JSON, nullable=False),
        sa.Column("max_concurrent_tasks", sa.Integer, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False, unique=True),
        sa.Column("process", sa.JSON, nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        _moment("last_heartbeat"),
        _moment("registered_at"),
        _moment("created_at"),
        _moment("updated_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_device_heartbeat",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("device_epoch", sa.BigInteger, nullable=False),
        _moment("heartbeat_time"),
        sa.Column("cpu_usage", sa.Float),
        sa.Column("memory_usage", sa.Float),
        sa.Column("disk_usage", sa.Float),
        sa.Column("network_status", sa.String(16)),
        sa.Column("running_tasks", sa.Integer, nullable=False),
        sa.Column("system_load", sa.Float),
        sa.Column("error_count", sa.Integer, nullable=False),
        sa.Column("delay_seconds", sa.Float, nullable=False),
        sa.Column("status_info", sa.JSON),
        _moment("created_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_account",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("source", NAME, nullable=False),
        sa.Column("username", LABEL, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("token_env", sa.String(255)),
        sa.Column("token_file", sa.String(1024)),
        sa.Column("token_sealed", sa.Text),
        sa.Column("proxy", sa.String(1024)),
        sa.Column("app_ids", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("status_reason", sa.Text),
        _moment("status_since"),
        _moment("created_at"),
        _moment("updated_at"),
        sa.UniqueConstraint("source", "username", name="uq_account"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_user_app",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("source", NAME, nullable=False),
        sa.Column("username", LABEL, nullable=False),
        sa.Column("app_id", LABEL, nullable=False),
        sa.Column("app_name", sa.Text),
        sa.Column("platform", sa.Text),
        sa.Column("timezone", sa.Text),
        sa.Column("currency", sa.Text),
        sa.Column("app_status", sa.String(16), nullable=False),
        sa.Column("extra", sa.JSON),
        _moment("first_seen_at"),
        _moment("fetched_at"),
        sa.UniqueConstraint("source", "username", "app_id", name="uq_user_app"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_feed",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("source", NAME, nullable=False),
        sa.Column("username", LABEL, nullable=False),
        sa.Column("app_id", LABEL, nullable=False),
        sa.Column("report", NAME, nullable=False),
        sa.Column("denials", sa.Integer, nullable=False),
        _moment("denied_until", nullable=True),
        sa.Column("denied_reason", sa.Text),
        _moment("created_at"),
        sa.UniqueConstraint("source", "username", "app_id", "report", name="uq_feed"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_app_data",
        sa.Column("feed_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("date", DAY, primary_key=True),
        sa.Column("row_hash", HASH, primary_key=True),
        sa.Column("agency", sa.Text),
        sa.Column("media_source", sa.Text),
        sa.Column("campaign", sa.Text),
        sa.Column("country", sa.Text),
        sa.Column("impressions", sa.BigInteger),
        sa.Column("clicks", sa.BigInteger),
        sa.Column("installs", sa.BigInteger),
        sa.Column("sessions", sa.BigInteger),
        sa.Column("loyal_users", sa.BigInteger),
        sa.Column("revenue", AMOUNT),
        sa.Column("cost", AMOUNT),
        sa.Column("extra", sa.JSON),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_coverage",
        sa.Column("feed_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("day", DAY, primary_key=True),
        sa.Column("row_count", sa.Integer, nullable=False),
        sa.Column("checksum", sa.String(32), nullable=False),
        sa.Column("totals", sa.JSON, nullable=False),
        sa.Column("settled_fetches", sa.Integer, nullable=False),
        _moment("fetched_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_lane_budget",
        sa.Column("lane_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("budget_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, nullable=False),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_budget",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("budget_key", sa.String(32), nullable=False, unique=True),
        sa.Column("source", NAME, nullable=False),
        sa.Column("limit_name", NAME, nullable=False),
        sa.Column("username", LABEL, nullable=False),
        sa.Column("app_id", LABEL, nullable=False),
        sa.Column("report", NAME, nullable=False),
        sa.Column("calls", sa.Integer),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("learned_calls", sa.Integer),
        _moment("learned_until", nullable=True),
        sa.Column("refusals", sa.Integer, nullable=False),
        _moment("closed_until", nullable=True),
        sa.Column("closed_reason", sa.Text),
        _moment("open_at"),
        _moment("created_at"),
        _moment("updated_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_budget_call",
        sa.Column("budget_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("assignment_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        _moment("called_at", nullable=True),
        _moment("free_at", nullable=True),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_restatement",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("feed_id", sa.BigInteger, nullable=False),
        sa.Column("day", DAY, nullable=False),
        sa.Column("rows_before", sa.Integer, nullable=False),
        sa.Column("rows_after", sa.Integer, nullable=False),
        sa.Column("totals_before", sa.JSON, nullable=False),
        sa.Column("totals_after", sa.JSON, nullable=False),
        _moment("fetched_before"),
        _moment("fetched_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_task_event",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("task_id", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("actor", LABEL),
        sa.Column("detail", sa.Text),
        _moment("created_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_task_log",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("task_id", sa.BigInteger, nullable=False),
        sa.Column("assignment_id", sa.BigInteger, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        _moment("logged_at"),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_fleet_state",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text),
        _moment("updated_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_api_token",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("name", NAME, nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("created_by", LABEL),
        _moment("created_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    op.create_table(
        "cl_audit",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("actor", LABEL, nullable=False),
        sa.Column("action", NAME, nullable=False),
        sa.Column("target", LABEL),
        sa.Column("detail", sa.JSON, nullable=False),
        _moment("created_at"),
        **OPTIONS,
        if_not_exists=True,
    )
    _create_index(
        "ix_crawl_task_claim",
        "cl_crawl_task",
        ["ready_lane_id", "ready_key", "id"],
        **_only("ready_lane_id IS NOT NULL"),
    )
    _create_index("ix_crawl_task_wake", "cl_crawl_task", ["wake_at"], **_only("wake_at IS NOT NULL"))
    _create_index("ix_crawl_task_status", "cl_crawl_task", ["status", "id"])
    _create_index("ix_crawl_task_username", "cl_crawl_task", ["username", "id"], **_only("username IS NOT NULL"))
    _create_index("ix_task_assignment_task", "cl_task_assignment", ["task_id"])
    _create_index("ix_task_assignment_device", "cl_task_assignment", ["device_id", "id"])
    _create_index(
        "ix_task_assignment_live",
        "cl_task_assignment",
        ["device_id", "status"],
        **_only("status IN ('assigned', 'running')"),
    )
    _create_index(
        "ix_task_assignment_completed", "cl_task_assignment", ["completed_at"], **_only("completed_at IS NOT NULL")
    )
    _create_index("ix_device_heartbeat_device", "cl_device_heartbeat", ["device_id", "heartbeat_time"])
    _create_index("ix_device_heartbeat_time", "cl_device_heartbeat", ["heartbeat_time"])
    _create_index("ix_task_event_task", "cl_task_event", ["task_id"])
    _create_index("ix_task_log_task", "cl_task_log", ["task_id", "id"])
    _create_index("ix_task_log_time", "cl_task_log", ["logged_at"])
    _create_index("ix_lane_ready", "cl_lane", ["ready_key"], **_only("ready_key IS NOT NULL"))
    _create_index("ix_lane_wake", "cl_lane", ["wake_at"], **_only("wake_at IS NOT NULL"))
    _create_index("ix_lane_account", "cl_lane", ["source", "username"])
    _create_index("ix_lane_budget_budget", "cl_lane_budget", ["budget_id"])
    _create_index("ix_budget_call_assignment", "cl_budget_call", ["assignment_id"])
    _create_index("ix_restatement_feed", "cl_restatement", ["feed_id", "day"])
    if "v_app_data" not in sa.inspect(op.get_bind()).get_view_names():
        op.execute(
            "CREATE VIEW v_app_data AS SELECT f.source, f.username, f.app_id, f.report, d.date, d.agency,"
            " d.media_source, d.campaign, d.country, d.impressions, d.clicks, d.installs, d.sessions, d.loyal_users,"
            " d.revenue, d.cost, d.extra FROM cl_app_data d JOIN cl_feed f ON f.id = d.feed_id"
        )
    present = set(op.get_bind().execute(sa.text("SELECT name FROM cl_fleet_state")).scalars())
    for name in ("epoch", "paused"):
        if name not in present:
            op.execute(
                "INSERT INTO cl_fleet_state (name, value, updated_at)"
                f" VALUES ('{name}', 0, '2000-01-01 00:00:00.000000')"
            )
