from __future__ import annotations

import re

import pytest

from crawlfleet.core.db import Database
from crawlfleet.insights.audit import audit_page
from crawlfleet.model.api_token import ApiTokenDAO, Role, token_hash
from tests.cli.console import Console


def test_a_token_is_shown_once_and_stored_as_a_hash(any_console: Console) -> None:
    said = any_console("tokens", "add", "monitor")
    token = said.out.strip()
    assert re.fullmatch(r"cf_[A-Za-z0-9_-]{43}", token)
    assert "cannot be shown again" in said.err
    other = any_console("tokens", "add", "deploy", "--role", "operate", "--json").json
    assert (other["name"], other["role"], other["token"] != token) == ("deploy", "operate", True)
    listed = any_console("tokens", "list")
    assert token not in listed.out
    assert token_hash(token) not in listed.out
    found = any_console("tokens", "list", "--json").json
    assert [(each["name"], each["role"]) for each in found] == [("deploy", "operate"), ("monitor", "read")]
    assert "@" in found[0]["created_by"]
    assert [each.token_hash for each in any_console.on_database(lambda db: ApiTokenDAO(db).find())][1] == token_hash(
        token
    )


def test_a_name_is_taken_until_its_token_is_revoked(any_console: Console) -> None:
    any_console("tokens", "add", "x", "--role", "admin")
    assert any_console.refuses(1, "tokens", "add", "x").startswith("there is a token 'x' already: revoke it")
    revoked = any_console("tokens", "revoke", "x")
    assert "is revoked" in revoked.out
    assert "no token is left, and the API goes on demanding one" in revoked.err
    assert any_console.refuses(1, "tokens", "revoke", "x") == "there is no token 'x': `tokens list` shows all"
    assert any_console("tokens", "add", "x").code == 0


def test_a_token_may_end_and_may_be_for_some_accounts(any_console: Console) -> None:
    any_console("accounts", "add", "--source", "appsflyer", "--username", "u", "--token-env", "TOKEN_OF_U")
    made = any_console("tokens", "add", "bi", "--days", "90", "--account", "appsflyer/u", "--json").json
    assert (made["accounts"], made["days"]) == (["appsflyer/u"], 90)
    [found] = any_console("tokens", "list", "--json").json
    assert (found["accounts"], found["last_used_at"]) == (["appsflyer/u"], None)
    assert found["expires_at"] > found["created_at"]
    assert "appsflyer/u" in any_console("tokens", "list").out
    wrong = any_console.refuses(2, "tokens", "add", "x", "--account", "appsflyer/nobody")
    assert "--account takes SOURCE/USERNAME of an account (got 'appsflyer/nobody')" in wrong
    assert "must be a whole number from 1 to 3650" in any_console.refuses(2, "tokens", "add", "x", "--days", "0")


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "ü"])
def test_a_name_that_cannot_be_is_wrong_usage(ready: Console, name: str) -> None:
    assert "must be 1 to 64 of letters" in ready.refuses(2, "tokens", "add", name)


def test_a_role_covers_those_before_it() -> None:
    assert [[role.covers(other) for other in Role] for role in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_every_command_that_changes_something_leaves_a_trace(ready: Console) -> None:
    ready("accounts", "add", "--source", "appsflyer", "--username", "u", "--token-env", "TOKEN_OF_U")
    [task_id] = ready("tasks", "add", "--type", "noop", "--json").json["ids"]
    ready("tasks", "cancel", task_id)
    ready("tasks", "retry", task_id)
    ready("tasks", "pause", "--reason", "upgrade")
    ready("tasks", "resume")
    ready("accounts", "park", "u", "--reason", "x")
    ready("accounts", "resume", "u")
    ready("accounts", "remove", "u")
    ready("tokens", "add", "t")
    ready("tokens", "revoke", "t")

    def trace(db: Database) -> list[str]:
        rows = audit_page(db, 100).rows
        assert all("@" in row["actor"] for row in rows)
        return [row["action"] for row in reversed(rows)]

    assert ready.on_database(trace) == [
        "accounts.add",
        "tasks.add",
        "tasks.cancel",
        "tasks.retry",
        "queue.pause",
        "queue.resume",
        "accounts.park",
        "accounts.resume",
        "accounts.remove",
        "tokens.add",
        "tokens.revoke",
    ]
