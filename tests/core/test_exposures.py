"""What of a database's URL others may learn, and what the program shows of it."""

from __future__ import annotations

import pytest

from crawlfleet.core import logs
from crawlfleet.core.database_url import read_url
from crawlfleet.doctor.exposures import exposures
from crawlfleet.settings.display import describe
from crawlfleet.settings.layers import load_settings


@pytest.mark.parametrize(
    ("url", "overheard"),
    [
        ("sqlite:///c.db", False),
        ("postgresql://u:p@127.0.0.1/d", False),
        ("postgresql://u:p@[::1]:5432/d", False),
        ("postgresql://u@/d?host=/run/postgresql", False),
        ("postgresql://u@/d", False),
        ("mysql://u:p@localhost/d", False),
        ("mysql://u:p@/d?unix_socket=/run/m.sock", False),
        ("postgresql://u:p@db/d", True),
        ("postgresql://u:p@db/d?sslmode=prefer", True),
        ("postgresql://u:p@db/d?sslmode=require", False),
        ("postgresql://u:p@db/d?sslrootcert=ca.pem", False),
        ("postgresql://u:p@127.0.0.1:5432,db2:5432/d", True),
        ("postgresql://u:p@127.0.0.1:5432,[::1]:5433/d", False),
        ("mysql://u:p@db/d", True),
        ("mysql://u:p@db/d?ssl_mode=DISABLED", True),
        ("mysql://u:p@db/d?ssl_mode=REQUIRED", False),
    ],
)
def test_a_database_of_another_machine_without_tls_is_told(url: str, overheard: bool) -> None:
    assert read_url(url).is_overheard is overheard


def test_a_password_on_the_command_line_and_a_connection_without_tls_are_warned_of() -> None:
    url = "postgresql://u:pass-word@db/d"
    on_the_line = exposures(load_settings(None, {"database_url": url}, environ={}))
    assert [text.partition(" is ")[0] for text, _ in on_the_line] == [
        "the password of the database",
        "the connection to postgresql://u:***@db/d",
    ]
    in_the_environment = exposures(load_settings(None, {}, environ={"CRAWLFLEET_DATABASE_URL": url}))
    assert in_the_environment == on_the_line[1:]
    assert exposures(load_settings(None, {"database_url": "sqlite:///c.db"}, environ={})) == []


def test_secret_parameters_of_a_url_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """`config --show` printed `?sslpassword=` with its value."""
    url = "postgresql://u@db/d?sslmode=verify-full&sslpassword=pass%2Fword&sslkey=k.pem"
    settings = load_settings(None, {"database_url": url}, environ={})
    [shown] = [each.value for each in describe(settings) if each.name == "database_url"]
    assert shown == "postgresql://u@db/d?sslmode=verify-full&sslpassword=***&sslkey=k.pem"
    assert logs.redact("said pass%2Fword and pass/word") == "said *** and ***"
    for name in ("password", "api_key", "access_token", "X-Amz-Signature", "client_secret", "PASSWD"):
        assert logs.redact(f"GET https://x/y?a=1&{name}=hunter2&b=2") == f"GET https://x/y?a=1&{name}=***&b=2"
