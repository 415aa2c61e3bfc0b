"""Real nodes with sealed tokens and proxies: they fetch, show no secret anywhere, and blame the right one."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.secrets import KEY_VARIABLE, keyring, new_key
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from tests.fleets import tasks_of
from tests.http_proxies import ConnectProxy, SocksProxy
from tests.nodes import NodeProcess
from tests.waiting import wait_until

PASSWORD = "pass/w@rd-very"
SECRETS = ["sandbox-alice", PASSWORD, "pass%2Fw%40rd-very"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(apps=2, minute_seconds=0.2) as sandbox:
        yield sandbox


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/c.db"


@pytest.fixture
def fleet(url: str) -> Iterator[Fleet]:
    fleet = connect(url)
    yield fleet
    fleet.close()


def environ_of(sandbox: Sandbox, **more: str) -> dict[str, str]:
    return {"CRAWLFLEET_APPSFLYER_BASE_URL": sandbox.base_url, **more}


def sealed(key: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as patch:
        patch.setenv(KEY_VARIABLE, key)
        return keyring(None).seal("sandbox-alice", ("appsflyer", "alice"))


def command_lines(pid: int) -> bytes:
    """Command lines of the process and of its children, which it has for as long as it runs."""
    children = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return b"".join(Path(f"/proc/{each}/cmdline").read_bytes() for each in (pid, *children))


@pytest.mark.parametrize("engine", ["threads", "processes"])
@pytest.mark.parametrize("kind", [ConnectProxy, SocksProxy], ids=["connect", "socks5"])
def test_a_node_fetches_with_a_sealed_token_through_the_accounts_proxy(
    fleet: Fleet,
    url: str,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    kind: type[ConnectProxy | SocksProxy],
) -> None:
    key_file = tmp_path / "keys"
    key_file.write_text(new_key())
    key_file.chmod(0o600)
    token = sealed(key_file.read_text(), monkeypatch)
    with kind(user="user", password=PASSWORD) as proxy:
        address = proxy.address("user:${PROXY_PASSWORD}")
        fleet.accounts.add(Account("appsflyer", "alice", token_sealed=token, proxy=address))
        [task_id] = [fleet.add_task("user_apps", username="alice")]
        environ = environ_of(
            sandbox,
            PROXY_PASSWORD=PASSWORD,
            CRAWLFLEET_USE_PROXY="on",
            CRAWLFLEET_SECRET_KEY_FILE=str(key_file),
        )
        with NodeProcess(tmp_path, url, "--debug", "--engine", engine, **environ) as node:
            node.wait_for(f"Task {task_id} completed")
            shown = command_lines(node.process.pid)
            proxy.close()  # from now on it is dead
            second = fleet.add_task("user_apps", username="alice")
            node.wait_for(f"Task {second} waits: kind=proxy")
            node.signal(signal.SIGTERM)
            assert node.wait() == 0
        assert proxy.targets
        assert f"proxy {proxy.name} failed: ConnectError" in node.log
    assert "代理状态: 开启" in node.log
    found = fleet.tasks.get(second)
    assert found is not None
    assert (found["status"], found["retry"], found["error_kind"]) == ("pending", 0, "proxy")
    assert fleet.accounts.find("alice")[0]["status"] == "healthy"
    content = b"".join(path.read_bytes() for path in tmp_path.glob("c.db*"))
    assert token.encode() in content
    assert b"distribute" in shown
    for secret in (*SECRETS, key_file.read_text()):
        assert secret not in node.log
        assert secret.encode() not in content + shown
    assert token.encode() not in shown


def test_a_node_without_the_key_leaves_the_account_to_others(
    fleet: Fleet, url: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    fleet.accounts.add(Account("appsflyer", "alice", token_sealed=sealed(key, monkeypatch)))
    fleet.accounts.add(Account("appsflyer", "bob", token_env="TOKEN_BOB"))
    fleet.add_task("user_apps", username="bob")
    for_alice = fleet.add_task("user_apps", username="alice")
    with NodeProcess(tmp_path, url, "--until-idle", **environ_of(sandbox, TOKEN_BOB="sandbox-bob")) as node:
        assert node.wait() == 1
    assert "waits for a person: 1 task of account alice, whose token no device has (" in node.log
    assert "account alice at appsflyer: there is no key for sealed tokens" in node.log
    assert node.count("token missing: device=") == 1
    assert sandbox.stats()["calls"] == 1, "bob's"
    found = fleet.tasks.get(for_alice)
    assert found is not None
    assert (found["status"], found["retry"]) == ("pending", 0)
    assert {row["status"] for row in fleet.accounts.find()} == {"healthy"}
    with NodeProcess(tmp_path, url, **environ_of(sandbox), **{KEY_VARIABLE: key}) as node:
        later = fleet.add_task("user_apps", username="alice")
        node.wait_for(f"Task {later} completed")


def test_a_dead_proxy_of_the_source_costs_no_attempt(fleet: Fleet, url: str, sandbox: Sandbox, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://user:very-secret@127.0.0.1:{listener.getsockname()[1]}"
    config = tmp_path / "c.toml"
    config.write_text(f'use_proxy = true\n[sources.appsflyer]\nproxy = "{address}"\nbase_url = "{sandbox.base_url}"\n')
    fleet.accounts.add(Account("appsflyer", "alice", token_env="TOKEN"))
    task_id = fleet.add_task("user_apps", username="alice")
    with NodeProcess(tmp_path, url, "--config", str(config), "--debug", TOKEN="sandbox-alice") as node:
        node.wait_for(f"Task {task_id} waits: kind=proxy")
        other = fleet.add_task("user_apps", username="alice")
        node.wait_for(f"Task {other} waits: kind=proxy")
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
    assert {task["retry"] for task in tasks_of(fleet.db)} == {0}
    assert "very-secret" not in node.log
    assert "user:" not in node.log
    assert sandbox.stats()["calls"] == 0


def test_proxies_that_are_off_are_not_used_and_missing_ones_are_noticed_once(
    fleet: Fleet, url: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    with ConnectProxy() as proxy:
        environ = environ_of(sandbox, TOKEN="sandbox-alice", HTTPS_PROXY=proxy.address(), ALL_PROXY=proxy.address())
        fleet.accounts.add(Account("appsflyer", "alice", token_env="TOKEN", proxy=proxy.address()))
        fleet.add_task("user_apps", username="alice")
        with NodeProcess(tmp_path, url, "--until-idle", **environ) as node:
            assert node.wait() == 0
        assert "goes direct" not in node.log
        fleet.accounts.change("appsflyer", "alice", {"proxy": None})
        for _ in range(3):
            fleet.add_task("user_apps", username="alice")
        with NodeProcess(tmp_path, url, "--until-idle", **environ, CRAWLFLEET_USE_PROXY="on") as node:
            assert node.wait() == 0
        assert node.count("source=appsflyer goes direct") == 1
        assert proxy.heads == []
    wait_until(lambda: fleet.tasks.stats()["completed"] == 4, what="all of them")
