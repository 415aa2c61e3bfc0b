from __future__ import annotations

import json
import logging
import signal
import stat
import sys
import threading
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.cli.distribution_cli import (
    DistributionCLI,
    StopSignals,
    older_spelling,
    print_startup_info,
    stop_signals,
)
from crawlfleet.cli.main import main
from crawlfleet.settings.definitions import Settings
from crawlfleet.settings.layers import load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEVICE_ID", raising=False)
    monkeypatch.delenv("CRAWLFLEET_DATABASE_URL", raising=False)


class FakeNode:
    """Stands in for the node: remembers what it was given."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.options: dict[str, Any] = {}
        self.is_started = False
        self.ends = 0

    def end(self) -> None:
        self.ends += 1

    def wait(self) -> int:
        assert self.is_started
        signal.raise_signal(signal.SIGTERM)
        return 7


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    fake = FakeNode()

    def init_distribution_services(
        mode: str, device_id: str, settings: Settings, until_idle: bool, takeover: bool
    ) -> FakeNode:
        fake.settings = settings
        fake.options |= {"until_idle": until_idle, "takeover": takeover}
        return fake

    def start_distribution_services(node: FakeNode) -> None:
        node.is_started = True

    module = types.ModuleType("crawlfleet.api.distribution_api")
    module.init_distribution_services = init_distribution_services  # type: ignore[attr-defined]
    module.start_distribution_services = start_distribution_services  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "crawlfleet.api.distribution_api", module)
    return fake


def test_a_config_file_is_written_with_comments_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "worker.toml"
    argv = ["distribute", "config", "--mode", "worker", "--device-id", "worker-001", "--concurrent-tasks", "3"]
    assert main([*argv, "--output", str(file), "--no-api", "--executors", "a", "--executors", "b"]) == 0
    text = file.read_text(encoding="utf-8")
    assert tomllib.loads(text) == {
        "mode": "worker",
        "device_id": "worker-001",
        "concurrent_tasks": 3,
        "executors": ["a", "b"],
        "api": False,
    }
    assert "# How many tasks run at once on this device: a whole number from 1 to 10000\n" in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    settings = load_settings(file, environ={})
    assert (settings.mode, settings.device_id, settings.concurrent_tasks) == ("worker", "worker-001", 3)


def test_a_config_file_is_not_overwritten_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text("mine" * 5000)
    assert main(["distribute", "config", "-o", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file} exists: --force overwrites it\n"
    assert file.read_text().startswith("mine")
    assert main(["distribute", "config", "-o", str(file), "--force"]) == 0
    assert tomllib.loads(file.read_text()) == {}
    assert main(["distribute", "config", "-o", str(file / "below")]) == 2


def test_secrets_of_the_environment_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRAWLFLEET_API_TOKEN", "hunter2-hunter2-hunter2-hunter2-hunter2")
    monkeypatch.setenv("CRAWLFLEET_DATABASE_URL", "mysql://u:hunter2-hunter2@h/d")
    assert main(["distribute", "config"]) == 0
    assert "hunter2" not in capsys.readouterr().out


def test_an_old_file_is_translated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "distribution_worker.json"
    old.write_text('{"mode": "worker", "device_timeout_threshold": 180, "master_host": "10.0.0.1", "api_key": null}')
    assert main(["distribute", "config", "--config", str(old)]) == 0
    out, err = capsys.readouterr()
    assert tomllib.loads(out) == {"mode": "worker", "offline_timeout": 180}
    assert "device_timeout_threshold" in err
    assert "master_host" in err


def test_show_says_where_each_value_comes_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRAWLFLEET_API_TOKEN", "hunter2-hunter2-hunter2-hunter2-hunter2")
    monkeypatch.setenv("COLUMNS", "200")
    argv = ["distribute", "config", "--show", "--concurrent-tasks", "9", "--database", "mysql://u:hunter2-hunter2@h/d"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in text.splitlines()}
    assert lines["concurrent_tasks"] == ["9", "option --concurrent-tasks"]
    assert lines["max_retry"] == ["3", "default"]
    assert lines["database_url"] == ["mysql://u:***@h/d", "option --database"]
    assert lines["api_token"] == ["***", "environment variable CRAWLFLEET_API_TOKEN"]
    assert main([*argv, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["concurrent_tasks"] == {"value": 9, "origin": "option --concurrent-tasks"}
    assert "hunter2" not in text + json.dumps(shown)


def test_a_file_is_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text("heartbeat_interval = 5\nmaster_port = 7989\n")
    assert main(["distribute", "config", "--validate", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "master_port" in err
    assert err.endswith(f"{file} is fine\n")
    file.write_text("heartbeat_interval = 500\n")
    assert main(["distribute", "config", "--validate", str(file)]) == 2
    assert "raise offline_timeout to 1500 or more" in capsys.readouterr().err
    assert main(["distribute", "config", "--validate", str(file), "--show"]) == 2


def test_the_start_block_has_the_lines_of_the_specification(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="__main__"):
        print_startup_info(load_settings(None, {"use_proxy": True, "retry_delay_seconds": 0.5}, {}))
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("__main__", "启动配置信息:"),
        ("__main__", "代理状态: 开启"),
        ("__main__", "进程数: 1"),
        ("__main__", "每进程线程数: 5"),
        ("__main__", "最大重试次数: 3"),
        ("__main__", "重试延迟: 0.5秒"),
    ]


def test_standalone_without_a_device_id_says_the_ways_to_give_one(
    capsys: pytest.CaptureFixture[str], node: FakeNode
) -> None:
    assert main(["distribute", "standalone"]) == 2
    err = capsys.readouterr().err
    for part in ("letters, digits, '-' and '_'", "--device-id ID", "config file", "DEVICE_ID"):
        assert part in err
    assert node.settings is None


@pytest.mark.parametrize(
    "argv",
    [
        ["distribute", "standalone", "--device-id", "a", "--until-idle"],
        ["distribute", "--mode", "standalone", "--device-id", "a", "--until-idle"],
        ["distribute", "--device-id", "a", "--mode=standalone", "--until-idle"],
    ],
)
def test_a_node_gets_its_settings_and_its_signals(
    argv: list[str], node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(argv) == 7
    assert node.settings is not None
    assert (node.settings.mode, node.settings.device_id) == ("standalone", "a")
    assert node.options == {"takeover": False, "until_idle": True}
    assert node.ends == 1
    assert signal.getsignal(signal.SIGTERM) is before
    assert "[INFO] __main__ - 启动配置信息:" in capsys.readouterr().err


def test_every_option_of_the_command_line_reaches_its_setting(node: FakeNode) -> None:
    argv = ["--device-name", "N", "--dispatch-interval", "2", "--heartbeat-interval", "3", "--concurrent-tasks", "4"]
    argv += ["--load-balance-strategy", "weighted", "--engine", "processes", "--host", "::1", "--port", "0", "--no-api"]
    argv += [
        "--enable-monitoring",
        "--executors",
        "m",
        "--label",
        "eu",
        "--label",
        "p",
        "--takeover",
        "--database",
        "sqlite:///x.db",
        "--verbose",
    ]
    assert main(["distribute", "worker", "--device-id", "w", *argv]) == 7
    found = node.settings
    assert found is not None
    expected = load_settings(
        None,
        {
            "mode": "worker",
            "device_id": "w",
            "device_name": "N",
            "dispatch_interval": 2,
            "heartbeat_interval": 3,
            "concurrent_tasks": 4,
            "load_balance_strategy": "weighted",
            "engine": "processes",
            "host": "::1",
            "port": 0,
            "api": False,
            "enable_monitoring": True,
            "executors": ["m"],
            "labels": ["eu", "p"],
            "database_url": "sqlite:///x.db",
        },
        {},
    )
    assert found == expected
    assert node.options["takeover"] is True


def test_options_of_older_scripts_are_accepted_with_a_notice(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "--master-host",
        "10.0.0.1",
        "--master-port",
        "7989",
        "--task-pull-limit",
        "5",
        "--api-key",
        "longenough" * 4,
    ]
    assert main(["distribute", "worker", *argv, "--max-tasks-per-device", "6"]) == 7
    err = capsys.readouterr().err
    assert "--master-host, --master-port have no effect: devices meet in the database" in err
    assert "--task-pull-limit has no effect" in err
    assert "longenough" not in err
    assert node.settings is not None
    assert (node.settings.concurrent_tasks, node.settings.api_token) == (6, "longenough" * 4)
    assert str(node.settings.device_id).startswith("worker-")


def test_a_wrong_option_value_names_the_option_and_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distribute", "standalone", "--device-id", "a", "--concurrent-tasks", "0"]) == 2
    assert capsys.readouterr().err == (
        "error: concurrent_tasks must be a whole number from 1 to 10000 (got '0' from option --concurrent-tasks)\n"
    )


@pytest.mark.parametrize(
    ("older", "today"),
    [
        (["--mode", "worker", "--device-id", "x"], ["worker", "--device-id", "x"]),
        (["--device-id", "worker", "--mode", "master"], ["master", "--device-id", "worker"]),
        (["--status"], ["status"]),
        (["--debug", "standalone"], ["--debug", "standalone"]),
        (["config", "--mode", "worker"], ["config", "--mode", "worker"]),
        (["--database", "u", "config", "--mode", "worker"], ["--database", "u", "config", "--mode", "worker"]),
        (["--mode"], ["--mode"]),
        ([], []),
    ],
)
def test_the_older_spelling_becomes_a_sub_command(older: list[str], today: list[str]) -> None:
    assert older_spelling(older) == today


def test_a_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("crawlfleet.cli.distribution_cli.os._exit", codes.append)
    stop = StopSignals()
    seen: list[int] = []
    stop.handler = lambda signum, _frame: seen.append(signum)
    stop(signal.SIGINT, None)
    assert (seen, codes) == ([signal.SIGINT], [])
    stop(signal.SIGTERM, None)
    assert codes == [143]


def test_a_closed_terminal_stops_gracefully_however_often_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP ended the node at once, with its device online and nothing handed back."""
    codes: list[int] = []
    monkeypatch.setattr("crawlfleet.cli.distribution_cli.os._exit", codes.append)
    seen: list[int] = []
    with stop_signals() as stop:
        stop.handler = lambda signum, _frame: seen.append(signum)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert (seen, codes) == ([signal.SIGHUP], [])
        signal.raise_signal(signal.SIGTERM)
        assert codes == [143]


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored() -> None:
    """As by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            stop.handler = lambda signum, _frame: pytest.fail("the node is told")
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_before_there_is_a_node_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise SystemExit(code)

    monkeypatch.setattr("crawlfleet.cli.distribution_cli.os._exit", leave)
    with pytest.raises(SystemExit):
        StopSignals()(signal.SIGINT, None)
    assert codes == [130]


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def work() -> None:
        with stop_signals():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_the_python_interface_takes_names_of_the_earlier_implementation(tmp_path: Path) -> None:
    settings = DistributionCLI().load_config(None, mode="standalone", device_id="a", enable_performance_monitoring=True)
    assert settings.enable_monitoring is True
