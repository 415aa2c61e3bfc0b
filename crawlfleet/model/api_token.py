"""cl_api_token: who may use the API. A token is random and long, so its plain SHA-256 gives nothing away."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, UsageError
from crawlfleet.core.sql import sql, stamp
from crawlfleet.core.transaction import Reader, Transaction
from crawlfleet.model import audit, schema

NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
PREFIX = "cf_"  # lets a scanner for leaked secrets know one
RANDOM_BYTES = 32
MARK = "token_demanded"  # the row of cl_fleet_state


class Role(StrEnum):
    """What the holder of a token may do; each role may also do what those before it may."""

    READ = "read"
    OPERATE = "operate"  # tasks, the queue, accounts, devices
    ADMIN = "admin"  # also what cannot be undone, and the audit

    def covers(self, other: Role) -> bool:
        """Whether this role may do what needs the other."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class ApiToken:
    """A token as the table knows it: by the hash of its text."""

    name: str
    role: Role
    token_hash: str
    created_by: str | None
    created_at: datetime
    accounts: tuple[str, ...] | None = None  # source/username; None: all
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True)
class Known:
    """The tokens of the fleet. Once there was one, one is `demanded`: revoking the last lets nobody in."""

    tokens: list[ApiToken]
    demanded: bool
    now: datetime  # of the database, when it told them


def token_hash(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class ApiTokenDAO:
    """The table of tokens."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def add(
        self,
        name: str,
        role: Role,
        actor: str | None = None,
        accounts: Sequence[str] | None = None,
        days: float | None = None,
    ) -> str:
        """Make a token of this name and return its text, which nobody can learn again.

        It may ask about these `accounts` (source/username) only, and ends after so many days.
        Raises UsageError for a name that cannot be, CrawlfleetError for one that is taken.
        """
        if not NAME.fullmatch(name):
            raise UsageError(
                f"the name of a token must be 1 to 64 of letters, digits, '_', '-', '.', '@' (got {name!r:.80})"
            )
        token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)

        def work(transaction: Transaction) -> None:
            values = {
                "name": name,
                "role": role.value,
                "token_hash": token_hash(token),
                "created_by": actor,
                "created_at": stamp(transaction.now),
                "accounts": None if accounts is None else json.dumps(list(accounts), ensure_ascii=False),
                "expires_at": None if days is None else stamp(transaction.now + timedelta(days=days)),
            }
            transaction.execute(
                sql(
                    "INSERT INTO cl_api_token (name, role, token_hash, created_by, created_at, accounts, expires_at)"
                    " VALUES (:name, :role, :token_hash, :created_by, :created_at, :accounts, :expires_at)"
                ),
                values,
            )
            _demand(transaction)
            limits: dict[str, Any] = {} if accounts is None else {"accounts": list(accounts)}
            limits |= {} if days is None else {"days": days}
            audit.record(transaction, actor, "tokens.add", name, role=role.value, **limits)

        try:
            self.db.write(work)
        except sa.exc.IntegrityError:
            raise CrawlfleetError(f"there is a token {name!r} already: revoke it, or choose another name") from None
        return token

    def find(self) -> list[ApiToken]:
        """All tokens, by name."""
        with self.db.read() as reader:
            return _find(reader)

    def known(self) -> Known:
        """All tokens, and whether one is demanded though there is none."""
        with self.db.read() as reader:
            tokens = _find(reader)
            now = reader.now
            mark = reader.execute(sql("SELECT value FROM cl_fleet_state WHERE name = :name"), {"name": MARK}).scalar()
        return Known(tokens, bool(tokens) or mark is not None, now)

    def note_use(self, token_hash: str) -> None:
        """Remember that the token of this hash was used now."""
        statement = sql("UPDATE cl_api_token SET last_used_at = :now WHERE token_hash = :token_hash")
        self.db.write(
            lambda transaction: transaction.execute(
                statement, {"now": stamp(transaction.now), "token_hash": token_hash}
            )
        )

    def demand(self) -> None:
        """Let the API demand a token from now on, whatever becomes of those that there are."""
        self.db.write(_demand)

    def revoke(self, name: str, actor: str | None = None) -> bool:
        """Forget the token; False when there is none of this name."""

        def work(transaction: Transaction) -> bool:
            gone = transaction.execute(sql("DELETE FROM cl_api_token WHERE name = :name"), {"name": name}).rowcount
            if gone:
                _demand(transaction)  # it may have been made before there was the mark
                audit.record(transaction, actor, "tokens.revoke", name)
            return bool(gone)

        return self.db.write(work)

    def withdraw(self, name: str, actor: str | None, was_demanded: bool) -> None:
        """Revoke a token that nobody has seen; where none was demanded before it, none is again."""

        def work(transaction: Transaction) -> None:
            transaction.execute(sql("DELETE FROM cl_api_token WHERE name = :name"), {"name": name})
            if not was_demanded:
                transaction.execute(sql("DELETE FROM cl_fleet_state WHERE name = :name"), {"name": MARK})
            audit.record(transaction, actor, "tokens.revoke", name)

        self.db.write(work)


def _find(reader: Reader) -> list[ApiToken]:
    table = schema.api_token
    query = sa.select(*(table.c[each.name] for each in fields(ApiToken))).order_by(table.c.name)
    rows = [dict(row) for row in reader.execute(query).mappings()]
    for row in rows:
        row["role"] = Role(row["role"])
        row["accounts"] = None if row["accounts"] is None else tuple(json.loads(row["accounts"]))
    return [ApiToken(**row) for row in rows]


def _demand(transaction: Transaction) -> None:
    statement = "INSERT INTO cl_fleet_state (name, value, updated_at) SELECT :name, 1, :now"
    transaction.execute(
        sql(transaction.dialect.insert_ignore(statement, "name")), {"name": MARK, "now": stamp(transaction.now)}
    )
