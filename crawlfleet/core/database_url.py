"""What a user writes to name a database: a plain URL, without drivers.

    sqlite:///crawlfleet.db   mysql://user:password@host/name   mariadb://...   postgresql://...

A highly available PostgreSQL has several hosts; the one that takes writes is found at each connect:

    postgresql://user:password@one:5432,two:5432,three:5432/name

TLS: `?sslrootcert=ca.pem` (PostgreSQL) and `?ssl_ca=ca.pem` (MySQL, MariaDB) verify the server's certificate and name.
"""

from __future__ import annotations

import inspect
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from crawlfleet.core.edge_text import clean, flaw
from crawlfleet.core.errors import UsageError
from crawlfleet.core.hosts import bare_host, is_loopback

DRIVERS = {  # what users write -> family, SQLAlchemy's name, module, extra that brings it
    "sqlite": ("sqlite", "sqlite+pysqlite", "sqlite3", ""),
    "mysql": ("mysql", "mysql+pymysql", "pymysql", "mysql"),
    "mariadb": ("mysql", "mysql+pymysql", "pymysql", "mysql"),
    "postgresql": ("postgresql", "postgresql+psycopg", "psycopg", "postgres"),
    "postgres": ("postgresql", "postgresql+psycopg", "psycopg", "postgres"),
}
CONNECT_SECONDS = 10
ANSWER_SECONDS = 60  # a server that says nothing for so long is gone
SSL_MODES = ("DISABLED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
SSL_OPTIONS = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_mode", "ssl_verify_cert", "ssl_verify_identity")
SECRET_OPTIONS = ("password", "passwd")  # their place is before the host, where every message hides them


@dataclass(frozen=True)
class Address:
    """Where a database is. `family` is sqlite, mysql (MariaDB, too) or postgresql; `arguments` go to its driver.

    `hosts` are all of them, as written, where there are several; `url` has the first.
    """

    family: str
    url: URL
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    hosts: str = ""

    @property
    def name(self) -> str:
        """The address for people: no driver, no password, no options."""
        return shown(self.url, self.hosts)

    @property
    def is_overheard(self) -> bool:
        """Whether others may hear what is said to it: it is on another machine, and nothing demands TLS."""
        given = self.hosts or self.url.query.get("host") or self.url.host or ""
        hosts = str(given).split(",")
        if self.family == "sqlite" or "unix_socket" in self.url.query:
            return False
        if all(not host or host.startswith("/") or is_loopback(_bare(host)) for host in hosts):
            return False
        if self.family == "mysql":
            return "ssl" not in self.arguments
        return str(self.url.query.get("sslmode")) not in {"require", "verify-ca", "verify-full"}

    def hide_password(self, text: str) -> str:
        """The text of an error without the password that a driver may have put into it."""
        return text.replace(str(self.url.password), "***") if self.url.password else text


def _bare(host: str) -> str:
    """The host of `host:port`."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::\d*)?", host)
    return bare_host(found[1]) if found else host


def shown(url: URL, hosts: str = "") -> str:
    """A URL for people: no driver, no password, no options."""
    text = url.set(drivername=url.get_backend_name(), query={}).render_as_string(hide_password=True)
    if not hosts:
        return text
    start, _, database = text.rpartition("/")
    user, at, _ = start.removeprefix(scheme := f"{url.get_backend_name()}://").rpartition("@")
    return f"{scheme}{user}{at}{hosts}/{database}"


def read_url(text: str) -> Address:
    """The address that a user wrote; raises UsageError, which never shows a password."""
    text = clean(text)
    if wrong := flaw(text):
        raise UsageError(f"database URL cannot be read: {wrong}")
    text, hosts = _one_host(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UsageError(
            "database URL cannot be read: write sqlite:///file.db, mysql://user:password@host/name or postgresql://..."
        ) from None
    scheme = url.drivername.split("+")[0].lower()
    if scheme not in DRIVERS:
        raise UsageError(f"database {scheme!r} is not supported: use sqlite, mysql, mariadb or postgresql")
    family, drivername, module, extra = DRIVERS[scheme]
    try:
        __import__(module)
    except ImportError:
        raise UsageError(f"the driver for {scheme} is not installed: pip install 'crawlfleet[{extra}]'") from None
    url = url.set(drivername=drivername)
    for name in SECRET_OPTIONS:
        if name in url.query:
            raise UsageError(f"database URL {shown(url)} has the option {name}: write user:password before the host")
    if family == "sqlite":
        return _sqlite(url)
    if re.match("[^@]*@[^?]*@", text):  # then a part of the password is taken for the host, and would be shown
        raise UsageError("database URL has more than one '@': inside user, password and name write %40 for it")
    if not url.database:
        raise UsageError(f"database URL {shown(url)} names no database: add /NAME at its end")
    if family == "postgresql":
        return _postgresql(url, hosts)
    if hosts:
        raise UsageError(f"{scheme} takes one host (got {hosts}): name the proxy or address that leads to the writer")
    return _mysql(url)


def _one_host(text: str) -> tuple[str, str]:
    """The URL with the first of its hosts, and all of them when there are several."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+]*://(?:[^@/?]*@)?)([^@/?,]+(?:,[^@/?,]+)+)(?=/)", text)
    if found is None or found[1].startswith("sqlite"):
        return text, ""
    start, hosts = found.groups()
    return start + hosts.partition(",")[0] + text[found.end() :], hosts


