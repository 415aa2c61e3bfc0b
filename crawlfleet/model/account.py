"""cl_account: whose figures are fetched, where the token is or the token sealed, and whether the account is parked."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, UsageError
from crawlfleet.core.reach import USUAL_REACH
from crawlfleet.core.secrets import Keyring
from crawlfleet.core.sql import json_rows, json_value, sql, stamp
from crawlfleet.core.transaction import Answer, AnyRow, Statements, Transaction
from crawlfleet.model import audit, schema, signals
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.lifecycle import OPEN, AccountStatus, quoted
from crawlfleet.model.task_spec import check_text

ACCOUNT_COLUMNS = "a.kind, a.token_env, a.token_file, a.token_sealed, a.proxy, a.app_ids"  # what `from_row` reads


CHANGEABLE = ("kind", "token_env", "token_file", "token_sealed", "proxy", "app_ids")


class AccountDAO:
    """Accounts, one for each (source, username)."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def add(self, account: Account, actor: str | None = None) -> bool:
        """Store a new account, healthy; True when it is new, False when exactly this one is there already.

        Raises UsageError when another one of its source and name is: `change` changes what is named of it.
        """
        there = UsageError(
            f"account {account.username} at {account.source} is there already: `accounts set {account.username}`"
            " changes what is named of it"
        )

        def work(transaction: Transaction) -> bool:
            query = sql(
                f"SELECT a.source, a.username, {ACCOUNT_COLUMNS} FROM cl_account a"
                " WHERE a.source = :source AND a.username = :username"
            )
            rows = transaction.execute(query, {"source": account.source, "username": account.username})
            former = rows.mappings().first()
            if former is not None:
                if from_row(former) != replace(account, reach=USUAL_REACH):
                    raise there
                return False
            now = stamp(transaction.now)
            transaction.execute(
                sql(
                    "INSERT INTO cl_account (source, username, kind, token_env, token_file, token_sealed, proxy,"
                    " app_ids, status, status_since, created_at, updated_at) VALUES (:source, :username, :kind,"
                    " :token_env, :token_file, :token_sealed, :proxy, :app_ids, :status, :now, :now, :now)"
                ),
                {
                    **{name: getattr(account, name) for name in ("source", "username", *CHANGEABLE)},
                    "app_ids": json.dumps(list(account.app_ids)),
                    "status": AccountStatus.HEALTHY.value,
                    "now": now,
                },
            )
            self._refresh_lanes(transaction, account.source, account.username)
            audit.record(transaction, actor, "accounts.add", _name(account.source, account.username))
            return True

        for name in ("source", "username"):
            check_text(name, getattr(account, name))
        try:
            return self.db.write(work)
        except IntegrityError:  # somebody else was faster
            raise there from None

    def change(self, source: str, username: str, values: Mapping[str, Any], actor: str | None = None) -> bool:
        """Change these columns of the account (some of CHANGEABLE) and nothing else, not even whether it is parked.

        False when there is no such account.
        """
        stored = {name: json.dumps(list(value)) if name == "app_ids" else value for name, value in values.items()}
        pairs = ", ".join(f"{name} = :{name}" for name in CHANGEABLE if name in stored)

        def work(transaction: Transaction) -> bool:
            changed = transaction.execute(
                sql(
                    f"UPDATE cl_account SET {pairs}, updated_at = :now WHERE source = :source AND username = :username"
                ),
                {**stored, "source": source, "username": username, "now": stamp(transaction.now)},
            ).rowcount
            if changed:
                audit.record(transaction, actor, "accounts.set", _name(source, username), changed=sorted(stored))
            return bool(changed)

        return self.db.write(work)

    def find(self, username: str | None = None, source: str | None = None) -> list[dict[str, Any]]:
        """Accounts as dicts of their columns, by source and name; `token_sealed` only says whether there is one."""
        table = schema.account
        query = sa.select(table).order_by(table.c.source, table.c.username)
        if username is not None:
            query = query.where(table.c.username == username)
        if source is not None:
            query = query.where(table.c.source == source)
        with self.db.read() as reader:
            rows = [dict(row) for row in reader.execute(query).mappings()]
        for row in rows:
            row["token_sealed"] = row["token_sealed"] is not None
        return rows

    def get(self, source: str, username: str) -> Account | None:
        """The account as a task gets it."""
        table = schema.account
        query = sa.select(table).where(table.c.source == source, table.c.username == username)
        with self.db.read() as reader:
            row = reader.execute(query).mappings().first()
        return None if row is None else from_row(row)

    def reseal_tokens(self, keys: Keyring, actor: str | None = None) -> int:
        """Seal all sealed tokens anew, under the newest key and each for its account, in one transaction; how many.

        Raises CrawlfleetError that names the first account whose token no key opens; nothing is changed then.
        """

        def work(transaction: Transaction) -> int:
            query = sql(
                "SELECT t.id, t.source, t.username, t.token_sealed FROM cl_account t WHERE t.token_sealed IS NOT NULL"
                f" ORDER BY t.id{self.db.dialect.for_update_of_t}"
            )
            rows = []
            for account_id, source, username, sealed in transaction.execute(query):
                try:
                    rows.append((account_id, keys.reseal(sealed, (source, username))))
                except UsageError as error:
                    raise CrawlfleetError(f"account {username} at {source}: {error}; nothing was changed") from None
            statement = self.db.dialect.update_from(
                "cl_account",
                {"token_sealed": "v.token_sealed", "updated_at": self.db.dialect.moment("now")},
                self.db.dialect.rows(id="int", token_sealed="text"),
                "t.id = v.id",
            )
            now = stamp(transaction.now)
            transaction.execute(sql(statement), {"rows": json_rows(rows), "now": now})
            audit.record(transaction, actor, "accounts.reseal", accounts=len(rows))
            return len(rows)

        return self.db.write(work)

    def sources_of(self, usernames: set[str]) -> dict[str, list[str]]:
        """The sources at which each of these usernames has an account."""
        table = schema.account
        query = (
            sa.select(table.c.username, table.c.source).where(table.c.username.in_(usernames)).order_by(table.c.source)
        )
        sources: dict[str, list[str]] = {}
        with self.db.read() as reader:
            for username, source in reader.execute(query):
                sources.setdefault(username, []).append(source)
        return sources

    def park(self, source: str, username: str, reason: str, actor: str | None = None) -> bool:
        """Let the account's tasks wait until `resume`; False when it was parked already."""

        def work(transaction: Transaction) -> bool:
            changed = _set_status(transaction, source, username, AccountStatus.PARKED, reason)
            self._refresh_lanes(transaction, source, username)
            if changed:
                audit.record(transaction, actor, "accounts.park", _name(source, username), reason=reason)
            return changed

        return self.db.write(work)

    def resume(self, source: str, username: str, actor: str | None = None, accept_apps: bool = False) -> bool:
        """Let the account's tasks run again; False when it was not parked.

        With `accept_apps` its next list of apps counts, whatever it lacks: the apps known now are gone until it comes.
        """

        def work(transaction: Transaction) -> bool:
            if accept_apps:
                transaction.execute(
                    sql(
                        "UPDATE cl_user_app SET app_status = 'gone'"
                        " WHERE source = :source AND username = :username AND app_status <> 'gone'"
                    ),
                    {"source": source, "username": username},
                )
            changed = _set_status(transaction, source, username, AccountStatus.HEALTHY, None)
            self._refresh_lanes(transaction, source, username)
            if changed:
                details = {"accept_apps": True} if accept_apps else {}
                audit.record(transaction, actor, "accounts.resume", _name(source, username), **details)
            return changed

        return self.db.write(work)

    def _refresh_lanes(self, transaction: Transaction, source: str, username: str) -> None:
        ledger = Ledger(transaction)
        ledger.touch_account(source, username)
        ledger.close()
        signals.tasks_changed(transaction)

    def remove(self, source: str, username: str, actor: str | None = None) -> bool:
        """Forget the account; its data stays. Raises CrawlfleetError while it has open tasks."""

        def work(transaction: Transaction) -> bool:
            key = {"source": source, "username": username}
            open_tasks = transaction.execute(
                sql(
                    "SELECT COUNT(*) FROM cl_crawl_task t JOIN cl_lane l ON l.id = t.lane_id WHERE l.source = :source"
                    f" AND l.username = :username AND t.status IN ({quoted(OPEN)})"
                ),
                key,
            ).scalar_one()
            if open_tasks:
                raise CrawlfleetError(f"account {username} at {source} has {open_tasks} open tasks: cancel them first")
            gone = transaction.execute(
                sql("DELETE FROM cl_account WHERE source = :source AND username = :username"), key
            )
            if gone.rowcount:
                audit.record(transaction, actor, "accounts.remove", _name(source, username))
            return gone.rowcount == 1

        return self.db.write(work)


