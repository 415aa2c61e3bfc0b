"""How tasks are claimed on a server: whether it honours SKIP LOCKED is found out by trying."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql
from crawlfleet.core.transaction import Transaction


class Strategy(StrEnum):
    SKIP_LOCKED = "skip locked"
    COMPARE_AND_SET = "compare and set"


def probe_strategy(db: Database) -> Strategy:
    """Whether this server honours SKIP LOCKED: one session locks a row, another looks for it."""
    if db.family == "sqlite":
        return Strategy.COMPARE_AND_SET
    if db.family == "mysql":
        with db.read() as reader:
            galera = reader.exec_driver_sql("SHOW VARIABLES LIKE 'wsrep_on'").first()
        if galera is not None and galera[1].upper() == "ON":
            return Strategy.COMPARE_AND_SET
    look = sql("SELECT name FROM cl_fleet_state WHERE name = 'paused' FOR UPDATE SKIP LOCKED")

    def probe(transaction: Transaction) -> Strategy:
        transaction.execute(sql("SELECT name FROM cl_fleet_state WHERE name = 'paused' FOR UPDATE")).first()
        try:
            with db.engine.connect() as other:
                seen = other.execute(look).first()
        except sa.exc.DBAPIError:  # no such syntax, or it waited for the lock after all
            return Strategy.COMPARE_AND_SET
        return Strategy.SKIP_LOCKED if seen is None else Strategy.COMPARE_AND_SET

    return db.write(probe)
