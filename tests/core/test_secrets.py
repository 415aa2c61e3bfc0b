from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from crawlfleet.core.account import Account
from crawlfleet.core.errors import AuthError, TokenUnavailable, UsageError
from crawlfleet.core.secrets import KEY_VARIABLE, keyring, new_key

TOKEN = "ey.very-secret"
OWNER = ("appsflyer", "u")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of the environment."""
    key = new_key()
    monkeypatch.setenv(KEY_VARIABLE, key)
    return key


def write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def refusal(key_file: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        keyring(key_file)
    return str(caught.value)


def test_what_was_sealed_is_opened_and_looks_different_each_time(key: str) -> None:
    keys = keyring(None)
    sealed = keys.seal(TOKEN, OWNER)
    assert keys.open(sealed, OWNER) == TOKEN
    assert sealed.isascii()
    assert keys.seal(TOKEN, OWNER) != sealed


@pytest.mark.parametrize("separator", ["\n", ",", ", ", "\r\n\r\n", " "])
def test_the_newest_key_seals_and_every_key_opens(tmp_path: Path, separator: str) -> None:
    old, new = new_key(), new_key()
    both = keyring(write(tmp_path / "both", f"{new}{separator}{old}\n"))
    only_old, only_new = (keyring(write(tmp_path / name, key)) for name, key in (("old", old), ("new", new)))
    before = only_old.seal(TOKEN, OWNER)
    assert both.open(before, OWNER) == TOKEN
    assert only_new.open(both.seal(TOKEN, OWNER), OWNER) == TOKEN
    assert only_new.open(both.reseal(before, OWNER), OWNER) == TOKEN


def test_the_environment_wins_over_the_file(key: str, tmp_path: Path) -> None:
    sealed = keyring(None).seal(TOKEN, OWNER)
    assert keyring(str(tmp_path / "missing")).open(sealed, OWNER) == TOKEN


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    file = write(tmp_path / "keys", new_key(), mode)
    assert f"secret_key_file {file} is open to others than its owner (mode {mode:04o}): chmod 600" in refusal(file)


def test_what_is_wrong_with_a_key_is_told_without_showing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY_VARIABLE in refusal()
    assert "cannot be read: No such file" in refusal(str(tmp_path / "missing"))
    assert "holds no key" in refusal(write(tmp_path / "empty", " \n"))
    for wrong in ("hunter2", new_key()[:-4], "ключ"):
        message = refusal(write(tmp_path / "wrong", f"{new_key()}\n{wrong}\n"))
        assert "key 2 of secret_key_file" in message
        assert wrong not in message
    monkeypatch.setenv(KEY_VARIABLE, "hunter2")
    message = refusal()
    assert f"key 1 of environment variable {KEY_VARIABLE} is malformed" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("damage", [lambda text: text[:-8], lambda text: "x" + text, lambda _: "", lambda _: "ü"])
def test_a_token_that_no_key_opens_is_refused(key: str, damage: object) -> None:
    keys = keyring(None)
    sealed = damage(keys.seal(TOKEN, OWNER))  # type: ignore[operator]
    for act in (keys.open, keys.reseal):
        with pytest.raises(UsageError, match="no key of environment variable"):
            act(sealed, OWNER)


def test_a_sealed_token_in_the_row_of_another_account_does_not_open(key: str) -> None:
    """Who writes the database copied the sealed token of one account to another one's row, and it opened."""
    keys = keyring(None)
    sealed = keys.seal(TOKEN, OWNER)
    for other in (("appsflyer", "v"), ("apple", "u"), ("u", "appsflyer")):
        for act in (keys.open, keys.reseal):
            with pytest.raises(UsageError, match="the sealed token is another account's"):
                act(sealed, other)
        with pytest.raises(TokenUnavailable, match="another account's"):
            Account(*other, token_sealed=sealed).token()


def test_a_token_that_was_sealed_before_they_were_bound_opens_and_is_bound_when_it_is_resealed(key: str) -> None:
    """Nobody loses a token by an update."""
    keys = keyring(None)
    older = Fernet(key).encrypt(TOKEN.encode()).decode()
    assert keys.open(older, OWNER) == TOKEN
    assert not keys.is_bound(older)
    bound = keys.reseal(older, OWNER)
    assert keys.is_bound(bound)
    with pytest.raises(UsageError, match="another account's"):
        keys.open(bound, ("appsflyer", "v"))


def test_a_missing_package_names_its_install_line(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert "pip install 'crawlfleet[secrets]'" in refusal()


def test_an_account_opens_its_token_at_the_moment_of_use(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account("appsflyer", "u", token_sealed=keyring(None).seal(TOKEN, OWNER))
    assert account.token() == TOKEN
    assert TOKEN not in repr(account)
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(TokenUnavailable, match=f"account u at appsflyer: there is no key.*{KEY_VARIABLE}") as caught:
        account.token()
    assert not isinstance(caught.value, AuthError), "the account is fine: it must not be parked"


def test_a_token_that_a_key_of_another_fleet_sealed_shows_nothing(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account("appsflyer", "u", token_sealed=keyring(None).seal(TOKEN, OWNER))
    other = new_key()
    monkeypatch.setenv(KEY_VARIABLE, other)
    with pytest.raises(TokenUnavailable) as caught:
        account.token()
    shown = "".join(traceback.format_exception(caught.value))
    assert [secret for secret in (TOKEN, key, other) if secret in shown] == []


def test_an_account_without_any_token_is_a_matter_for_a_person() -> None:
    with pytest.raises(AuthError, match="no token is configured"):
        Account("appsflyer", "u").token()


def test_keys_show_nowhere(key: str) -> None:
    assert key not in repr(keyring(None)) + repr(vars(keyring(None)))


@pytest.mark.skipif(os.name != "posix", reason="the owner of a file is a matter of POSIX")
def test_a_key_file_for_the_owner_only_is_read(tmp_path: Path) -> None:
    assert keyring(write(tmp_path / "keys", new_key(), 0o400)).seal(TOKEN, OWNER)
