from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import App, AppList
from crawlfleet.model.account import AccountDAO, park
from crawlfleet.model.gate import ASKED_BY
from crawlfleet.sandbox.server import Sandbox
from tests.cli.console import Console
from tests.stored_figures import store


def add(console: Console, *options: object, username: str = "u", variable: str = "TOKEN_NOT_SET_HERE") -> None:
    said = console(
        "accounts", "add", "--source", "appsflyer", "--username", username, "--token-env", variable, *options
    )
    assert said.code == 0, said.err


def refuse_token(db: Database) -> None:
    """As if the vendor had refused the token of `u`."""
    db.write(lambda transaction: park(transaction, "appsflyer", "u", "token refused"))


def elsewhere(console: Console, username: str = "u") -> None:
    """The same name at a source of another package."""
    console.on_database(lambda db: AccountDAO(db).add(Account("othersource", username, token_env="X")))


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A vendor that `accounts test` asks, and the token of the account `u` in U_TOKEN."""
    with Sandbox(apps=4) as sandbox:
        monkeypatch.setenv("CRAWLFLEET_APPSFLYER_BASE_URL", sandbox.base_url)
        monkeypatch.setenv("U_TOKEN", "sandbox-u")
        yield sandbox


def test_an_account_is_stored_with_the_place_of_its_token(
    any_console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("U_TOKEN", "very-secret")
    add(any_console, "--kind", "agency", "--app-id", "id1", "--app-id", "应用", username="公司", variable="U_TOKEN")
    said = any_console("accounts", "list", "--json")
    [found] = said.json
    assert {name: found[name] for name in ("source", "username", "kind", "token_env", "app_ids", "status")} == {
        "source": "appsflyer",
        "username": "公司",
        "kind": "agency",
        "token_env": "U_TOKEN",
        "app_ids": ["id1", "应用"],
        "status": "healthy",
    }
    text = any_console("accounts", "list").out
    assert "variable U_TOKEN" in text
    assert "very-secret" not in said.out + text


def test_adding_makes_the_tables(console: Console) -> None:
    add(console)
    assert len(console("accounts", "list", "--json").json) == 1


def account(console: Console) -> dict[str, object]:
    """What is stored of the only account."""
    [found] = console("accounts", "list", "--json").json
    names = ("kind", "token_env", "token_file", "proxy", "app_ids", "status")
    return {name: found[name] for name in names}


PROXY = "http://proxy.example:3128"


def test_set_changes_only_what_is_named(any_console: Console) -> None:
    """`accounts add` with nothing but another variable reset the kind and the proxy."""
    add(any_console, "--kind", "agency", "--proxy", PROXY, "--app-id", "a")
    any_console("accounts", "park", "u", "--reason", "tired")
    before = account(any_console)
    said = any_console("accounts", "set", "u", "--token-env", "OTHER_TOKEN")
    assert said.out == "account u at appsflyer changed\n"
    assert "OTHER_TOKEN is not set" in said.err
    assert "its tasks still wait (parked)" in said.err
    assert account(any_console) == {**before, "token_env": "OTHER_TOKEN"}
    any_console("accounts", "set", "u", "--source", "appsflyer", "--app-id", "b", "--app-id", "应用")
    assert account(any_console) == {**before, "token_env": "OTHER_TOKEN", "app_ids": ["b", "应用"]}
    any_console("accounts", "set", "u", "--kind", "ad_network", "--proxy", "")
    changed = {"token_env": "OTHER_TOKEN", "app_ids": ["b", "应用"], "kind": "ad_network", "proxy": None}
    assert account(any_console) == {**before, **changed}


def test_set_takes_a_new_place_of_the_token_for_the_old_one(
    ready: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAWLFLEET_TOKEN_FOLDER", str(tmp_path))
    add(ready)
    (tmp_path / "t.token").write_text("very-secret")
    (tmp_path / "t.token").chmod(0o600)
    assert ready("accounts", "set", "u", "--token-file", tmp_path / "t.token").err == ""
    assert (account(ready)["token_env"], account(ready)["token_file"]) == (None, str(tmp_path / "t.token"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "say what to change"),
        (["--token-env", "very-secret.token"], "name of an environment variable"),
        (["--app-id", ""], "app_id"),
        (["--proxy", "http://user:very-secret@proxy:1"], "must not hold a password"),
        (["--token", "very-secret"], "--token-env"),
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(ready: Console, options: list[str], part: str) -> None:
    add(ready, "--proxy", PROXY)
    before = account(ready)
    error = ready.refuses(2, "accounts", "set", "u", *options)
    assert part in error
    assert "very-secret" not in error
    assert account(ready) == before
    assert "there is no account 'typo'" in ready.refuses(1, "accounts", "set", "typo", "--kind", "agency")


def test_adding_an_account_that_is_there_refuses_and_points_to_set(ready: Console) -> None:
    add(ready, "--kind", "agency", "--proxy", PROXY)
    before = account(ready)
    again = ("accounts", "add", "--source", "appsflyer", "--username", "u", "--token-env")
    assert "`accounts set u`" in ready.refuses(2, *again, "B")
    assert account(ready) == before
    same = ready(*again, "TOKEN_NOT_SET_HERE", "--kind", "agency", "--proxy", PROXY)
    assert (same.code, same.out) == (0, "account u at appsflyer is there already, just like this\n")


def test_test_and_resume_say_that_nodes_read_variables_at_their_start(ready: Console, vendor: Sandbox) -> None:
    """With a token renewed in the shell only, both were content, and the node's old token parked it again."""
    add(ready, variable="U_TOKEN")
    note = "a node reads the variable U_TOKEN once, at its start"
    assert note in ready("accounts", "test", "u").err
    ready.on_database(refuse_token)
    assert note in ready("accounts", "resume", "u").err
    assert ready("accounts", "resume", "u").err == ""
    ready("accounts", "park", "u", "--reason", "tired")
    assert ready("accounts", "resume", "u").err == ""
    ready("accounts", "park", "u", "--reason", f"of another account?{ASKED_BY}d1")  # as a node does
    assert note in ready("accounts", "resume", "u").err


