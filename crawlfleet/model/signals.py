"""How a scheduler learns at once that the queue changed, where the database can tell.

PostgreSQL notifies; SQLite has its data version, which any commit moves; MySQL and MariaDB have nothing, there the
scheduler looks at the head of its lanes now and then.
"""

from __future__ import annotations

from crawlfleet.core.sql import sql
from crawlfleet.core.transaction import Transaction

CHANNEL = "crawlfleet_tasks"


def tasks_changed(transaction: Transaction) -> None:
    """Wake the schedulers when this transaction commits."""
    if transaction.dialect.family == "postgresql":
        transaction.execute(sql(f"SELECT pg_notify('{CHANNEL}', '')"))