def _name(source: str, username: str) -> str:
    return f"{source}/{username}"


def from_row(row: AnyRow) -> Account:
    """The account in a row that has ACCOUNT_COLUMNS, source and username."""
    return Account(
        row["source"],
        row["username"],
        row["kind"],
        row["token_env"],
        row["token_file"],
        tuple(json_value(row["app_ids"]) or ()),
        row["token_sealed"],
        row["proxy"],
    )


Accounts = dict[tuple[str, str], tuple[Account, str]]  # by (source, username), each with its status


def accounts_of(reader: Statements, keys: Collection[tuple[str, str]]) -> Accounts:
    """The accounts with these (source, username); those that do not exist are missing."""
    if not keys:
        return {}
    tables = f"{reader.dialect.rows(source='text', username='text')} JOIN cl_account a"
    return _ask_accounts(reader, tables, "v", json_rows(sorted(keys))).read()


def ask_accounts_of_lanes(reader: Statements, lane_ids: Collection[int]) -> Answer[Accounts]:
    """Ask for the accounts of these lanes."""
    if not lane_ids:
        return Answer.of({})
    tables = f"{reader.dialect.rows(id='int')} JOIN cl_lane l ON l.id = v.id JOIN cl_account a"
    return _ask_accounts(reader, tables, "l", json_rows([each] for each in sorted(lane_ids)))


