from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from crawlfleet.core.account import Account
from crawlfleet.core.secrets import KEY_VARIABLE, keyring, new_key
from crawlfleet.model.account import AccountDAO
from crawlfleet.sandbox.server import Sandbox
from tests.cli.console import Console, Said
from tests.http_proxies import ConnectProxy
from tests.nodes import ROOT
from tests.waiting import wait_until

TOKEN = "sandbox-u"
ADD = ("accounts", "add", "--source", "appsflyer", "--username")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, own_settings: None) -> str:
    key = new_key()
    monkeypatch.setenv(KEY_VARIABLE, key)
    return key


def seal(console: Console, username: str = "u", token: str = TOKEN) -> Said:
    said = console(*ADD, username, "--token-stdin", stdin=f"{token}\n".encode())
    assert said.code == 0, said.err
    return said


def stored(console: Console, username: str = "u") -> str:
    """The sealed text in the database."""
    account = console.on_database(lambda db: AccountDAO(db).get("appsflyer", username))
    assert account is not None
    assert account.token_sealed is not None
    return account.token_sealed


def test_a_token_from_standard_input_is_kept_sealed(any_console: Console, key: str) -> None:
    said = seal(any_console, token="very-secret")
    assert (said.out, said.err) == ("account u at appsflyer added\n", "")
    listed = any_console("accounts", "list", "--json")
    assert listed.json[0]["token_sealed"] is True
    text = any_console("accounts", "list", "--debug").out
    assert "sealed" in text
    sealed = stored(any_console)
    assert keyring(None).open(sealed, ("appsflyer", "u")) == "very-secret"
    for secret in ("very-secret", sealed, key):
        assert secret not in listed.out + text


def test_neither_token_nor_key_is_in_the_files_of_the_database(ready: Console, key: str, tmp_path: Path) -> None:
    seal(ready, token="very-secret")
    content = b"".join(path.read_bytes() for path in tmp_path.glob("crawlfleet.db*"))
    assert b"gAAAAA" in content, "this is the file"
    assert b"very-secret" not in content
    assert key.encode() not in content


