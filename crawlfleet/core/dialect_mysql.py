"""SQLAlchemy's dialect for a MariaDB or MySQL that may be far away: what the driver knows is not asked for again.

A new connection costs one round trip beyond the driver's handshake. All connections are in autocommit mode, so a look
leaves nothing to roll back; `Transaction` sends its own BEGIN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.engine import Connection


class QuickDialect(MySQLDialect_pymysql):
    """Asks the server nothing about itself; the session is set up by `Database`."""

    supports_statement_cache = True

    def initialize(self, connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        self.server_version_info = self._parse_server_version(raw.get_server_info())

    def on_connect(self) -> Callable[[Any], None]:
        return lambda connection: None