def test_a_token_that_is_missing_here_is_a_warning(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--source", "appsflyer", "--username", "u", "--token-env", "U_TOKEN")
    said = ready("accounts", "add", *options)
    assert said.code == 0
    assert "warning" in said.err
    assert "U_TOKEN is not set" in said.err
    monkeypatch.setenv("U_TOKEN", "abc")
    assert ready("accounts", "add", *options).err == ""


def test_a_token_file_is_stored_by_its_full_path(
    ready: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRAWLFLEET_TOKEN_FOLDER", ".")
    (tmp_path / "t.token").write_text("very-secret")
    (tmp_path / "t.token").chmod(0o600)
    said = ready("accounts", "add", "--source", "appsflyer", "--username", "u", "--token-file", "t.token")
    assert (said.code, said.err) == (0, "")
    assert ready("accounts", "list", "--json").json[0]["token_file"] == str(tmp_path / "t.token")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--username", "u", "--token-env", "A"], ["--source"]),
        (["--source", "appsflyer", "--token-env", "A"], ["--username"]),
        (["--source", "appsflyer", "--username", "u"], ["--token-env", "--token-file"]),
        (["--source", "appsflyer", "--username", "u", "--token-env", "A", "--token-file", "f"], ["not allowed with"]),
        (
            ["--source", "appsflier", "--username", "u", "--token-env", "A"],
            ["'appsflier'", "known are apple, appsflyer"],
        ),
        (["--source", "apple", "--username", "1", "--token-env", "A"], ["apple has no token", "leave out --token-env"]),
        (["--source", "apple", "--username", "1", "--token-file", "f"], ["apple has no token"]),
        (["--source", "appsflyer", "--username", "", "--token-env", "A"], ["username", "''"]),
        (["--source", "appsflyer", "--username", "a\tb", "--token-env", "A"], ["username", "printable"]),
        (["--source", "appsflyer", "--username", "u", "--token-env", ""], ["--token-env", "name"]),
        (["--source", "appsflyer", "--username", "u", "--token-file", ""], ["--token-file", "''"]),
        (["--source", "appsflyer", "--username", "u", "--token-file", "f" * 2000], ["--token-file", "1024"]),
        (["--source", "appsflyer", "--username", "u", "--token-env", "A", "--kind", "x"], ["'x'", "ad_network"]),
        (["--source", "appsflyer", "--username", "u", "--token-env", "A", "--app-id", ""], ["app_id", "''"]),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_stored(ready: Console, options: list[str], parts: list[str]) -> None:
    error = ready.refuses(2, "accounts", "add", *options)
    assert [part for part in parts if part not in error] == [], error
    assert ready("accounts", "list", "--json").json == []


@pytest.mark.parametrize(
    "options",
    [
        ["--token", "ey.very-secret"],
        ["--token=ey.very-secret"],
        ["--source", "appsflyer", "--username", "u", "--token", "ey.very-secret"],
        ["--source", "appsflyer", "--username", "u", "--token-env", "ey.very-secret"],
    ],
)
def test_a_token_on_the_command_line_is_refused_and_not_repeated(ready: Console, options: list[str]) -> None:
    error = ready.refuses(2, "accounts", "add", *options)
    assert "--token-env" in error
    assert "very-secret" not in error


def test_test_asks_the_vendor_once(ready: Console, vendor: Sandbox) -> None:
    add(ready, variable="U_TOKEN")
    said = ready("accounts", "test", "u")
    assert (said.code, said.out) == (0, "fine: u at appsflyer sees 4 apps\n")
    assert "quota" in said.err
    assert vendor.stats()["calls"] == 1


def test_test_says_when_the_vendor_refuses_the_token(
    ready: Console, vendor: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("U_TOKEN", "very-secret")
    add(ready, variable="U_TOKEN")
    error = ready.refuses(1, "accounts", "test", "u", "--source", "appsflyer")
    assert "401" in error
    assert "very-secret" not in error


def test_test_spends_no_call_without_a_token(ready: Console, vendor: Sandbox) -> None:
    add(ready)
    assert "TOKEN_NOT_SET_HERE is not set" in ready.refuses(1, "accounts", "test", "u")
    assert vendor.stats()["calls"] == 0


def test_an_account_without_a_token_is_added_listed_and_tested(
    any_console: Console, vendor: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAWLFLEET_APPLE_BASE_URL", vendor.base_url)
    said = any_console("accounts", "add", "--source", "apple", "--username", "9990001")
    assert (said.code, said.err) == (0, "")
    [found] = any_console("accounts", "list", "--json").json
    assert (found["source"], found["token_env"], found["token_file"]) == ("apple", None, None)
    assert re.search(r"9990001 +apple +healthy +now +advertiser +none\n", any_console("accounts", "list").out)
    assert "fine: 9990001 at apple sees" in any_console("accounts", "test", "9990001").out
    assert vendor.stats()["endpoints"] == {"apple_lookup": {"calls": 1, "refused": 0}}


def test_test_says_when_the_vendor_is_away(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox() as sandbox:
        address = sandbox.base_url
    monkeypatch.setenv("CRAWLFLEET_APPSFLYER_BASE_URL", address)
    monkeypatch.setenv("U_TOKEN", "sandbox-u")
    add(ready, variable="U_TOKEN")
    ready.refuses(1, "accounts", "test", "u")


def test_an_account_is_parked_and_resumed(any_console: Console) -> None:
    add(any_console)
    any_console.add("--type", "user_apps", "--username", "u")
    assert "is parked" in any_console("accounts", "park", "u", "--reason", "新令牌").out
    assert "parked already: 新令牌" in any_console("accounts", "park", "u", "--reason", "again").out
    [found] = any_console("accounts", "list", "--json").json
    assert (found["status"], found["status_reason"]) == ("parked", "新令牌")
    assert (
        "waits for a person: 1 task of account u at appsflyer, parked: 新令牌"
        in any_console("distribute", "status").out
    )
    assert "is healthy" in any_console("accounts", "resume", "u").out
    assert "was healthy" in any_console("accounts", "resume", "u").out
    assert "--reason" in any_console.refuses(2, "accounts", "park", "u")


def test_an_account_is_removed_once_its_tasks_have_ended(any_console: Console) -> None:
    add(any_console)
    task_id = any_console.add("--type", "user_apps", "--username", "u")
    assert "1 open tasks" in any_console.refuses(1, "accounts", "remove", "u")
    any_console("tasks", "cancel", task_id)
    assert any_console("accounts", "remove", "u").code == 0
    assert any_console("accounts", "list", "--json").json == []


@pytest.mark.parametrize("command", [["test"], ["park", "--reason", "r"], ["resume"], ["remove"]], ids=lambda c: c[0])
def test_a_name_must_belong_to_one_account(ready: Console, command: list[str]) -> None:
    assert "there is no account 'u'" in ready.refuses(1, "accounts", *command, "u")
    add(ready)
    elsewhere(ready)
    error = ready.refuses(2, "accounts", *command, "u")
    assert "appsflyer, othersource" in error
    assert "--source" in error
    assert "at elsewhere" in ready.refuses(1, "accounts", *command, "u", "--source", "elsewhere")
    assert {row["status"] for row in ready("accounts", "list", "--json").json} == {"healthy"}


def test_the_source_chooses_among_accounts_of_one_name(ready: Console) -> None:
    add(ready)
    elsewhere(ready)
    assert ready("accounts", "park", "u", "--source", "othersource", "--reason", "r").code == 0
    found = {row["source"]: row["status"] for row in ready("accounts", "list", "--json").json}
    assert found == {"appsflyer": "healthy", "othersource": "parked"}


def test_an_account_of_a_source_that_is_not_installed_cannot_be_tested(ready: Console) -> None:
    elsewhere(ready)
    assert "unknown source 'othersource'" in ready.refuses(2, "accounts", "test", "u")


def test_resuming_may_accept_that_most_apps_vanished(ready: Console) -> None:
    """Nothing said that a token was another account's, and so nobody could say that it was right."""
    ready("accounts", "add", "--source", "appsflyer", "--username", "u", "--token-env", "TOKEN_NOT_SET_HERE")
    ready.on_database(lambda db: store(db, AppList("appsflyer", "u"), [App("a"), App("b")]))
    ready("accounts", "park", "u", "--reason", "most apps are missing")
    assert ready("accounts", "resume", "u").code == 0
    assert {app["app_status"] for app in ready("data", "apps", "--json").json} == {"active"}
    assert ready("accounts", "resume", "u", "--accept-apps").code == 0
    assert {app["app_status"] for app in ready("data", "apps", "--json").json} == {"gone"}