def _ask_accounts(reader: Statements, tables: str, owner: str, rows: str) -> Answer[Accounts]:
    statement = sql(
        f"SELECT a.source, a.username, a.status, {ACCOUNT_COLUMNS} FROM {tables}"
        f" ON a.source = {owner}.source AND a.username = {owner}.username"
    )
    reply = reader.execute(statement, {"rows": rows})
    return reply.map(
        lambda rows: {(row["source"], row["username"]): (from_row(row), row["status"]) for row in rows.mappings()}
    )


def park(
    transaction: Transaction,
    source: str | None,
    username: str | None,
    reason: str,
    status: AccountStatus = AccountStatus.TOKEN_EXPIRED,
) -> bool | None:
    """The token was refused, or is doubted: let the account wait for a person, in the caller's transaction.

    True when it did not wait before, None when there is no such account.
    """
    if source is None or username is None:
        return None
    query = sql("SELECT status FROM cl_account WHERE source = :source AND username = :username")
    standing = transaction.execute(query, {"source": source, "username": username}).scalar()
    if standing is None:
        return None
    if standing != AccountStatus.HEALTHY:
        return False
    return _set_status(transaction, source, username, status, reason)


def _set_status(
    transaction: Transaction, source: str, username: str, status: AccountStatus, reason: str | None
) -> bool:
    statement = sql(
        "UPDATE cl_account SET status = :status, status_reason = :reason, status_since = :now, updated_at = :now"
        " WHERE source = :source AND username = :username AND status <> :status"
    )
    parameters = {
        "status": status.value,
        "reason": reason,
        "now": stamp(transaction.now),
        "source": source,
        "username": username,
    }
    return bool(transaction.execute(statement, parameters).rowcount)
