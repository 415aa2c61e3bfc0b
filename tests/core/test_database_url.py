"""What a user may write to name a database, and what no message ever shows."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crawlfleet.core.database_url import read_url
from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from tests.certificates import make_certificate
from tests.servers import Server

PASSWORD = "geh/eim@密"
QUOTED = "geh%2Feim%40%E5%AF%86"


@pytest.mark.parametrize(
    ("url", "family", "driver"),
    [
        ("sqlite:///a.db", "sqlite", "sqlite+pysqlite"),
        ("mysql://u@h/d", "mysql", "mysql+pymysql"),
        ("mariadb://u@h/d", "mysql", "mysql+pymysql"),
        ("mysql+mysqldb://u@h/d", "mysql", "mysql+pymysql"),
        ("postgresql://u@h/d", "postgresql", "postgresql+psycopg"),
        ("postgres://u@h/d", "postgresql", "postgresql+psycopg"),
        ("postgresql+psycopg2://u@h/d", "postgresql", "postgresql+psycopg"),
    ],
)
def test_a_plain_url_chooses_its_driver(url: str, family: str, driver: str) -> None:
    address = read_url(url)
    assert (address.family, address.url.drivername) == (family, driver)


@pytest.mark.parametrize(
    ("url", "module", "extra"), [("mysql://u@h/d", "pymysql", "mysql"), ("postgresql://u@h/d", "psycopg", "postgres")]
)
def test_a_missing_driver_names_its_install_line(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'crawlfleet\[{extra}\]'"):
        read_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        f"oracle://u:{QUOTED}@h/d",
        f"mysql://u:{QUOTED}@h",
        f"postgresql://u:{QUOTED}@h/",
        f"mysql://u:{QUOTED}@h:port/d",
        f"mysql://u:{QUOTED}@h/d?colour=blue",
        f"postgresql://u:{QUOTED}@h/d?colour=blue",
        f"postgresql://u@h/d?password={QUOTED}",
        f"mysql://u@h/d?passwd={QUOTED}",
        f"mysql://u:{QUOTED}@h/d?ssl_mode=PREFERRED",
        f"mysql://u:{QUOTED}@h/d?ssl_ca=/no/such/file",
        f"sqlite://u:{QUOTED}@h/d",
        "sqlite:///a.db?colour=blue",
        "sqlite:///a.db?timeout=long",
        f"mysql://u:{QUOTED}@h/d?connect_timeout=long",
    ],
)
def test_a_bad_url_is_wrong_usage_and_shows_no_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Database(url)
    shown = f"{caught.value} {caught.value!r}"
    assert PASSWORD not in shown
    assert QUOTED not in shown
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
@pytest.mark.parametrize("password", ["geh@eim", "geh@eim/x", "geh?@eim", "@geheim"])
def test_a_password_with_a_plain_at_sign_is_refused_and_not_shown(scheme: str, password: str) -> None:
    with pytest.raises(UsageError, match=r"more than one '@': .* write %40") as caught:
        read_url(f"{scheme}://u:{password}@h/d?connect_timeout=1")
    assert "eim" not in str(caught.value)
    address = read_url(f"{scheme}://u%40v:geh%40eim@h/d%40e?connect_timeout=1@2")
    assert (address.url.username, address.url.password, address.url.database) == ("u@v", "geh@eim", "d@e")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:a?mode=memory&cache=shared&uri=true",
    ],
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be shared: name a file"):
        Database(url)


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_nothing_shows_the_password(scheme: str) -> None:
    db = Database(f"{scheme}://u:{QUOTED}@h:1/d?connect_timeout=3")
    for shown in (repr(db), str(db), db.name, str(db.url), repr(db.url), repr(db.engine), repr(db.address)):
        assert PASSWORD not in shown
        assert QUOTED not in shown
    assert db.name == f"{scheme}://u:***@h:1/d"
    cause = Exception(f"something about {PASSWORD}")
    assert PASSWORD not in str(db.unreachable(cause))


def test_a_password_reaches_mysql_in_utf_8() -> None:
    assert read_url(f"mysql://u:{QUOTED}@h/d").arguments["password"] == PASSWORD.encode()


def test_options_of_the_url_win() -> None:
    mysql = read_url("mysql://u@h/d?read_timeout=5&charset=latin1")
    assert "read_timeout" not in mysql.arguments
    assert mysql.url.query["charset"] == "utf8mb4"
    assert "connect_timeout" not in read_url("postgresql://u@h/d?connect_timeout=5").arguments


def test_a_certificate_authority_means_that_it_is_checked(tmp_path: Path) -> None:
    authority = make_certificate(tmp_path).authority
    assert read_url(f"postgresql://u@h/d?sslrootcert={authority}").url.query["sslmode"] == "verify-full"
    assert read_url(f"postgresql://u@h/d?sslrootcert={authority}&sslmode=verify-ca").url.query["sslmode"] == "verify-ca"

    def context(options: str) -> ssl.SSLContext:
        found = read_url(f"mysql://u@h/d?{options}").arguments["ssl"]
        assert isinstance(found, ssl.SSLContext)
        return found

    for options in (f"ssl_ca={authority}", "ssl_verify_cert=true", "ssl=true", "ssl_mode=verify_identity"):
        assert context(options).verify_mode is ssl.CERT_REQUIRED
        assert context(options).check_hostname
    chain_only = context(f"ssl_ca={authority}&ssl_mode=VERIFY_CA")
    assert (chain_only.verify_mode, chain_only.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert context("ssl_mode=REQUIRED").verify_mode is ssl.CERT_NONE
    assert read_url("mysql://u@h/d?ssl_mode=DISABLED").arguments["ssl_disabled"] is True


@pytest.mark.parametrize(
    ("hosts", "host", "port"),
    [
        ("one:5433,two:5434,three", "one,two,three", "5433,5434,5432"),
        ("[::1]:5433,10.0.0.2", "::1,10.0.0.2", "5433,5432"),
    ],
)
def test_postgresql_takes_several_hosts_and_looks_for_the_one_that_takes_writes(
    hosts: str, host: str, port: str
) -> None:
    address = read_url(f"postgresql://u:{QUOTED}@{hosts}/d?sslmode=require")
    assert {"host": host, "port": port, "target_session_attrs": "read-write"}.items() <= address.arguments.items()
    assert address.name == f"postgresql://u:***@{hosts}/d"
    assert address.url.password == PASSWORD
    assert read_url(f"postgres://{hosts}/d").name == f"postgresql://{hosts}/d"


def test_what_the_url_says_about_sessions_wins() -> None:
    address = read_url("postgresql://u@one,two/d?target_session_attrs=any")
    assert "target_session_attrs" not in address.arguments
    assert address.url.query["target_session_attrs"] == "any"


@pytest.mark.parametrize(("text", "threshold"), [("none", None), ("0", 0), ("7", 7)])
def test_prepare_threshold_is_a_number_or_none(text: str, threshold: int | None) -> None:
    """What psycopg's manual advises for poolers ended in a TypeError."""
    found = read_url(f"postgresql://u@h/d?prepare_threshold={text}")
    assert (found.arguments["prepare_threshold"], found.url.query) == (threshold, {})
    with pytest.raises(UsageError, match="prepare_threshold of the database URL must be a number or none"):
        read_url("postgresql://u@h/d?prepare_threshold=never")


@pytest.mark.parametrize("hosts", ["one:port,two", "one:5432:1,two", "one:999999,two"])
def test_hosts_that_cannot_be_read_are_wrong_usage(hosts: str) -> None:
    with pytest.raises(UsageError):
        read_url(f"postgresql://u:{QUOTED}@{hosts}/d")


def test_mysql_takes_one_host() -> None:
    with pytest.raises(UsageError, match=r"mysql takes one host \(got one:1,two\): name the proxy"):
        read_url("mysql://u@one:1,two/d")


def test_a_connection_goes_to_the_host_that_takes_writes(postgresql_server: Callable[[], Server]) -> None:
    standby, primary = postgresql_server(), postgresql_server()
    name = primary.create_database("shop")
    standby.create_database(name)
    standby.extra_arguments = ["--default_transaction_read_only=on"]
    standby.restart()
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in (standby, primary))
    with Database(f"postgresql://postgres@{hosts}/{name}").open().read() as found:
        assert found.exec_driver_sql("SELECT inet_server_port()").scalar_one() == primary.port
