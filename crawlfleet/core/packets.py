"""A MariaDB or MySQL connection that takes several statements in one packet and asks for no needless round trip."""

from __future__ import annotations

from typing import Any

import pymysql
from pymysql.constants import CLIENT


class PacketConnection(pymysql.Connection):
    """PyMySQL asks the server to end a transaction even where there is none; this one knows whether there may be."""

    def __init__(self, *arguments: Any, client_flag: int = 0, **named: Any) -> None:
        self._in_doubt = True
        super().__init__(*arguments, client_flag=client_flag | CLIENT.MULTI_STATEMENTS, **named)

    def query(self, *arguments: Any, **named: Any) -> Any:
        self._in_doubt = True
        return super().query(*arguments, **named)

    def ended(self) -> None:
        """Called after a packet whose last statement was COMMIT."""
        self._in_doubt = False

    def commit(self) -> None:
        if self._in_doubt:
            super().commit()
            self._in_doubt = False

    def rollback(self) -> None:
        if self._in_doubt:
            super().rollback()
            self._in_doubt = False
