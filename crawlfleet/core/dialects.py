"""SQLAlchemy's dialects for servers that may be far away: what the driver already knows is not asked for again.

A new connection costs one round trip beyond the driver's handshake. All connections are in autocommit mode, so a look
leaves nothing to roll back; `Transaction` sends its own BEGIN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import Connection


class QuickMySQL(MySQLDialect_pymysql):
    """Asks the server nothing about itself; the session is set up by `Database`."""

    supports_statement_cache = True

    def initialize(self, connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        self.server_version_info = self._parse_server_version(raw.get_server_info())

    def on_connect(self) -> Callable[[Any], None]:
        return lambda connection: None


class QuickPostgreSQL(PGDialect_psycopg):
    """The same; types of extensions are not looked for."""

    supports_statement_cache = True

    def initialize(self, connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        number = raw.info.server_version
        self.server_version_info = (number // 10000, number % 10000)


def quick_url_scheme(family: str) -> str:
    """The name under which SQLAlchemy finds the dialect of this family of servers."""
    name = {"mysql": "QuickMySQL", "postgresql": "QuickPostgreSQL"}[family]
    registry.register(f"{family}.quick", __name__, name)
    return f"{family}+quick"
