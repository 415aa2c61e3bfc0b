"""What `doctor` asks of this machine: settings, executors, tokens, proxies, disks, ports."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.errors import ProxyError, TaskError, UsageError
from crawlfleet.core.hosts import is_loopback, with_port
from crawlfleet.core.secrets import keyring
from crawlfleet.core.wording import counted
from crawlfleet.doctor.database_checks import has_tables
from crawlfleet.doctor.findings import Check, Finding, fail, ok, warn
from crawlfleet.executors.registry import executors
from crawlfleet.model.account import AccountDAO, accounts_of
from crawlfleet.model.lifecycle import AccountStatus
from crawlfleet.planning.tariff import Tariff, all_source_settings
from crawlfleet.settings.definitions import FIELDS, RULES, Settings
from crawlfleet.sources.http.proxies import ANY_VARIABLE, Proxy

DISK_WARN_BYTES, DISK_FAIL_BYTES = 1024**3, 100 * 1024**2  # free
PROXY_SECONDS = 5.0
MAX_PROXIES = 50
MAX_LINES = 20  # of one check


def settings_in_effect(settings: Settings, config: str | None) -> Iterator[Finding]:
    """What was read, and what of it is old or open to others."""
    for notice in settings.notices:
        yield warn("settings", notice, "write the name of today")
    given = [name for name, origin in settings.origins.items() if origin != "default"]
    in_file = [name for name in given if settings.origins[name].startswith("file ") and RULES[name].secret]
    if (
        config is not None
        and in_file
        and os.name == "posix"
        and os.stat(config).st_mode & (stat.S_IRGRP | stat.S_IROTH)
    ):
        yield warn(
            "settings", f"{config} holds {' and '.join(in_file)} and can be read by others", f"chmod 600 {config}"
        )
    yield ok("settings", f"{config or 'no config file'}; {len(given)} of {len(RULES)} settings are given")


def known_executors(settings: Settings) -> Iterator[Finding]:
    """Whether the modules of one's own can be loaded, and the sources' settings be used."""
    try:
        known = executors(settings.executors)
        Tariff(all_source_settings(settings), lambda: known).check()
    except UsageError as error:
        yield fail("executors", str(error), "a node does not start with this: correct the module or the setting")
        return
    yield ok("executors", f"{len(known)} task types: {', '.join(sorted(known))}"[:300])


def tokens(settings: Settings, db: Database) -> Iterator[Finding]:
    """Whether this machine has the token of each account; shows none of them."""
    if not has_tables(db):
        return
    tariff = Tariff(all_source_settings(settings), dict)
    accounts = _accounts(db)
    missing = []
    unbound = 0
    for account, status in accounts:
        if status == AccountStatus.TOKEN_EXPIRED:
            name = f"{account.username} at {account.source}"
            advice = f"renew it where it is kept, then `accounts resume {account.username}`"
            missing.append(warn("tokens", f"the vendor refused the token of {name}", advice))
        try:
            if tariff.source(account.source).needs_token:
                replace(account, reach=settings.reach).token()
                if account.token_sealed and not keyring(settings.secret_key_file).is_bound(account.token_sealed):
                    unbound += 1
        except UsageError as error:  # a source of one's own that this machine lacks
            missing.append(warn("tokens", f"account {account.username}: {error}", "install the source where nodes run"))
        except TaskError as error:
            missing.append(fail("tokens", str(error), "its tasks wait until a node has it; see docs/secrets.md"))
    if unbound:
        text = f"{unbound} sealed tokens are not bound to their accounts: a copy in another account's row opens"
        missing.append(warn("tokens", text, "run `accounts rotate` once, with a new key if the database may be copied"))
    yield from _first(missing, "tokens")
    if not missing:
        yield ok("tokens", f"{counted(len(accounts), 'account')}, and all that is needed is on this machine")


def proxies(settings: Settings, db: Database | None) -> Iterator[Finding]:
    """Whether the proxies that nodes would use take connections."""
    addresses: list[tuple[str, tuple[str, ...]]]
    addresses = [(str(table["proxy"]), ANY_VARIABLE) for table in settings.sources.values() if table.get("proxy")]
    if db is not None and has_tables(db):
        allowed = settings.proxy_variables
        addresses += [(account.proxy, allowed) for account, _ in _accounts(db) if account.proxy]
    known = list(dict.fromkeys(addresses))
    if not settings.use_proxy:
        yield ok("proxies", f"use_proxy is off; {len(known)} are known and not used" if known else "use_proxy is off")
        return
    if not known:
        yield warn("proxies", "use_proxy is on, but no proxy is known", "add one to an account or to [sources.NAME]")
        return
    tried = [Check("proxies", partial(_proxy, *each), PROXY_SECONDS) for each in known[:MAX_PROXIES]]
    found = [finding for check in tried for finding in check.findings()]
    yield from _first([each for each in found if each.advice], "proxies")
    reached = sum(each.advice is None for each in found)
    if reached:
        yield ok("proxies", f"{reached} of {len(known)} take connections")


def _proxy(address: str, variables: tuple[str, ...]) -> Iterator[Finding]:
    try:
        proxy = Proxy(address, variables)
        proxy.open()
        with socket.create_connection((proxy.host or "", proxy.port), PROXY_SECONDS):
            pass
    except (ProxyError, UsageError) as error:
        yield fail("proxies", str(error), "set it where nodes run")
    except OSError as error:
        reason = error.strerror or str(error)
        yield fail("proxies", f"proxy {proxy.name} cannot be reached: {reason}", "start it, or correct its address")
    else:
        yield ok("proxies", proxy.name)


def disks(settings: Settings) -> Iterator[Finding]:
    """Whether there is room where nodes write: database file, large results, log."""
    folders = {"temporary files": Path(gettempdir())}
    if settings.log_file:
        folders["log_file"] = Path(settings.log_file).absolute().parent
    file = Database(settings.database_url).url.database if settings.database_url.startswith("sqlite:") else None
    if file and not file.startswith("file:"):
        folders["the database"] = Path(file).absolute().parent
    for use, folder in folders.items():
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            yield fail("disk", f"{folder} for {use} cannot be looked at: {error.strerror}", "make the folder")
            continue
        text = f"{free / 1024**3:.1f} GiB free in {folder} for {use}"
        if free < DISK_FAIL_BYTES:
            yield fail("disk", text, "make room before starting a node")
        elif free < DISK_WARN_BYTES:
            yield warn("disk", text, "make room soon")
        else:
            yield ok("disk", text)


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether the API could listen."""
    place = with_port(settings.host, settings.port)
    if not settings.api:
        yield ok("ports", "the API is off")
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            if os.name == "posix":  # as the API does
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        text = f"the API cannot listen on {place}: {error.strerror or error}"
        advice = "nothing to do if a node runs here already; else choose another with --port N, or --no-api"
        is_given = settings.port != FIELDS["port"].default or settings.host != FIELDS["host"].default
        yield fail("ports", text, advice) if is_given else warn("ports", f"{text}; a node goes on without it", advice)
        return
    if not is_loopback(str(address[0])) and settings.api_token is None:
        text = f"{place} can be reached from other machines and api_token is not set"
        yield warn(
            "ports", text, "set it, or look for one with `tokens list`: without any the API does not start there"
        )
        return
    yield ok("ports", f"{place} is free for the API")


def _accounts(db: Database) -> list[tuple[Account, str]]:
    keys = [(row["source"], row["username"]) for row in AccountDAO(db).find()]
    with db.read() as reader:
        found: Mapping[tuple[str, str], tuple[Account, str]] = accounts_of(reader, keys)
    return [found[key] for key in keys if key in found]


def _first(findings: list[Finding], check: str) -> Iterator[Finding]:
    """At most MAX_LINES of them, the gravest kept."""
    ordered = sorted(findings, key=lambda each: each.status == "WARN")
    yield from ordered[:MAX_LINES]
    if len(ordered) > MAX_LINES:
        yield replace(ordered[MAX_LINES], finding=f"{len(ordered) - MAX_LINES} more like these", check=check)
