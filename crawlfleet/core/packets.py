"""A MariaDB or MySQL connection that takes several statements in one packet and asks for no needless round trip."""

from __future__ import annotations

from typing import Any

import pymysql
from pymysql.charset import charset_by_name
from pymysql.constants import CLIENT


class PacketConnection(pymysql.Connection):
    """Whoever makes it sends SET NAMES and all else that a session needs.

    COMMIT and ROLLBACK are sent only inside a transaction. Whoever sends BEGIN and COMMIT keeps `in_transaction`.
    """

    takes_packets = True

    def __init__(self, *arguments: Any, client_flag: int = 0, **named: Any) -> None:
        self.in_transaction = False
        super().__init__(*arguments, client_flag=client_flag | CLIENT.MULTI_STATEMENTS, autocommit=None, **named)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        self.charset, self.collation = charset, collation
        self.encoding = charset_by_name(charset).encoding

    def commit(self) -> None:
        if self.in_transaction:
            super().commit()
            self.in_transaction = False

    def rollback(self) -> None:
        if self.in_transaction:
            super().rollback()
            self.in_transaction = False
