from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crawlfleet.cli import demo_cli, demo_node
from crawlfleet.cli.main import main
from crawlfleet.planning.tariff import tariff_of
from crawlfleet.settings.layers import load_settings
from tests.cli.console import Console
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
WITH_INTERRUPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def console(
    own_settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    """The program in an empty working directory, on the database that the demo makes there."""
    monkeypatch.chdir(tmp_path)
    return Console("sqlite:///demo/crawlfleet.db", capsys)


def test_the_demo_brings_apps_and_figures_and_explains_itself(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Neither what is set for another fleet nor what an older demo left behind gets in the way.
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "crawlfleet.db").write_text("an older demo")
    with monkeypatch.context() as patch:
        patch.setenv("CRAWLFLEET_DATABASE_URL", "mysql://nobody@127.0.0.1:1/none")
        patch.setenv("CRAWLFLEET_APPSFLYER_BASE_URL", "http://127.0.0.1:1")
        patch.setenv("DEVICE_ID", "not valid")
        assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert "演示完成 / the demo is done" in out
    assert "0 refused" in out
    assert "Standalone node started" in err
    assert "sandbox-demo" not in out + err  # the tokens
    counts = console("tasks", "stats", "--json").json
    assert counts["completed"] == counts["total"] > 4
    apps = console("data", "apps", "--json").json
    assert {app["username"] for app in apps} == {"demo_agency", "demo_advertiser"}
    assert counts["total"] == 2 + len(apps)
    rows = console("data", "rows", "--json").json
    assert len({row["date"] for row in rows}) == demo_cli.DAYS
    assert str(len(rows)) in out
    [device] = console("devices", "list", "--json").json
    assert (device["device_id"], device["status"]) == (demo_node.DEVICE_ID, "offline")
    written = {str(path.relative_to(tmp_path).parts[0]) for path in tmp_path.rglob("*")}
    assert written == {"demo"}
    with_secrets = [path for path in (tmp_path / "demo").glob("*") if "token" in path.name or "toml" in path.name]
    assert {path.stat().st_mode & 0o777 for path in with_secrets} == {0o600}
    commands = [shlex.split(line) for line in out.splitlines() if line.startswith("  python main.py ")]
    vendor, node = commands[-2:]
    assert vendor[2:] == ["sandbox", "--minute-seconds", "1", "&"]
    assert node[2:] == ["distribute", "standalone", "--device-id", "demo-02", "--config", "demo/crawlfleet.toml"]
    settings = load_settings("demo/crawlfleet.toml", {}, {})
    assert settings.database_url == f"sqlite:///{tmp_path}/demo/crawlfleet.db"
    assert settings.sources["appsflyer"]["base_url"] == "http://127.0.0.1:8900"
    assert tariff_of(settings).limit_of("appsflyer", "aggregate_short_range") == (1, 1.0)
    suggested = commands[:-2]
    assert len(suggested) > 3
    for words in suggested:
        assert main(words[2:]) == 0, words
        assert capsys.readouterr().out


def test_a_demo_whose_node_fails_says_so(
    console: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_node, "DEVICE_ID", "not valid")
    assert main(["demo"]) == 1
    out, err = capsys.readouterr()
    assert "演示失败" in out
    assert "'not valid'" in err


def test_a_demo_that_takes_too_long_is_ended(
    console: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_cli, "LONGEST_SECONDS", 0)
    monkeypatch.setattr(demo_cli, "LOOK_SECONDS", 0.05)
    assert main(["demo"]) == 1
    assert "not done after 0 s" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--database", "sqlite:///x.db"], ["--config", "x.toml"]])
def test_the_demo_takes_no_other_database(
    console: Console, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    assert main(["demo", *option]) == 2
    assert "its own database" in capsys.readouterr().err


def test_the_demo_says_when_it_cannot_write(
    console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo").write_text("a file")
    assert main(["demo"]) == 2
    assert "demo cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_its_node(console: Console, tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with open(log, "wb") as stream:
        command = [sys.executable, str(ROOT / "main.py"), "demo"]
        process = subprocess.Popen(
            [sys.executable, "-c", WITH_INTERRUPT, *command], stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        wait_until(lambda: "启动配置信息" in log.read_text("utf-8") or process.poll() is not None, 30, "the node")
        process.send_signal(number)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
    text = log.read_text("utf-8")
    assert "the demo was interrupted" in text
    assert "Traceback" not in text
    assert not nodes_in(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_ends_the_demo_as_a_signal_does(number: signal.Signals) -> None:
    """SIGHUP ended the demo alone: its node, in a session of its own, went on."""
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), demo_cli.signals_interrupt():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def nodes_in(folder: Path) -> list[str]:
    """Processes that work in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder) and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_the_demo_deletes_nothing_behind_a_link(
    console: Console, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    behind = tmp_path_factory.mktemp("real")
    (behind / "crawlfleet.db").write_text("figures of a company")
    (tmp_path / "demo").symlink_to(behind)
    assert main(["demo"]) == 2
    assert "is a link" in capsys.readouterr().err
    assert (behind / "crawlfleet.db").read_text() == "figures of a company"
