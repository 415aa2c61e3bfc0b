"""What an error of the database says: whose trouble it is, by the server's own code. The only table of codes.

Only what is wrong with the data condemns what was to be stored. Sources:
PostgreSQL, https://www.postgresql.org/docs/current/errcodes-appendix.html (the first two characters are a class);
MariaDB, https://mariadb.com/kb/en/mariadb-error-codes/;
MySQL, https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html;
SQLite, https://www.sqlite.org/rescode.html.
"""

from __future__ import annotations

import re
from enum import StrEnum

from sqlalchemy import exc
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

for _each in vars(exc).values():
    if hasattr(_each, "code"):
        _each.code = None  # else each message ends with an address that helps nobody who uses crawlfleet


class Trouble(StrEnum):
    """Whose trouble an error is."""

    AGAIN = "again"  # somebody else was in the way: rolled back, the same work may be tried at once
    AWAY = "away"  # the server cannot be reached, or takes no work of ours
    BROKEN = "broken"  # the connection ended in the middle
    SERVER = "server"  # the server failed at it, which says nothing about the data: later
    DATA = "data"  # what was sent can never be stored
    UNKNOWN = "unknown"  # none of these: most likely a fault of ours, or a table that somebody changed


AGAIN: dict[str, set[object]] = {
    "sqlite": {5, 6, 15},  # busy, locked, the race of two first openers
    "postgresql": {"40001", "40P01", "55P03"},
    "mysql": {1020, 1205, 1213},
}
AWAY: dict[str, set[object]] = {
    "sqlite": {3, 8, 10, 11, 14, 26},  # permission, read-only, I/O, malformed, cannot open, no database
    # shutting down, starting up, read-only during a failover, too many connections
    "postgresql": {"57P02", "57P03", "57P05", "25P03", "25006", "53300"},
    # the same, refused at the door, a node of a cluster that is not ready
    "mysql": {1040, 1044, 1045, 1047, 1049, 1053, 1129, 1130, 1203, 1226, 1290, 1698, 1836, 4031},
}
BROKEN: dict[str, set[object]] = {
    "sqlite": set(),
    "postgresql": {"57P01"},  # somebody ended the session, or the server is shutting down
    # the same; PyMySQL's 0: its connection was closed before; a packet too large, after which the server hangs up
    "mysql": {0, 1153, 1156, 1157, 1158, 1159, 1160, 1161, 1927},
}
SERVER: dict[str, set[object]] = {
    "sqlite": {7, 9, 13, 22, 23},  # out of memory, interrupted, no space, files too large for this system, not allowed
    "postgresql": {"42501"},  # no privilege; beside the classes below
    "mysql": {
        *{1005, 1006, 1016, 1021, 1026, 1030, 1034, 1035, 1036, 1037, 1038, 1041, 1114, 1135},  # space, files, memory
        *{1142, 1143, 1227, 1370},  # no privilege
        *{1099, 1100, 1180, 1181, 1192, 1194, 1195, 1196, 1206, 1207, 1223, 1412, 1614, 1637, 3572},  # locks, log
        *{1028, 1317, 1792, 1907, 1969, 3024, 3170},  # interrupted, time limits, read only transaction
    },
}
# Insufficient resources, operator intervention, system error, object state, transaction state, configuration file,
# a damaged table or index ("XX001" and "XX002" begin like no other)
SERVER_CLASSES = ("53", "57", "58", "55", "25", "F0", "XX001", "XX002")
DATA: dict[str, set[object]] = {
    "sqlite": {18, 19, 20, 25},  # too big, constraint, type, range
    "postgresql": set(),
    "mysql": {
        *{1118, 1292, 1366, 1367, 1406, 1411, 1426, 1441, 1690},  # values that no column holds
        *{1364, 1586, 3819, 4025},  # constraints
        1644,  # a trigger's refusal
        *{3140, 3141, 3144, 3156, 3157, 3665, 3666, 3669, *range(4035, 4041), 4176, 4178, 4179},  # JSON, JSON_TABLE
        *{1301, 3854},  # results and text that are too long, or in no character set
    },
}
# Cardinality, values, constraints, a view's condition, limits of a row, a trigger's or function's refusal
DATA_CLASSES = ("21", "22", "23", "44", "54", "09", "P0")
MALFORMED, NOT_A_DATABASE = 11, 26  # SQLite's codes
UNKNOWN_DATABASE = 1049  # MySQL's
_BY_CODE = (
    (Trouble.AGAIN, AGAIN),
    (Trouble.AWAY, AWAY),
    (Trouble.BROKEN, BROKEN),
    (Trouble.DATA, DATA),
    (Trouble.SERVER, SERVER),
)
NO_SPACE: dict[str, set[object]] = {"sqlite": {13}, "postgresql": {"53100"}, "mysql": {1021, 1114}}
OUT_OF_TIME: dict[str, set[object]] = {"sqlite": set(), "postgresql": {"57014"}, "mysql": {1969, 3024}}
NO_PRIVILEGE: dict[str, set[object]] = {"sqlite": {23}, "postgresql": {"42501"}, "mysql": {1142, 1143, 1227, 1370}}


