"""The tables. Migrations in `migrations/versions` bring a database here; a test compares the two.

Every name a user stores compares exactly (`utf8mb4_bin` on MySQL and MariaDB). Moments are UTC with microseconds.

Nothing here is in the words of one dialect: an option or a type of MySQL or PostgreSQL would load that dialect, with
all its drivers, into every node (2 MB each). Those words are the migrations'; tests look at the databases they make.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from crawlfleet.model.column_types import Amount, Day, Moment

HEAD = "0002"  # the newest migration; lets a start skip loading Alembic when there is nothing to do

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up only in an INTEGER PRIMARY KEY
HASH = sa.LargeBinary(16).with_variant(sa.BINARY(16), "mysql", "mariadb").with_variant(sa.Text(), "sqlite")
NAME = sa.String(64)  # device, type, source, report
LABEL = sa.String(190)  # account, app, unique key: 190 x 4 bytes fits every index
READY_LANE = "CASE WHEN ready_key IS NULL THEN NULL ELSE lane_id END"

metadata = sa.MetaData()


def _table(name: str, *items: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, metadata, *items)


def _moment(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, Moment, nullable=nullable)


def _only(condition: str) -> dict[str, Any]:
    """A partial index where there is one, so that finished rows do not weigh on it; MySQL has none."""
    return {"info": {"only": condition}}


crawl_task = _table(
    "cl_crawl_task",
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("task_type", NAME, nullable=False),
    sa.Column("source", NAME),
    sa.Column("username", LABEL),
    sa.Column("app_id", LABEL),
    sa.Column("report", NAME),
    sa.Column("label", NAME),  # only devices that have it take the task
    sa.Column("start_date", Day),
    sa.Column("end_date", Day),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    # the claim walks (ready_lane_id, ready_key, id): lane and order_key while the task is pending and due, else null
    sa.Column("lane_id", sa.BigInteger, nullable=False),
    sa.Column("order_key", sa.BigInteger, nullable=False),
    sa.Column("ready_key", sa.BigInteger),
    # MySQL and MariaDB must find those that are ready by equality: past an `IS NOT NULL` they read all that has ended
    sa.Column("ready_lane_id", sa.BigInteger, sa.Computed(READY_LANE, persisted=True)),
    _moment("wake_at", nullable=True),  # pending but not due yet: when it becomes ready
    _moment("next_run_at"),
    sa.Column("assignment_id", sa.BigInteger),  # the live run: fence and mutex of every move
    sa.Column("assigned_device_id", NAME),
    _moment("assigned_at", nullable=True),
    sa.Column("execution_timeout", sa.Integer, nullable=False),
    sa.Column("max_retry_count", sa.Integer, nullable=False),
    sa.Column("retry", sa.Integer, nullable=False),  # attempts spent
    sa.Column("crash_count", sa.Integer, nullable=False),
    sa.Column("unique_key", LABEL),
    sa.Column("open_key", LABEL, unique=True),  # unique_key until the task ends
    sa.Column("parent_id", sa.BigInteger),
    sa.Column("task_data", sa.JSON),
    sa.Column("task_ret", sa.JSON),
    sa.Column("error_kind", sa.String(16)),
    sa.Column("error_message", sa.Text),
    _moment("created_at"),
    _moment("updated_at"),
    _moment("completed_at", nullable=True),
    # with the id, or PostgreSQL would give equals in the order in which they were written last
    sa.Index("ix_crawl_task_claim", "ready_lane_id", "ready_key", "id", **_only("ready_lane_id IS NOT NULL")),
    sa.Index("ix_crawl_task_wake", "wake_at", **_only("wake_at IS NOT NULL")),
    sa.Index("ix_crawl_task_status", "status", "id"),
    sa.Index("ix_crawl_task_username", "username", "id", **_only("username IS NOT NULL")),
)

lane = _table(
    "cl_lane",  # the queues within the queue, see lanes.py
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("lane_key", sa.String(32), nullable=False, unique=True),  # hash of what the tasks have in common
    sa.Column("task_type", NAME, nullable=False),
    sa.Column("source", NAME),
    sa.Column("username", LABEL),
    sa.Column("label", NAME),
    sa.Column("calls", sa.Integer, nullable=False),  # that each of its tasks may make
    sa.Column("budget_count", sa.Integer, nullable=False),
    # only kept for lanes of a source, whose budgets may close them
    sa.Column("head_key", sa.BigInteger),  # ready_key of the first task
    sa.Column("ready_key", sa.BigInteger),  # the same while the lane is open, else null
    _moment("wake_at", nullable=True),  # closed, but with tasks: when it opens, where that is known
    _moment("created_at"),
    sa.Index("ix_lane_ready", "ready_key", **_only("ready_key IS NOT NULL")),
    sa.Index("ix_lane_wake", "wake_at", **_only("wake_at IS NOT NULL")),
    sa.Index("ix_lane_account", "source", "username"),
)

lane_budget = _table(
    "cl_lane_budget",  # the budgets that every task of the lane needs
    sa.Column("lane_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("budget_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, nullable=False),  # the narrowest comes first
    sa.Index("ix_lane_budget_budget", "budget_id"),
)

budget = _table(
    "cl_budget",  # what a vendor allows one account, app or report; shared by the fleet
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("budget_key", sa.String(32), nullable=False, unique=True),  # hash of the five names
    sa.Column("source", NAME, nullable=False),
    sa.Column("limit_name", NAME, nullable=False),
    sa.Column("username", LABEL, nullable=False),  # empty where the limit does not count by it
    sa.Column("app_id", LABEL, nullable=False),
    sa.Column("report", NAME, nullable=False),
    sa.Column("calls", sa.Integer),  # null: no number is known, only refusals close it
    sa.Column("seconds", sa.Float, nullable=False),  # 86,400: the UTC day, else a sliding window
    sa.Column("learned_calls", sa.Integer),  # fewer than `calls`, taught by a refusal
    _moment("learned_until", nullable=True),
    sa.Column("learned_seconds", sa.Float),  # longer than `seconds`, taught by a refusal at the declared pace
    sa.Column("refusals", sa.Integer, nullable=False),  # in a row
    _moment("closed_until", nullable=True),
    sa.Column("closed_reason", sa.Text),
    _moment("open_at"),  # from when one more call is allowed; the year 9999 while only the end of a run can tell
    _moment("created_at"),
    _moment("updated_at"),
)

budget_call = _table(
    "cl_budget_call",  # one call that a run may make, or has made, against one budget
    sa.Column("budget_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("assignment_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # of the run's calls, from 0
    _moment("called_at", nullable=True),  # null: held, not made yet
    _moment("free_at", nullable=True),  # when it no longer counts
    sa.Index("ix_budget_call_assignment", "assignment_id"),
)

task_assignment = _table(
    "cl_task_assignment",
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("task_id", sa.BigInteger, nullable=False),
    sa.Column("device_id", NAME, nullable=False),
    sa.Column("device_epoch", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("retry_count", sa.Integer, nullable=False),
    _moment("assigned_at"),
    _moment("taken_at", nullable=True),  # null: a master assigned it, and its device has not taken it over yet
    _moment("started_at", nullable=True),
    _moment("completed_at", nullable=True),
    sa.Column("error_kind", sa.String(16)),
    sa.Column("error_message", sa.Text),
    sa.Column("result_data", sa.JSON),
    _moment("created_at"),
    _moment("updated_at"),
    sa.Index("ix_task_assignment_task", "task_id"),
    sa.Index("ix_task_assignment_device", "device_id", "id"),
    sa.Index("ix_task_assignment_live", "device_id", "status", **_only("status IN ('assigned', 'running')")),
    sa.Index("ix_task_assignment_completed", "completed_at", **_only("completed_at IS NOT NULL")),
)

device = _table(
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
    sa.Column("process", sa.JSON, nullable=False),  # who holds the id: see core/process.py
    sa.Column("version", sa.String(32), nullable=False),
    _moment("last_heartbeat"),
    _moment("registered_at"),
    _moment("created_at"),
    _moment("updated_at"),
)

device_heartbeat = _table(
    "cl_device_heartbeat",
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("device_id", NAME, nullable=False),
    sa.Column("device_epoch", sa.BigInteger, nullable=False),
    _moment("heartbeat_time"),
    sa.Column("cpu_usage", sa.Float),  # percent
    sa.Column("memory_usage", sa.Float),
    sa.Column("disk_usage", sa.Float),
    sa.Column("network_status", sa.String(16)),  # good, slow, poor: from the round trip to the database
    sa.Column("running_tasks", sa.Integer, nullable=False),
    sa.Column("system_load", sa.Float),
    sa.Column("error_count", sa.Integer, nullable=False),
    sa.Column("delay_seconds", sa.Float, nullable=False),  # how late this beat was, its round trip included
    sa.Column("status_info", sa.JSON),
    _moment("created_at"),
    sa.Index("ix_device_heartbeat_device", "device_id", "heartbeat_time"),
    sa.Index("ix_device_heartbeat_time", "heartbeat_time"),
)

account = _table(
    "cl_account",
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("source", NAME, nullable=False),
    sa.Column("username", LABEL, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("token_env", sa.String(255)),  # where each node finds the token
    sa.Column("token_file", sa.String(1024)),
    sa.Column("token_sealed", sa.Text),  # or the token, under a key that is not in the database
    sa.Column("proxy", sa.String(1024)),  # its password is a reference to an environment variable
    sa.Column("app_ids", sa.JSON, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("status_reason", sa.Text),
    _moment("status_since"),
    _moment("created_at"),
    _moment("updated_at"),
    sa.UniqueConstraint("source", "username", name="uq_account"),
)

user_app = _table(
    "cl_user_app",
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("source", NAME, nullable=False),
    sa.Column("username", LABEL, nullable=False),
    sa.Column("app_id", LABEL, nullable=False),
    sa.Column("app_name", sa.Text),
    sa.Column("platform", sa.Text),
    sa.Column("timezone", sa.Text),
    sa.Column("currency", sa.Text),
    sa.Column("app_status", sa.String(16), nullable=False),  # active, or gone from the vendor's list
    sa.Column("extra", sa.JSON),
    _moment("first_seen_at"),
    _moment("fetched_at"),
    sa.UniqueConstraint("source", "username", "app_id", name="uq_user_app"),
)

feed = _table(
    "cl_feed",  # one stream of figures: what a fetch locks, and the key of figures and coverage
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("source", NAME, nullable=False),
    sa.Column("username", LABEL, nullable=False),
    sa.Column("app_id", LABEL, nullable=False),
    sa.Column("report", NAME, nullable=False),
    # the vendor said that this account may not have it: asked again rarely
    sa.Column("denials", sa.Integer, nullable=False),
    _moment("denied_until", nullable=True),
    sa.Column("denied_reason", sa.Text),
    _moment("doubted_since", nullable=True),  # the first of such answers that was not believed yet
    # of those stored; a run reads it when it is claimed: which of two is the later one is no matter of clocks
    sa.Column("fetch_count", sa.BigInteger, nullable=False, server_default="0"),
    _moment("created_at"),
    sa.UniqueConstraint("source", "username", "app_id", "report", name="uq_feed"),
)

app_data = _table(
    "cl_app_data",  # read it through the view v_app_data, which adds the feed's columns
    sa.Column("feed_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("date", Day, primary_key=True),
    sa.Column("row_hash", HASH, primary_key=True),  # of all dimensions, null being a value of its own
    sa.Column("agency", sa.Text),
    sa.Column("media_source", sa.Text),
    sa.Column("campaign", sa.Text),
    sa.Column("country", sa.Text),
    sa.Column("impressions", sa.BigInteger),
    sa.Column("clicks", sa.BigInteger),
    sa.Column("installs", sa.BigInteger),
    sa.Column("sessions", sa.BigInteger),
    sa.Column("loyal_users", sa.BigInteger),
    sa.Column("revenue", Amount),
    sa.Column("cost", Amount),
    sa.Column("extra", sa.JSON),
)

coverage = _table(
    "cl_coverage",
    sa.Column("feed_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("day", Day, primary_key=True),
    sa.Column("row_count", sa.Integer, nullable=False),
    sa.Column("checksum", sa.String(32), nullable=False),  # of the day's rows, in whatever order they came
    sa.Column("totals", sa.JSON, nullable=False),  # sum of each figure
    sa.Column("settled_fetches", sa.Integer, nullable=False),  # that began when the vendor no longer changed the day
    _moment("fetched_at"),
    sa.Column("fetch_number", sa.BigInteger, nullable=False, server_default="0"),  # of the feed's fetches
    # answers without a row, one after another, for a day that had rows: its rows are kept
    sa.Column("suspect_fetches", sa.Integer, nullable=False, server_default="0"),
)

restatement = _table(
    "cl_restatement",  # a later fetch of a day brought other figures
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("feed_id", sa.BigInteger, nullable=False),
    sa.Column("day", Day, nullable=False),
    sa.Column("rows_before", sa.Integer, nullable=False),
    sa.Column("rows_after", sa.Integer, nullable=False),
    sa.Column("totals_before", sa.JSON, nullable=False),
    sa.Column("totals_after", sa.JSON, nullable=False),
    _moment("fetched_before"),
    _moment("fetched_at"),
    sa.Index("ix_restatement_feed", "feed_id", "day"),
)

task_event = _table(
    "cl_task_event",  # only what assignment rows cannot show
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("task_id", sa.BigInteger, nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("actor", LABEL),
    sa.Column("detail", sa.Text),
    _moment("created_at"),
    sa.Index("ix_task_event_task", "task_id"),
)

task_log = _table(
    "cl_task_log",  # what bodies wrote to their log; a run's beginning and end are in its cl_task_assignment
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("task_id", sa.BigInteger, nullable=False),
    sa.Column("assignment_id", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),  # of the run's lines, from 1
    _moment("logged_at"),
    sa.Column("level", sa.Integer, nullable=False),  # 10 debug, 20 info, 30 warning, 40 error, 50 critical
    sa.Column("message", sa.Text, nullable=False),
    sa.Index("ix_task_log_task", "task_id", "id"),
    sa.Index("ix_task_log_time", "logged_at"),
)

fleet_state = _table(
    "cl_fleet_state",  # single facts of the whole fleet: the newest epoch, whether the queue is paused
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text),
    _moment("updated_at"),
)

api_token = _table(
    "cl_api_token",  # who may use the API; the token itself is shown once and stored nowhere
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("name", NAME, nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("token_hash", sa.String(64), nullable=False),  # SHA-256, hex
    sa.Column("created_by", LABEL),
    _moment("created_at"),
    sa.Column("accounts", sa.Text),  # JSON list of source/username that it is for; null: for all
    _moment("expires_at", nullable=True),
    _moment("last_used_at", nullable=True),
)

audit = _table(
    "cl_audit",  # every change that a person or a program made: who, what, and to what
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("actor", LABEL, nullable=False),
    sa.Column("action", NAME, nullable=False),
    sa.Column("target", LABEL),
    sa.Column("detail", sa.JSON, nullable=False),
    _moment("created_at"),
)
