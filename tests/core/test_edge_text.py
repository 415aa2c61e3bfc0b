"""Text from outside is cleaned in one way at every edge, and what is still wrong is named without being shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.database_url import read_url
from crawlfleet.core.edge_text import clean, decode, flaw
from crawlfleet.core.errors import TokenUnavailable, UsageError
from crawlfleet.core.reach import Reach
from crawlfleet.settings.layers import load_settings

MARK = "\ufeff"
AROUND = [("", "\n"), ("", "\r\n"), (" \t", " "), (MARK, ""), (f" {MARK}", f"\u200b{MARK}\n"), ("\u00a0", "\u3000")]


@pytest.mark.parametrize(("before", "after"), AROUND)
def test_what_nobody_meant_is_cut_off(before: str, after: str) -> None:
    assert clean(f"{before}secret text{after}") == "secret text"
    assert clean(f"{before}{after}") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'secret'", "it is in quotes"),
        ('"secret"', "it is in quotes"),
        ("\u201csecret\u201d", "it is in quotes"),
        ("sec\nret", "it has several lines"),
        ("sec\0ret", "it holds signs that cannot be seen"),
        ("secret", ""),
        ("it's", ""),
        ("'", ""),
    ],
)
def test_what_is_still_wrong_is_named_and_not_shown(text: str, said: str) -> None:
    assert flaw(text).partition(":")[0] == said
    assert "secret" not in flaw(text)


def test_the_bytes_of_a_file_are_text_or_the_error_says_what_to_do() -> None:
    assert decode(b"\xef\xbb\xbfabc\r\n") == "abc"
    with pytest.raises(ValueError, match="UTF-16: save it as UTF-8"):
        decode("abc".encode("utf-16"))
    with pytest.raises(ValueError, match="not UTF-8: save it as UTF-8"):
        decode(b"\xe9t\xe9")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "mysql://u:pass-word@h/d"),
        ("api_token", "pass-word-of-the-api-of-32-characters"),
        ("device_id", "node-1"),
        ("device_name", "Node 1"),
        ("log_file", "/var/log/node.log"),
        ("secret_key_file", "/etc/keys"),
        ("host", "127.0.0.1"),
    ],
)
def test_settings_are_taken_without_what_is_around_them(name: str, value: str, tmp_path: Path) -> None:
    """From a variable, an option and a file; in quotes, as an env file of docker leaves them, they are refused."""
    variable = f"CRAWLFLEET_{name.upper()}"
    for before, after in AROUND:
        given = f"{before}{value}{after}"
        assert getattr(load_settings(None, {}, {variable: given}), name) == value
        assert getattr(load_settings(None, {name: given}, {}), name) == value
    file = tmp_path / "c.toml"
    file.write_text(f'{name} = "{value}\\n"')
    assert getattr(load_settings(file, {}, {}), name) == value
    for quote in ("'", '"'):
        with pytest.raises(UsageError, match="it is in quotes: leave them out") as refused:
            load_settings(None, {}, {variable: f"{quote}{value}{quote}"})
        assert variable in str(refused.value)
        assert "pass-word" not in str(refused.value)


def test_a_variable_of_nothing_but_blanks_is_not_set() -> None:
    environ = {"CRAWLFLEET_API_TOKEN": "\r\n", "CRAWLFLEET_APPSFLYER_BASE_URL": " ", "DEVICE_ID": "\n"}
    assert load_settings(None, {}, environ) == load_settings(None, {}, {})


def test_base_addresses_are_taken_without_what_is_around_them() -> None:
    for name, source in (("CRAWLFLEET_APPSFLYER_BASE_URL", "appsflyer"), ("CRAWLFLEET_APPLE_BASE_URL", "apple")):
        for before, after in AROUND:
            settings = load_settings(None, {}, {name: f"{before}https://gateway.example{after}"})
            assert settings.sources[source]["base_url"] == "https://gateway.example"
        with pytest.raises(UsageError, match="it is in quotes"):
            load_settings(None, {}, {name: '"https://gateway.example"'})


def test_database_urls_of_programs_are_cleaned_too() -> None:
    assert read_url(f"{MARK}sqlite:///c.db\n").name == "sqlite:///c.db"
    with pytest.raises(UsageError, match="it is in quotes") as refused:
        read_url("'mysql://u:pass-word@h/d'")
    assert "pass-word" not in str(refused.value)


def test_tokens_of_accounts_are_cleaned_at_each_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte order mark before a token was sent to the vendor, which refused it: the account was parked."""
    file = tmp_path / "token"
    reach = Reach(token_folder=str(tmp_path))
    file.touch(0o600)

    def refused(**place: Any) -> str:
        with pytest.raises(TokenUnavailable) as error:
            Account("appsflyer", "u", **place).token()
        assert "secret" not in str(error.value)
        return str(error.value)

    for before, after in AROUND:
        file.write_text(f"{before}secret{after}", encoding="utf-8", newline="")
        monkeypatch.setenv("U_TOKEN", f"{before}secret{after}")
        assert Account("appsflyer", "u", token_file=str(file), reach=reach).token() == "secret"
        assert Account("appsflyer", "u", token_env="U_TOKEN").token() == "secret"
    for text, said in (('"secret"', "it is in quotes"), ("secret\nother", "it has several lines")):
        file.write_text(text)
        monkeypatch.setenv("U_TOKEN", text)
        assert said in refused(token_file=str(file), reach=reach)
        assert said in refused(token_env="U_TOKEN")
    file.write_text("secret", encoding="utf-16")
    assert "it is UTF-16: save it as UTF-8" in refused(token_file=str(file), reach=reach)
    file.write_text("x" * 20_000)
    assert "more than 16384" in refused(token_file=str(file), reach=reach)