def trouble_of(family: str, error: DBAPIError) -> Trouble:
    """Whose trouble an error is that a database of this family raised."""
    code = code_of(error)
    for trouble, codes in _BY_CODE:
        if code in codes[family]:
            return trouble
    if family == "postgresql" and isinstance(code, str) and code:
        if code.startswith(("08", "28", "3D")):
            return Trouble.AWAY
        if code.startswith(DATA_CLASSES):
            return Trouble.DATA
        if code.startswith(SERVER_CLASSES):
            return Trouble.SERVER
    if error.connection_invalidated or _has_no_server(family, error, code):
        return Trouble.BROKEN
    return Trouble.DATA if isinstance(error, DataError | IntegrityError) else Trouble.UNKNOWN


def _has_no_server(family: str, error: DBAPIError, code: object) -> bool:
    """Whether the driver itself speaks, since no server did."""
    if family == "mysql":
        return isinstance(code, int) and 2000 <= code < 2100
    return family == "postgresql" and isinstance(error, OperationalError) and not code


# What Python raises of a value that cannot be written: text that is no UTF-8, a number that no column holds, a moment
# after the year 9999, a statement too large, something of a wrong type.
VALUE_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


def condemns(family: str, error: Exception) -> bool:
    """Whether the error says that what was to be stored never can be."""
    if isinstance(error, DBAPIError):
        return trouble_of(family, error) is Trouble.DATA
    return isinstance(error, VALUE_ERRORS)


def code_of(error: Exception) -> object:
    """The database's own number or SQLSTATE, also of an error that SQLAlchemy wrapped; None when there is none."""
    origin = getattr(error, "orig", None) or error
    if origin.args and isinstance(origin.args[0], int):
        return origin.args[0]  # PyMySQL's; it has a coarser SQLSTATE, too
    if (extended := getattr(origin, "sqlite_errorcode", None)) is not None:
        return extended & 0xFF
    return getattr(origin, "sqlstate", None)


def advice_of(family: str, code: object, trouble: Trouble | None, cause: str, database: str | None) -> str:
    """What a person may do about an error with this code and text."""
    if family == "sqlite":
        return _advice_on_a_file(code)
    by_code = {
        "make room on the database's disk": NO_SPACE,
        "raise the server's time limit for statements, or look why it is slow": OUT_OF_TIME,
        "grant the user of the URL what is missing": NO_PRIVILEGE,
        "look for a transaction that holds its locks for long": AGAIN,
    }
    for advice, codes in by_code.items():
        if code in codes[family]:
            return advice
    if code == UNKNOWN_DATABASE or re.search('database ".*" does not exist', cause):
        return f"create it first: CREATE DATABASE {database}"
    if trouble is Trouble.SERVER:
        return "look at the server's log"
    if trouble is Trouble.BROKEN:
        return "the connection ended in the middle: look at network, the server's log and its limits"
    return "check address, user, password and network"


def _advice_on_a_file(code: object) -> str:
    if code == MALFORMED:
        return "restore the file from a backup, or save what `sqlite3 FILE .recover` still reads of it"
    if code == NOT_A_DATABASE:
        return "name another file, or remove this one when it is not needed"
    if code in AGAIN["sqlite"]:
        return "look for another program that keeps the file locked"
    return "check that the folder exists, is writable and has free space"
