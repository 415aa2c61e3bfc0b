"""What vendors and clocks taught: windows that widen, fetches counted by feed, answers that are doubted.

Made to be repeated: MySQL and MariaDB commit each statement by itself, so an upgrade that was cut off leaves some
behind.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"


MOMENT = (
    sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb").with_variant(sa.Text(), "sqlite")
)


def _add_column(table: str, name: str, kind: Any, default: str | None = None) -> None:
    """Add a column unless it is there; with a default it is NOT NULL."""
    if name not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, sa.Column(name, kind, nullable=default is None, server_default=default))


def upgrade() -> None:
    _add_column("cl_budget", "learned_seconds", sa.Float())
    _add_column("cl_feed", "fetch_count", sa.BigInteger(), "0")
    _add_column("cl_feed", "doubted_since", MOMENT)
    # a page of a CDN or one spurious refusal could deny a feed: each is asked once more
    op.execute("UPDATE cl_feed SET denials = 0, denied_until = NULL, denied_reason = NULL WHERE denials > 0")
    _add_column("cl_coverage", "fetch_number", sa.BigInteger(), "0")
    _add_column("cl_coverage", "suspect_fetches", sa.Integer(), "0")
    _add_column("cl_api_token", "accounts", sa.Text())
    _add_column("cl_api_token", "expires_at", MOMENT)
    _add_column("cl_api_token", "last_used_at", MOMENT)
    op.execute("DROP VIEW IF EXISTS v_app_data")
    op.execute(
        "CREATE VIEW v_app_data AS SELECT f.source, f.username, f.app_id, f.report, d.date, d.agency,"
        " d.media_source, d.campaign, d.country, d.impressions, d.clicks, d.installs, d.sessions, d.loyal_users,"
        " d.revenue, d.cost, COALESCE(a.currency, 'unknown') AS currency, d.extra"
        " FROM cl_app_data d JOIN cl_feed f ON f.id = d.feed_id"
        " LEFT JOIN cl_user_app a ON a.source = f.source AND a.username = f.username AND a.app_id = f.app_id"
    )
