"""How a scheduler learns at once that the queue changed, where the database can tell.

PostgreSQL notifies; SQLite has its data version, which any commit moves; MySQL and MariaDB have nothing, there the
scheduler looks at the head of its lanes now and then.
"""

from __future__ import annotations

from sqlalchemy.engine import Connection

from crawlfleet.core.db import Database

CHANNEL = "crawlfleet_tasks"


def tasks_changed(db: Database, connection: Connection) -> None:
    """Wake the schedulers when this transaction commits."""
    if db.family == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_notify('{CHANNEL}', '')")
