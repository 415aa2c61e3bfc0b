"""cl_audit: who changed what. Each change writes its row in the transaction that makes it."""

from __future__ import annotations

import json
from typing import Any

from crawlfleet.core.sql import sql
from crawlfleet.core.transaction import Transaction

MAX_NAME = 190  # characters of an actor and of a target, as in the table


def record(transaction: Transaction, actor: str | None, action: str, target: object = None, **detail: Any) -> None:
    """Note that `actor` did `action` to `target`; nothing for None, which is the fleet itself or a program's own code.

    `detail` is what else was said, as JSON; never a secret.
    """
    if actor is None:
        return
    statement = sql(
        "INSERT INTO cl_audit (actor, action, target, detail, created_at)"
        f" VALUES (:actor, :action, :target, :detail, {transaction.dialect.now})"
    )
    values = {
        "actor": actor[:MAX_NAME],
        "action": action,
        "target": None if target is None else str(target)[:MAX_NAME],
        "detail": json.dumps(detail, ensure_ascii=False, default=str),
    }
    transaction.execute(statement, values)
