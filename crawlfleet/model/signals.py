"""How a scheduler learns at once that the queue changed, where the database can tell.

PostgreSQL notifies; SQLite has its data version, which any commit moves; MySQL and MariaDB have nothing, there the
scheduler looks at the head of its lanes now and then.
"""

from __future__ import annotations

from crawlfleet.core.sql import sql
from crawlfleet.core.transaction import Transaction

CHANNEL = "crawlfleet_tasks"


def tasks_changed(transaction: Transaction, lane_key: str | None = None) -> None:
    """Wake the schedulers when this transaction commits; if a lane is named, only if it is there."""
    if transaction.dialect.family != "postgresql":
        return
    notify = f"SELECT pg_notify('{CHANNEL}', '')"
    if lane_key is None:
        transaction.execute(sql(notify))
    else:
        transaction.execute(sql(f"{notify} FROM cl_lane WHERE lane_key = :lane_key"), {"lane_key": lane_key})
