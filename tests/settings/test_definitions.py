from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.errors import UsageError
from crawlfleet.model.next_move import RetryPolicy
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import Task
from crawlfleet.settings.definitions import RULES, SOURCE_KEYS, Settings
from crawlfleet.sources.contract import SourceSettings
from tests.settings.reading import load, refusal


def test_the_defaults_are_those_of_the_specification() -> None:
    settings = load()
    expected: dict[str, Any] = {
        "mode": "standalone",
        "device_id": None,
        "database_url": "sqlite:///crawlfleet.db",
        "dispatch_interval": 10,
        "schedule_interval": 30,
        "heartbeat_interval": 30,
        "offline_timeout": 300,
        "concurrent_tasks": 5,
        "execution_timeout": 3600,
        "max_retry": 3,
        "retry_delay_seconds": 300,
        "shutdown_grace": 30,
        "database_wait": 20,
        "load_balance_strategy": "least_tasks",
        "heartbeat_retention_days": 7,
        "assignment_retention_days": 30,
        "enable_monitoring": False,
        "use_proxy": False,
        "secret_key_file": None,
        "engine": "threads",
        "executors": (),
        "host": "127.0.0.1",
        "port": 8080,
        "api": True,
        "api_token": None,
        "log_file": None,
        "sources": {},
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.device_name
    assert settings == Settings()
    assert (settings.effective_processes, settings.effective_threads, settings.slots) == (1, 5, 5)


def test_tasks_and_retries_begin_with_the_defaults_of_the_settings() -> None:
    settings, defaults = Settings(), TaskDefaults()
    assert (defaults.execution_timeout, defaults.max_retry_count) == (settings.execution_timeout, settings.max_retry)
    assert Task(1, "crawl").execution_timeout == settings.execution_timeout
    assert RetryPolicy().delay_seconds == settings.retry_delay_seconds


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("dispatch_interval", 0.1, 3600),
        ("schedule_interval", 0.1, 3600),
        ("heartbeat_interval", 0.5, 3600),
        ("concurrent_tasks", 1, 10_000),
        ("processes", 1, 64),
        ("threads_per_process", 1, 10_000),
        ("max_retry", 0, 100),
        ("retry_delay_seconds", 0, 86_400),
        ("execution_timeout", 1, 604_800),
        ("shutdown_grace", 0, 3600),
        ("database_wait", 0, 3600),
    ],
)
def test_the_ranges_are_those_of_the_specification(name: str, low: float, high: float) -> None:
    assert (RULES[name].low, RULES[name].high) == (low, high)


def test_the_offline_timeout_covers_three_heartbeats(tmp_path: Path) -> None:
    assert load(heartbeat_interval=1.1, offline_timeout=3.3).offline_timeout == 3.3
    assert refusal(environ={"CRAWLFLEET_HEARTBEAT_INTERVAL": "200"}) == (
        "offline_timeout must be at least 3 x heartbeat_interval "
        "(got 300 and 200 from environment variable CRAWLFLEET_HEARTBEAT_INTERVAL): "
        "raise offline_timeout to 600 or more"
    )
    with pytest.raises(UsageError, match="raise offline_timeout to 90 or more"):
        Settings(offline_timeout=60)


def test_an_engine_of_processes_runs_one_body_in_each() -> None:
    settings = load(engine="processes")
    assert (settings.effective_processes, settings.effective_threads, settings.slots) == (5, 1, 5)
    assert load(engine="processes", processes=2).slots == 2
    assert load(engine="processes", concurrent_tasks=500).slots == 64
    assert "threads_per_process must be 1 with engine processes (got 2" in refusal(
        engine="processes", threads_per_process=2
    )


def test_threads_run_in_one_process() -> None:
    settings = load(threads_per_process=3, processes=1)
    assert (settings.effective_processes, settings.effective_threads, settings.slots) == (1, 3, 3)
    assert load(threads_per_process=30).slots == 5
    assert "processes must be 1 with engine threads (got 2 from option --processes)" in refusal(processes=2)


def test_the_keys_of_a_source_are_those_that_sources_read() -> None:
    assert tuple(item.name for item in dataclasses.fields(SourceSettings)) == (*SOURCE_KEYS, "options")


def test_settings_cannot_be_changed_and_travel_to_other_processes() -> None:
    settings = load(device_id="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 5  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings
