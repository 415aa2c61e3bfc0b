"""Figures made ready before their transaction begins: SQLite has one writer, and all others wait for it.

Hashing 200,000 rows and taking their JSON apart takes seconds. Done ahead, in a table of this connection alone, the
transaction only copies it, which takes some tenths of a second.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import date

from crawlfleet.core.sql import json_batches, sql
from crawlfleet.core.transaction import Transaction
from crawlfleet.core.vendor_data import Figures
from crawlfleet.model.coverage import DayTotals
from crawlfleet.model.figure_rows import COLUMNS, batches_of, figures_row

TABLE = "temp.cl_staged"


class StagedFigures:
    """The rows of one result in a temporary table of an SQLite connection; `totals` are those of its days."""

    def __init__(self, transaction: Transaction, rows: Iterable[Figures]) -> None:
        """Fill the table; the transaction has not begun. Raises ValueRefused."""
        self.totals: dict[date, DayTotals] = {}
        names = ", ".join(COLUMNS)
        transaction.execute_ahead(sql(f"DROP TABLE IF EXISTS {TABLE}"))
        transaction.execute_ahead(sql(f"CREATE TABLE {TABLE} ({names})"))
        insert = sql(f"INSERT INTO {TABLE} ({names}) SELECT {names} FROM {transaction.dialect.rows(**COLUMNS)}")
        seen: Counter[bytes] = Counter()
        for batch in batches_of(rows):
            values = [figures_row(row, seen) for row in batch]
            for row, stored in zip(batch, values, strict=True):
                self.totals.setdefault(row.day, DayTotals()).add(row, stored)
            for texts in json_batches(values, transaction.dialect.batch_bytes):
                transaction.execute_ahead(insert, {"rows": texts})

    def insert(self, transaction: Transaction, feed_id: int, without: Collection[date]) -> None:
        """Copy the rows of all days but these into the feed, and drop the table."""
        names = ", ".join(COLUMNS)
        days = json.dumps([each.isoformat() for each in sorted(without)])
        copy = (
            f"INSERT INTO cl_app_data (feed_id, {names}) SELECT :feed, {names} FROM {TABLE}"
            " WHERE date NOT IN (SELECT value FROM json_each(:days)) ORDER BY date, row_hash"
        )
        transaction.execute(sql(copy), {"feed": feed_id, "days": days})
        transaction.execute(sql(f"DROP TABLE {TABLE}"))
