from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from crawlfleet.settings.definitions import RULES, Settings
from crawlfleet.settings.older_names import OLD_NAMES, OLD_VARIABLES, WITHOUT_EFFECT
from tests.settings.reading import load, write

texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_older_key_is_accepted_with_one_notice_that_names_the_new_one(old: str, new: str, tmp_path: Path) -> None:
    value: Any = {"flag": True, "text": "abcdefgh" * 4}.get(RULES[new].kind, 90)
    file = write(tmp_path / "c.json", json.dumps({old: value}))
    settings = load(file)
    assert getattr(settings, new) == value
    assert settings.notices == (f"{old} in file {file} is now called {new}",)


@pytest.mark.parametrize("old", WITHOUT_EFFECT)
def test_a_key_without_meaning_is_accepted_with_a_notice_that_says_why(old: str, tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", json.dumps({old: "whatever"}))
    settings = load(file)
    assert settings == Settings()
    assert settings.notices == (f"{old} in file {file} has no effect: {WITHOUT_EFFECT[old]}",)


def test_every_key_of_the_earlier_implementation_is_known() -> None:
    documented = """mode device_id device_name device_type master_host master_port master_api_prefix host port
        master_url dispatch_interval heartbeat_interval task_timeout_check_interval timeout_check_interval
        device_timeout_threshold device_timeout load_balance_strategy max_tasks_per_device default_task_timeout
        task_timeout task_pull_limit concurrent_tasks task_retry_delay max_retry_count batch_size
        enable_performance_monitoring enable_monitoring
        heartbeat_data_retention_days assignment_data_retention_days enable_auto_scaling auto_scaling_threshold
        enable_task_priority high_priority_threshold enable_failover failover_timeout enable_task_redistribution
        redistribution_delay api_key enable_ssl ssl_cert_path ssl_key_path"""
    assert [key for key in documented.split() if key not in {*RULES, *OLD_NAMES, *WITHOUT_EFFECT}] == []


def test_every_variable_of_the_earlier_implementation_is_known() -> None:
    documented = """DEVICE_ID DISTRIBUTION_MODE DEVICE_NAME DEVICE_TYPE MASTER_HOST MASTER_PORT MASTER_API_PREFIX
        DISPATCH_INTERVAL HEARTBEAT_INTERVAL TASK_TIMEOUT_CHECK_INTERVAL DEVICE_TIMEOUT_THRESHOLD LOAD_BALANCE_STRATEGY
        MAX_TASKS_PER_DEVICE TASK_RETRY_DELAY MAX_RETRY_COUNT DEFAULT_TASK_TIMEOUT TASK_PULL_LIMIT CONCURRENT_TASKS
        ENABLE_PERFORMANCE_MONITORING HEARTBEAT_DATA_RETENTION_DAYS ASSIGNMENT_DATA_RETENTION_DAYS ENABLE_SSL
        SSL_CERT_PATH SSL_KEY_PATH ENABLE_AUTO_SCALING AUTO_SCALING_THRESHOLD ENABLE_TASK_PRIORITY
        HIGH_PRIORITY_THRESHOLD ENABLE_FAILOVER FAILOVER_TIMEOUT ENABLE_TASK_REDISTRIBUTION
        REDISTRIBUTION_DELAY"""
    assert sorted(documented.split()) == sorted(OLD_VARIABLES)


@pytest.mark.parametrize("variable", OLD_VARIABLES)
def test_an_older_variable_is_accepted_with_a_notice(variable: str) -> None:
    key = OLD_VARIABLES[variable]
    name = OLD_NAMES.get(key, key)
    texts = {"mode": "worker", "load_balance_strategy": "RANDOM", "enable_monitoring": "true"}
    settings = load(environ={variable: texts.get(name, "90")})
    if key in WITHOUT_EFFECT:
        assert settings.notices == (f"{variable} has no effect: {WITHOUT_EFFECT[key]}",)
        return
    assert settings.origins[name] == f"environment variable {variable}"
    expected = (
        () if variable == "DEVICE_ID" else (f"environment variable {variable} is now called CRAWLFLEET_{name.upper()}",)
    )
    assert settings.notices == expected


def test_keys_without_effect_for_the_same_reason_share_a_line() -> None:
    settings = load(master_host="a", master_port="1")
    assert settings.notices == (f"--master-host, --master-port have no effect: {WITHOUT_EFFECT['master_host']}",)


def test_todays_key_wins_over_an_older_one_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", '{"max_tasks_per_device": 10, "concurrent_tasks": 3, "device_timeout": 200}')
    settings = load(file)
    assert (settings.concurrent_tasks, settings.offline_timeout) == (3, 200)
    assert f"max_tasks_per_device in file {file} is ignored: concurrent_tasks is given there too" in settings.notices


def test_todays_variable_wins_over_an_older_one() -> None:
    environ = {"DEVICE_ID": "old", "CRAWLFLEET_DEVICE_ID": "new"}
    assert load(environ=environ).device_id == "new"


def test_an_older_secret_option_is_pointed_to_the_environment() -> None:
    settings = load(api_key="longenough" * 4)
    assert settings.api_token == "longenough" * 4
    assert settings.notices == ("option --api-key is now called CRAWLFLEET_API_TOKEN",)


def test_a_variable_that_other_programs_have_too_is_no_token() -> None:
    """A variable API_KEY that happened to be there became the admin's token of the API."""
    settings = load(environ={"API_KEY": "longenough" * 4})
    assert (settings.api_token, settings.notices) == (None, ())
