"""Who the audit says gave a command."""

from __future__ import annotations

import os

import pytest

from crawlfleet.cli import database

pwd = pytest.importorskip("pwd")


def test_the_audit_names_the_user_of_the_process_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LOGNAME=ceo tasks pause` was written down as a deed of ceo."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ceo")
    assert database.actor().partition("@")[0] == pwd.getpwuid(os.getuid()).pw_name != "ceo"


def test_a_user_without_a_name_is_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert database.actor().startswith("uid-4000000@")
