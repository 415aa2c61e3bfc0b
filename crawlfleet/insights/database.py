"""What kind of database the fleet has, read-only."""

from __future__ import annotations

from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.model import migrations, schema
from crawlfleet.model.claim_strategy import probe_strategy


def database_state(db: Database) -> dict[str, Any]:
    """What kind of database this is.

    `migration` is None without our tables; `claims` is None unless `migration` is the `expected` one.
    """
    migration = migrations.current(db)
    return {
        "database": db.name,
        "server": db.product,
        "version": db.version,
        "migration": migration,
        "expected": schema.HEAD,
        "claims": probe_strategy(db).value if migration == schema.HEAD else None,
    }