def test_what_editors_add_is_no_part_of_a_token_or_a_key(
    ready: Console, own_settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte order mark made another token of it, and a malformed key."""
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbf" + new_key().encode() + b"\r\n")
    file.chmod(0o600)
    monkeypatch.setenv("CRAWLFLEET_SECRET_KEY_FILE", f"{file}\n")
    said = ready(*ADD, "u", "--token-stdin", stdin=b"\xef\xbb\xbf very-secret\r\n")
    assert (said.code, said.err) == (0, "")
    assert keyring(str(file)).open(stored(ready), ("appsflyer", "u")) == "very-secret"
    file.write_text(new_key(), encoding="utf-16")
    assert "it is UTF-16: save it as UTF-8" in ready.refuses(2, "accounts", "set", "u", "--token-stdin", stdin=b"x")


def test_another_kind_of_token_replaces_the_sealed_one(ready: Console, key: str) -> None:
    seal(ready)
    assert ready("accounts", "set", "u", "--token-env", "X").out == "account u at appsflyer changed\n"
    [found] = ready("accounts", "list", "--json").json
    assert (found["token_env"], found["token_sealed"]) == ("X", False)


@pytest.mark.parametrize(
    ("stdin", "part"),
    [
        (b"", "one token"),
        (b" \n\n", "one token"),
        (b"a b", "no header may carry"),
        (b"one\ntwo\n", "it has several lines"),
        ("тайна".encode(), "no header may carry"),
        (b"\xff\xfes\0", "it is UTF-16"),
        (b"\xf0\xfe", "it is not UTF-8"),
        (b'"very-secret"\r\n', "it is in quotes"),
        (b"x" * 20_000, "more than 16384"),
    ],
)
def test_a_token_that_is_none_is_refused_and_not_shown(ready: Console, key: str, stdin: bytes, part: str) -> None:
    error = ready.refuses(2, *ADD, "u", "--token-stdin", stdin=stdin)
    assert part in error
    assert "one two" not in error
    assert "very-secret" not in error
    assert "тайна" not in error
    assert ready("accounts", "list", "--json").json == []


def test_without_a_key_nothing_is_read_or_stored(ready: Console) -> None:
    error = ready.refuses(2, *ADD, "u", "--token-stdin", stdin=b"very-secret")
    assert KEY_VARIABLE in error
    assert "secret_key_file" in error
    assert "very-secret" not in error
    assert ready("accounts", "list", "--json").json == []


def test_on_a_terminal_the_token_is_asked_for_without_echo(tmp_path: Path, key: str) -> None:
    controller, terminal = pty.openpty()
    url = f"sqlite:///{tmp_path}/c.db"
    process = subprocess.Popen(
        [sys.executable, ROOT / "main.py", *ADD, "u", "--token-stdin", "--database", url],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        cwd=tmp_path,
    )
    os.close(terminal)
    seen = b""
    while b"Token: " not in seen:
        seen += os.read(controller, 1024)
    os.write(controller, b"very-secret\n")
    try:
        while piece := os.read(controller, 1024):
            seen += piece
    except OSError:  # the other end is closed
        pass
    os.close(controller)
    assert process.wait(30) == 0, seen
    assert b"account u at appsflyer added" in seen
    assert b"very-secret" not in seen


def test_the_token_is_in_no_command_line(tmp_path: Path, key: str) -> None:
    process = subprocess.Popen(
        [sys.executable, ROOT / "main.py", *ADD, "u", "--token-stdin", "--database", f"sqlite:///{tmp_path}/c.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdin is not None
    process.stdin.write(b"very-secret\n")
    process.stdin.flush()
    place = Path(f"/proc/{process.pid}")
    wait_until(lambda: b"token-stdin" in (place / "cmdline").read_bytes(), what="its command line")
    shown = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
    out, _ = process.communicate(timeout=30)
    assert b"very-secret" not in shown + out
    assert process.returncode == 0


def test_a_sealed_token_reaches_the_vendor(ready: Console, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(ready)
    with Sandbox(apps=3) as sandbox:
        monkeypatch.setenv("CRAWLFLEET_APPSFLYER_BASE_URL", sandbox.base_url)
        assert ready("accounts", "test", "u").out == "fine: u at appsflyer sees 3 apps\n"
        monkeypatch.delenv(KEY_VARIABLE)
        error = ready.refuses(1, "accounts", "test", "u")
        assert "account u at appsflyer: there is no key for sealed tokens on this node" in error
        assert sandbox.stats()["calls"] == 1


def test_keys_may_come_from_a_file_of_the_settings(
    ready: Console, own_settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    said = ready("accounts", "new-key", "--output", file)
    assert (said.code, said.out, said.err) == (0, "", f"wrote {file}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setenv("CRAWLFLEET_SECRET_KEY_FILE", str(file))
    seal(ready)
    assert keyring(str(file)).open(stored(ready), ("appsflyer", "u")) == TOKEN
    shown = ready("distribute", "config", "--show", "--json").out + ready("distribute", "config", "--show").out
    assert file.read_text().strip() not in shown
    assert str(file) not in shown
    file.chmod(0o644)
    assert "chmod 600" in ready.refuses(2, *ADD, "u", "--token-stdin", stdin=b"x")


def test_a_key_is_never_overwritten(console: Console, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("precious")
    assert "exists" in console.refuses(2, "accounts", "new-key", "--output", file)
    assert file.read_text() == "precious"
    assert "cannot be written" in console.refuses(2, "accounts", "new-key", "-o", tmp_path / "no" / "keys")


def test_rotation_seals_everything_under_the_newest_key(
    any_console: Console, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for username in ("a", "b", "公司"):
        seal(any_console, username, f"token-of-{username.encode().hex()}")
    older = Fernet(key).encrypt(b"token-of-older").decode()  # by a version that did not bind it to its account
    any_console.on_database(lambda db: AccountDAO(db).add(Account("appsflyer", "older", token_sealed=older)))
    any_console(*ADD, "other", "--token-env", "X")
    newest = any_console("accounts", "new-key").out.strip()
    monkeypatch.setenv(KEY_VARIABLE, f"{newest},{key}")
    said = any_console("accounts", "rotate")
    assert (said.code, said.out) == (0, "4 tokens are sealed under the newest key\n")
    monkeypatch.setenv(KEY_VARIABLE, newest)
    for username in ("a", "b", "公司"):
        assert (
            keyring(None).open(stored(any_console, username), ("appsflyer", username))
            == f"token-of-{username.encode().hex()}"
        )
    assert keyring(None).open(stored(any_console, "older"), ("appsflyer", "older")) == "token-of-older"
    assert keyring(None).is_bound(stored(any_console, "older"))


def test_rotation_does_nothing_when_one_token_cannot_be_opened(
    any_console: Console, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(any_console, "a")
    monkeypatch.setenv(KEY_VARIABLE, new_key())
    seal(any_console, "b")
    monkeypatch.setenv(KEY_VARIABLE, f"{new_key()},{key}")
    before = [stored(any_console, name) for name in ("a", "b")]
    error = any_console.refuses(1, "accounts", "rotate")
    assert "account b at appsflyer: no key of" in error
    assert "nothing was changed" in error
    assert [stored(any_console, name) for name in ("a", "b")] == before


def test_rotation_of_nothing_is_fine(ready: Console, key: str) -> None:
    assert ready("accounts", "rotate").out == "0 tokens are sealed under the newest key\n"


# -- proxies


def test_a_proxy_is_stored_with_the_name_of_its_password(any_console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_PASSWORD", "very-secret")
    monkeypatch.setenv("U_TOKEN", TOKEN)
    proxy = "socks5://user:${PROXY_PASSWORD}@proxy.example:1080"
    said = any_console(*ADD, "u", "--token-env", "U_TOKEN", "--proxy", proxy)
    assert said.code == 0
    assert "use_proxy is off here" in said.err
    listed = any_console("accounts", "list", "--json")
    assert listed.json[0]["proxy"] == proxy
    text = any_console("accounts", "list").out
    assert "socks5://proxy.example:1080" in text
    assert "user" not in text.replace("username", "")
    assert "very-secret" not in said.out + said.err + listed.out + text


def test_a_missing_password_of_a_proxy_is_a_warning(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("U_TOKEN", TOKEN)
    monkeypatch.setenv("CRAWLFLEET_USE_PROXY", "on")
    said = ready(*ADD, "u", "--token-env", "U_TOKEN", "--proxy", "http://u:${PROXY_NOT_SET_HERE}@127.0.0.1:1")
    assert said.code == 0
    assert "PROXY_NOT_SET_HERE is not set" in said.err
    assert "use_proxy" not in said.err


@pytest.mark.parametrize(
    ("proxy", "part"),
    [
        ("http://user:very-secret@proxy:3128", "must not hold a password"),
        ("http://user:very-secret${X}@proxy:3128", "must not hold a password"),
        ("proxy:3128", "http://host"),
        ("http://${VERY}:1", "only user and password"),
        ("http://proxy/\t", "printable"),
        ("http://" + "p" * 2000, "1024"),
    ],
)
def test_a_proxy_that_cannot_be_stored_is_refused(ready: Console, proxy: str, part: str) -> None:
    error = ready.refuses(2, *ADD, "u", "--token-env", "X", "--proxy", proxy)
    assert part in error
    assert "very-secret" not in error
    assert ready("accounts", "list", "--json").json == []


def test_the_vendor_is_asked_through_the_proxy_only_while_proxies_are_on(
    ready: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("U_TOKEN", TOKEN)
    monkeypatch.setenv("PROXY_PASSWORD", "very-secret")
    with Sandbox(apps=3) as sandbox, ConnectProxy(user="user", password="very-secret") as proxy:
        monkeypatch.setenv("CRAWLFLEET_APPSFLYER_BASE_URL", sandbox.base_url)
        ready(*ADD, "u", "--token-env", "U_TOKEN", "--proxy", proxy.address("user:${PROXY_PASSWORD}"))
        assert ready("accounts", "test", "u").code == 0
        assert proxy.targets == []
        monkeypatch.setenv("CRAWLFLEET_USE_PROXY", "on")
        assert ready("accounts", "test", "u").code == 0
        assert len(proxy.targets) == 1
        monkeypatch.setenv("PROXY_PASSWORD", "stale-secret")
        said = ready("accounts", "test", "u")
        assert said.code == 1
        assert f"proxy {proxy.name} refused" in said.err
        assert "secret" not in said.err
        assert sandbox.stats()["calls"] == 2
