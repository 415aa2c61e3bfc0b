from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crawlfleet.core import logs
from crawlfleet.core.errors import UsageError
from crawlfleet.core.secrets import KEY_VARIABLE
from crawlfleet.settings.definitions import Settings
from crawlfleet.settings.layers import load_settings, require_device_id
from tests.settings.reading import load, refusal, write


def test_each_layer_wins_over_the_one_before_and_says_so(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "max_retry = 1\nconcurrent_tasks = 1\nport = 1\n")
    environ = {"CRAWLFLEET_CONCURRENT_TASKS": "2", "CRAWLFLEET_PORT": "2"}
    settings = load(file, environ, port="3", host=None)
    assert (settings.max_retry, settings.concurrent_tasks, settings.port) == (1, 2, 3)
    assert settings.origins["max_retry"] == f"file {file}"
    assert settings.origins["concurrent_tasks"] == "environment variable CRAWLFLEET_CONCURRENT_TASKS"
    assert settings.origins["port"] == "option --port"
    assert settings.origins["host"] == "default"
    assert settings.notices == ()


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "CRAWLFLEET_MAX_RETRY", "9")
    assert load_settings().max_retry == 9


def test_an_empty_variable_counts_as_not_set_and_null_as_not_given(tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", '{"device_name": null, "api_key": null, "port": null}')
    settings = load(file, {"CRAWLFLEET_PORT": "", "DEVICE_ID": ""})
    assert settings == Settings()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("concurent_tasks", "concurrent_tasks"),
        ("Concurrent-Tasks", "concurrent_tasks"),
        ("device_timout", "device_timeout"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_one_that_was_meant(key: str, meant: str, tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", json.dumps({key: 5}))
    assert refusal(file) == f"unknown key {key!r} in file {file}: did you mean {meant!r}?"


def test_a_key_like_no_other_is_answered_with_all_that_are_known(tmp_path: Path) -> None:
    for key in ("zzz", "origins", "notices", ""):
        assert "known keys are mode, device_id" in refusal(write(tmp_path / "c.json", json.dumps({key: 5})))


def test_a_misspelt_variable_gives_a_notice_because_tokens_share_the_prefix() -> None:
    settings = load(environ={"CRAWLFLEET_CONCURENT_TASKS": "5", "CRAWLFLEET_TOKEN_ACME": "x", KEY_VARIABLE: "k"})
    assert settings.notices == (
        "environment variable CRAWLFLEET_CONCURENT_TASKS is no setting: did you mean CRAWLFLEET_CONCURRENT_TASKS?",
    )


@pytest.mark.parametrize("text", ["master-stand-01", "a", "A_b-9", "x" * 64])
def test_a_device_id_of_letters_digits_dash_and_underscore_is_accepted(text: str) -> None:
    assert require_device_id(load(device_id=text)) == text


def test_a_missing_device_id_names_the_three_ways_to_give_one() -> None:
    with pytest.raises(UsageError, match=r"--device-id ID, with device_id in the config file.* variable DEVICE_ID"):
        require_device_id(load())


def test_a_worker_without_an_id_is_named_after_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawlfleet.settings.layers.host_name", lambda: "mac-mini")
    settings = load(environ={"DATACENTER": "dc1", "DEVICE_SUFFIX": "001"}, mode="worker")
    assert settings.device_id == "worker-dc1-mac-mini-001"
    assert settings.origins["device_id"] == "host name"
    assert load(mode="master").device_id == "master-mac-mini"
    assert load(mode="master", device_id="m").device_id == "m"


POD = "crawl-workers-of-the-marketing-department-production-eu-central-1-7d9f8b6c5"  # more than 64 characters


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (f"{POD}-x7k2p", f"{POD}-q9w4z"),
        (f"a{POD}", f"b{POD}"),
        (f"{POD}-a-{POD}", f"{POD}-b-{POD}"),
        ("node1.site-a", "node1.site-b"),
        ("node1.site-a", "node1-site.a"),
        ("node1.site-a", "node1-site-a"),
        ("工人1", "工人2"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "001", "s" * 32, "a.b"])
def test_hosts_with_different_names_get_different_ids_and_the_suffix_stays(
    monkeypatch: pytest.MonkeyPatch, first: str, second: str, suffix: str
) -> None:
    """Names were cut at 64 characters and at their first dot: two pods had one device id, and lost their suffix."""
    ids = []
    for name in (first, second):
        monkeypatch.setattr("crawlfleet.settings.layers.host_name", lambda name=name: name)
        found = load(mode="worker", environ={"DEVICE_SUFFIX": suffix}).device_id
        assert found is not None
        assert found == require_device_id(load(mode="worker", device_id=found))  # one that is accepted
        assert found.startswith("worker-")
        assert found.endswith(suffix.replace(".", "-"))
        ids.append(found)
    assert ids[0] != ids[1]


def test_a_suffix_that_leaves_no_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawlfleet.settings.layers.host_name", lambda: POD)
    assert "DEVICE_SUFFIX must have at most 32 characters" in refusal(
        environ={"DEVICE_SUFFIX": "s" * 33}, mode="worker"
    )


def test_the_vendors_addresses_come_from_the_environment_into_their_tables(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", '[sources.appsflyer]\nbase_url = "https://a"\ntimeout_seconds = 5\n')
    environ = {
        "CRAWLFLEET_APPSFLYER_BASE_URL": "http://127.0.0.1:9000",
        "CRAWLFLEET_APPLE_BASE_URL": "http://127.0.0.1:9001/apple",
    }
    assert load(file, environ).sources == {
        "appsflyer": {"base_url": "http://127.0.0.1:9000", "timeout_seconds": 5},
        "apple": {"base_url": "http://127.0.0.1:9001/apple"},
    }
    message = refusal(environ={"CRAWLFLEET_APPLE_BASE_URL": "ftp://x"})
    assert message.startswith("sources.apple.base_url must be a URL")
    assert "CRAWLFLEET_APPLE_BASE_URL" in message


def test_a_short_password_is_not_hidden_as_a_word() -> None:
    load(database_url="mysql://root:root@h/d")
    assert logs.redact("root") == "root"


def test_a_percent_encoded_password_is_hidden_in_both_spellings() -> None:
    load(database_url="mysql://u:tiger%2Fpaw%21@h/d")
    assert logs.redact("tiger%2Fpaw%21 and tiger/paw!") == "*** and ***"
