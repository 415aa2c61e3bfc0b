"""SQLAlchemy's dialect for a PostgreSQL that may be far away; why and how is told in `dialect_mysql`."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import Connection


class QuickDialect(PGDialect_psycopg):
    """Asks the server nothing about itself; types of extensions are not looked for."""

    supports_statement_cache = True

    def initialize(self, connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        number = raw.info.server_version
        self.server_version_info = (number // 10000, number % 10000)
