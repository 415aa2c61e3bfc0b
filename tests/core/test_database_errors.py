"""Whose trouble an error of a database is: decided by its code alone."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from crawlfleet.core.database_errors import Trouble, condemns, trouble_of

CASES = [
    ("postgresql", "57014", Trouble.SERVER),  # a time limit, or a person
    ("postgresql", "53100", Trouble.SERVER),  # no space
    ("postgresql", "55006", Trouble.SERVER),
    ("postgresql", "XX002", Trouble.SERVER),
    ("postgresql", "55P03", Trouble.AGAIN),
    ("postgresql", "40P01", Trouble.AGAIN),
    ("postgresql", "25006", Trouble.AWAY),  # read only
    ("postgresql", "08006", Trouble.AWAY),
    ("postgresql", "57P01", Trouble.BROKEN),
    ("postgresql", "", Trouble.BROKEN),
    ("postgresql", "22001", Trouble.DATA),
    ("postgresql", "23505", Trouble.DATA),
    ("postgresql", "P0001", Trouble.DATA),
    ("postgresql", "54000", Trouble.DATA),
    ("postgresql", "42601", Trouble.UNKNOWN),
    ("mysql", 1969, Trouble.SERVER),
    ("mysql", 3024, Trouble.SERVER),
    ("mysql", 1114, Trouble.SERVER),
    ("mysql", 1021, Trouble.SERVER),
    ("mysql", 1142, Trouble.SERVER),
    ("mysql", 1205, Trouble.AGAIN),
    ("mysql", 1290, Trouble.AWAY),
    ("mysql", 1047, Trouble.AWAY),  # a node of a Galera cluster that is not ready
    ("mysql", 2013, Trouble.BROKEN),
    ("mysql", 1153, Trouble.BROKEN),
    ("mysql", 1366, Trouble.DATA),
    ("mysql", 1062, Trouble.DATA),
    ("mysql", 1644, Trouble.DATA),
    ("mysql", 1064, Trouble.UNKNOWN),
    ("sqlite", sqlite3.SQLITE_FULL, Trouble.SERVER),
    ("sqlite", sqlite3.SQLITE_BUSY, Trouble.AGAIN),
    ("sqlite", sqlite3.SQLITE_READONLY, Trouble.AWAY),
    ("sqlite", sqlite3.SQLITE_TOOBIG, Trouble.DATA),
    ("sqlite", sqlite3.SQLITE_CONSTRAINT, Trouble.DATA),
    ("sqlite", sqlite3.SQLITE_ERROR, Trouble.UNKNOWN),
]


def error_of(family: str, code: Any) -> DBAPIError:
    """An error as SQLAlchemy gives it."""
    cause: Exception
    if family == "postgresql":
        base: Any = psycopg.Error
        cause = psycopg.errors.lookup(code)("no") if code else psycopg.OperationalError("no")
    elif family == "mysql":
        base = pymysql.err.Error
        errors: Any = pymysql.err
        cause = errors.error_map.get(code, pymysql.err.OperationalError)(code, "no")
    else:
        base, cause = sqlite3.Error, sqlite3.OperationalError("no")
        cause.sqlite_errorcode = code
    return DBAPIError.instance("SELECT 1", None, cause, base, dialect=sa.dialects.registry.load(family)())  # type: ignore[no-any-return, call-overload]


@pytest.mark.parametrize(("family", "code", "trouble"), CASES)
def test_a_code_says_whose_trouble_it_is(family: str, code: Any, trouble: Trouble) -> None:
    """Time limits, a full disk and locks were taken for faults of the data, and tasks failed for good."""
    found = error_of(family, code)
    assert trouble_of(family, found) is trouble
    assert condemns(family, found) is (trouble is Trouble.DATA)