def _sqlite(url: URL) -> Address:
    file = url.database or ""
    if file in {"", ":memory:"} or ":memory:" in file or url.query.get("mode") == "memory" or "mode=memory" in file:
        raise UsageError("an SQLite database in memory cannot be shared: name a file, as in sqlite:///crawlfleet.db")
    if url.host or url.username or url.password:
        raise UsageError(
            f"an SQLite database has no host or user (got {shown(url)}): write three slashes before a relative path"
            " and four before an absolute one, as in sqlite:////var/lib/crawlfleet.db"
        )
    if "uri" not in url.query:
        _refuse_unknown(url, ("timeout", "cached_statements", "detect_types"))
    return Address("sqlite", url)


def _postgresql(url: URL, hosts: str) -> Address:
    from psycopg.pq import Conninfo

    _refuse_unknown(url, [*(option.keyword.decode() for option in Conninfo.get_defaults()), "prepare_threshold"])
    if "sslrootcert" in url.query and "sslmode" not in url.query:
        url = url.update_query_dict({"sslmode": "verify-full"})  # a CA that verifies nothing would be a trap
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "application_name": "crawlfleet",
    }
    if hosts:
        # A standby would take the connection and refuse every write.
        arguments |= {"target_session_attrs": "read-write", **_hosts_and_ports(hosts)}
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    if (threshold := url.query.get("prepare_threshold")) is not None:  # not libpq's: psycopg wants a number
        if not re.fullmatch("[0-9]{1,9}|none", str(threshold).lower()):
            raise UsageError(f"prepare_threshold of the database URL must be a number or none (got {threshold!r:.80})")
        arguments["prepare_threshold"] = None if str(threshold).lower() == "none" else int(str(threshold))
        url = url.difference_update_query(["prepare_threshold"])
    return Address("postgresql", url, arguments, hosts)


def _hosts_and_ports(hosts: str) -> dict[str, str]:
    """The lists that libpq wants; raises UsageError."""
    found = [re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", each) for each in hosts.split(",")]
    parts = [each.groups() for each in found if each is not None]
    if len(parts) < len(found):
        raise UsageError(f"database URL has hosts that cannot be read (got {hosts}): write one:5432,two:5432")
    return {
        "host": ",".join(host.strip("[]") for host, _ in parts),
        "port": ",".join(port or "5432" for _, port in parts),
    }


def _mysql(url: URL) -> Address:
    """TLS that verifies: PyMySQL's own default is "preferred", which checks nothing and falls back to plain text."""
    from pymysql.connections import Connection

    _refuse_unknown(url, [*inspect.signature(Connection).parameters, *SSL_OPTIONS])
    given = {name: str(url.query[name]) for name in SSL_OPTIONS if name in url.query}
    query = {name: value for name, value in url.query.items() if name not in given}
    timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
    arguments: dict[str, Any] = {name: value for name, value in timeouts.items() if name not in query}
    query["charset"] = "utf8mb4"
    if url.password:
        arguments["password"] = str(url.password).encode()  # PyMySQL would encode it as Latin-1, or fail and show it
    mode = given.get("ssl_mode", "VERIFY_IDENTITY" if given else "").upper()
    if mode == "DISABLED":
        arguments["ssl_disabled"] = True
    elif mode in SSL_MODES:
        arguments["ssl"] = _tls(mode, given)
    elif mode:
        raise UsageError(f"ssl_mode must be {', '.join(SSL_MODES[:-1])} or {SSL_MODES[-1]} (got {mode})")
    return Address("mysql", url.set(query=query), arguments)


def _tls(mode: str, given: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca"))
        if "ssl_cert" in given:
            context.load_cert_chain(given["ssl_cert"], given.get("ssl_key"))
    except OSError as error:  # SSLError is one, too
        raise UsageError(f"TLS files of the database URL cannot be used: {error}") from None
    context.check_hostname = mode == "VERIFY_IDENTITY"
    if mode == "REQUIRED":
        context.verify_mode = ssl.CERT_NONE
    return context


def _refuse_unknown(url: URL, known: Iterable[str]) -> None:
    for name in url.query:
        if name not in known:
            raise UsageError(f"database URL {shown(url)} has the unknown option {name!r}")
