from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.model.column_types import Amount, Day, Moment
from tests.conftest import Backend

MOMENT = datetime(2026, 1, 31, 8, 0, 0, 123456, UTC)

KINDS = sa.Table(
    "kinds",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("moment", Moment),
    sa.Column("day", Day),
    sa.Column("amount", Amount),
)


def read_back(backend: Backend, **values: Any) -> sa.Row[Any]:
    """The row that an insert of these values gives."""
    db = Database(backend.url)
    try:
        with db.engine.begin() as connection:
            KINDS.create(connection)
            connection.execute(KINDS.insert().values(id=1, **values))
            return connection.execute(sa.select(KINDS)).one()
    finally:
        db.close()


def test_columns_give_back_what_they_were_given(empty_backend: Backend) -> None:
    row = read_back(empty_backend, moment=MOMENT, day=date(2026, 1, 31), amount=Decimal("12.340001"))
    assert (row.moment, row.day, row.amount) == (MOMENT, date(2026, 1, 31), Decimal("12.340001"))
    assert row.moment.utcoffset() == timedelta(0)
    assert type(row.day) is date
    assert type(row.amount) is Decimal


def test_columns_give_back_nothing_as_none(empty_backend: Backend) -> None:
    row = read_back(empty_backend, moment=None, day=None, amount=None)
    assert (row.moment, row.day, row.amount) == (None, None, None)


@pytest.mark.parametrize("hours", [-5, 8])
def test_a_moment_of_another_zone_is_stored_in_utc(empty_backend: Backend, hours: int) -> None:
    there = MOMENT.astimezone(timezone(timedelta(hours=hours)))
    row = read_back(empty_backend, moment=there)
    assert row.moment == MOMENT
    assert row.moment.utcoffset() == timedelta(0)
