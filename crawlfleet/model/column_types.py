"""Types of columns that read the same on every database: moments, days and amounts.

SQLite has no such types, and MySQL knows no time zone. Queries made of the tables in `schema` give Python values with
these; statements as text do not know them, see `core/sql`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from crawlfleet.core import sql


def kind_of(column: sa.Column[Any]) -> str:
    """The kind of a column's values, as `SqlDialect.rows` and `.bound` name it."""
    kinds = {Moment: "moment", Day: "day", Amount: "decimal", sa.JSON: "json", sa.Integer: "int", sa.String: "text"}
    return next(kind for of, kind in kinds.items() if isinstance(column.type, of))


class Moment(sa.TypeDecorator[datetime]):
    """A moment in UTC with microseconds: text on SQLite. One of another zone is stored as the moment that it is."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name in {"mysql", "mariadb"}:
            from sqlalchemy.dialects.mysql import DATETIME  # loaded already where it is needed

            return dialect.type_descriptor(DATETIME(fsp=6))
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else self.impl_instance)

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        # MySQL's driver would leave the zone out
        return sql.stamp(value) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        return sql.utc(value)


class Day(sa.TypeDecorator[date]):
    """A calendar day: text on SQLite."""

    impl = sa.Date()
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else self.impl_instance)

    def process_bind_param(self, value: date | None, dialect: sa.Dialect) -> Any:
        return value.isoformat() if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> date | None:
        return sql.day(value)


class Amount(sa.TypeDecorator[Decimal]):
    """Money with 18 digits before the point and 6 after it: a float on SQLite, which has no decimals."""

    impl = sa.Numeric(24, 6)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.REAL() if dialect.name == "sqlite" else self.impl_instance)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Decimal | None:
        return Decimal(str(round(value, 6))) if isinstance(value, float) else value
