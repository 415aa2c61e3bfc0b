"""Models of the API that say what a table says: made from its columns, so that a column is spelled once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from pydantic import ConfigDict, create_model

from crawlfleet.model.column_types import Amount, Day, Moment

_TYPES: tuple[tuple[type[sa.types.TypeEngine[Any]], Any], ...] = (  # of a column -> of a field; the first that fits
    (Moment, dt.datetime),
    (Day, dt.date),
    (Amount, float),
    (sa.JSON, Any),
    (sa.Boolean, bool),
    (sa.Integer, int),
    (sa.String, str),
)


def fields_of(table: sa.Table, without: Collection[str] = (), **types: Any) -> dict[str, Any]:
    """The fields that a row of a table has, by name, each with its type; `types` says more than the column does."""
    names = [column.name for column in table.c if column.name not in without]
    return {name: types.get(name, _type_of(table.c[name])) for name in names}


def row_model(name: str, doc: str, fields: Mapping[str, Any], example: Mapping[str, Any] | None = None) -> Any:
    """A model with these fields, all of which are there."""
    config = ConfigDict(json_schema_extra={"example": dict(example)}) if example else ConfigDict()
    made: dict[str, Any] = {field: (kind, ...) for field, kind in fields.items()}
    return create_model(name, __doc__=doc or None, __config__=config, __module__=__name__, **made)


def _type_of(column: sa.Column[Any]) -> Any:
    kind = next(python for sql_type, python in _TYPES if isinstance(column.type, sql_type))
    return kind | None if column.nullable and kind is not Any else kind
