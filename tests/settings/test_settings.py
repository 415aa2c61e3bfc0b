from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawlfleet.core import logs
from crawlfleet.core.errors import UsageError
from crawlfleet.core.secrets import KEY_VARIABLE
from crawlfleet.model.next_move import RetryPolicy
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import Task
from crawlfleet.settings.definitions import RULES, SOURCE_KEYS, Settings
from crawlfleet.settings.display import describe, to_toml
from crawlfleet.settings.layers import load_settings, require_device_id
from crawlfleet.settings.older_names import OLD_NAMES, OLD_VARIABLES, WITHOUT_EFFECT
from crawlfleet.sources.contract import SourceSettings

NUMBERS = [name for name, rule in RULES.items() if rule.kind in {"whole", "number"}]
FLAGS = [name for name, rule in RULES.items() if rule.kind == "flag"]
# What a bound needs beside it to fit together with the other settings.
COMPANIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("heartbeat_interval", "high"): {"offline_timeout": 10_800},
    ("offline_timeout", "low"): {"heartbeat_interval": 0.5},
    ("processes", "high"): {"engine": "processes"},
}


@pytest.fixture(autouse=True)
def no_secrets_left() -> Iterator[None]:
    yield
    logs._secrets.clear()


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(file: Path | None = None, environ: dict[str, str] | None = None, **overrides: Any) -> Settings:
    return load_settings(file, overrides, environ or {})


def refusal(file: Path | None = None, environ: dict[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(file, environ, **overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


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


@pytest.mark.parametrize("bound", ["low", "high"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_reach_its_bound_and_not_pass_it(name: str, bound: str, tmp_path: Path) -> None:
    rule = RULES[name]
    limit = getattr(rule, bound)
    beside = COMPANIONS.get((name, bound), {})
    assert getattr(load(**beside, **{name: limit}), name) == limit
    assert getattr(load(environ={f"CRAWLFLEET_{name.upper()}": str(limit)}, **beside), name) == limit
    step = 1 if rule.kind == "whole" else 0.01
    beyond = round(limit + (step if bound == "high" else -step), 2)
    allowed = f"{name} must be {rule.allowed}"
    variable = f"CRAWLFLEET_{name.upper()}"
    assert (
        refusal(environ={variable: str(beyond)}) == f"{allowed} (got '{beyond}' from environment variable {variable})"
    )
    file = write(tmp_path / "c.json", json.dumps({name: beyond}))
    assert refusal(file) == f"{allowed} (got {beyond} from file {file})"
    option = "--" + name.replace("_", "-")
    assert refusal(None, None, **{name: str(beyond)}) == f"{allowed} (got '{beyond}' from option {option})"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "", " ", "five", "0x10", "1_000", "５", "1e999", "9" * 5000, "--1"]
)
def test_a_text_that_is_no_number_of_the_range_is_refused(name: str, text: str) -> None:
    assert refusal(None, None, **{name: text}).startswith(f"{name} must be {RULES[name].allowed} (got ")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "true", '"5"', "[5]", "{}", "1979-05-27"])
def test_a_file_gives_numbers_as_numbers(name: str, value: str, tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "c.toml", f"{name} = {value}")).startswith(f"{name} must be ")


def test_a_whole_number_has_no_fraction(tmp_path: Path) -> None:
    assert "a whole number" in refusal(concurrent_tasks="5.0")
    assert "a whole number" in refusal(write(tmp_path / "c.toml", "concurrent_tasks = 5.0"))


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_read_strictly(name: str, tmp_path: Path) -> None:
    for text, value in {
        "true": True,
        "1": True,
        "YES": True,
        "on": True,
        "false": False,
        "0": False,
        "off": False,
    }.items():
        assert getattr(load(environ={f"CRAWLFLEET_{name.upper()}": text}), name) is value
    assert refusal(environ={f"CRAWLFLEET_{name.upper()}": "maybe"}).startswith(
        f"{name} must be true or false (got 'maybe'"
    )
    for literal in ("1", '"true"'):
        assert "must be true or false" in refusal(write(tmp_path / "c.toml", f"{name} = {literal}"))


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


def test_executors_are_separated_by_commas_in_the_environment(tmp_path: Path) -> None:
    assert load(environ={"CRAWLFLEET_EXECUTORS": "a.b, c,"}).executors == ("a.b", "c")
    assert load(executors=["a", "b"]).executors == ("a", "b")
    assert load(write(tmp_path / "c.toml", 'executors = ["a", "b"]')).executors == ("a", "b")
    assert "a list of module names" in refusal(write(tmp_path / "c.toml", "executors = [1]"))


@pytest.mark.parametrize("bad", [["a b"], [""], ["x" * 65], [1], "eu", [f"l{n}" for n in range(33)]])
def test_labels_are_few_short_names(tmp_path: Path, bad: object) -> None:
    assert load(environ={"CRAWLFLEET_LABELS": "eu, proxy:2"}).labels == ("eu", "proxy:2")
    assert "labels must be a list of at most 32 labels, each of 1 to 64" in refusal(
        write(tmp_path / "c.toml", f"labels = {json.dumps(bad)}")
    )


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_older_key_is_accepted_with_one_notice_that_names_the_new_one(old: str, new: str, tmp_path: Path) -> None:
    value: Any = {"flag": True, "text": "abcdefgh"}.get(RULES[new].kind, 90)
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
        ENABLE_PERFORMANCE_MONITORING HEARTBEAT_DATA_RETENTION_DAYS ASSIGNMENT_DATA_RETENTION_DAYS API_KEY ENABLE_SSL
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
    settings = load(api_key="longenough")
    assert settings.api_token == "longenough"
    assert settings.notices == ("option --api-key is now called CRAWLFLEET_API_TOKEN",)


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


@pytest.mark.parametrize("text", ["", "a b", "a.b", "x" * 65, "é", "设备", "a\n", "a/b", "a'--"])
def test_any_other_device_id_is_refused_with_what_is_allowed(text: str) -> None:
    assert refusal(device_id=text).startswith("device_id must be 1 to 64 of letters, digits, '-' and '_' (got ")


def test_a_missing_device_id_names_the_three_ways_to_give_one() -> None:
    with pytest.raises(UsageError, match=r"--device-id ID, with device_id in the config file.* variable DEVICE_ID"):
        require_device_id(load())


def test_a_worker_without_an_id_is_named_after_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawlfleet.settings.layers.host_name", lambda: "mac mini.local")
    settings = load(environ={"DATACENTER": "dc1", "DEVICE_SUFFIX": "001"}, mode="worker")
    assert settings.device_id == "worker-dc1-mac-mini-001"
    assert settings.origins["device_id"] == "host name"
    assert load(mode="master").device_id == "master-mac-mini"
    assert load(mode="master", device_id="m").device_id == "m"


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


def test_choices_are_listed_when_another_word_is_given() -> None:
    told = "engine must be one of threads, processes, dask (got 'gevent' from option --engine)"
    assert refusal(engine="gevent") == told
    assert load(load_balance_strategy="LEAST_TASKS").load_balance_strategy == "least_tasks"
    assert "standalone, master, worker" in refusal(mode="solo")


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


def test_the_keys_of_a_source_are_those_that_sources_read() -> None:
    assert tuple(item.name for item in dataclasses.fields(SourceSettings)) == (*SOURCE_KEYS, "options")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("sources = 5", "sources must be a table of tables"),
        ("[sources]\nappsflyer = 5", "sources.appsflyer must be a table"),
        ("[sources.'a b']", "a source's name must be"),
        ("[sources.a]\nbase_ulr = 'https://x'", "sources.a.base_ulr is unknown: did you mean 'base_url'?"),
        (
            "[sources.a]\ntoken = 'hunter2-hunter2'",
            "sources.a.token looks like a secret: a token belongs to an account",
        ),
        ("[sources.a]\ncountries = [inf]", "sources.a.countries must not hold nan or inf"),
        ("[sources.a]\nbase_url = 5", "sources.a.base_url must be a URL"),
        ("[sources.a]\nproxy = 'user:hunter2-hunter2@proxy'", "sources.a.proxy must be a URL"),
        ("[sources.a]\ntimeout_seconds = nan", "sources.a.timeout_seconds must be a number"),
        ("[sources.a]\nlimits = 5", "sources.a.limits must be a table of tables"),
        ("[sources.a.limits.day]\ncalls = inf", "sources.a.limits must not hold nan or inf"),
        ("[sources.a]\nat = 1979-05-27", "sources.a.at must hold text, numbers"),
    ],
)
def test_a_wrong_table_is_refused_with_its_path(toml: str, message: str, tmp_path: Path) -> None:
    found = refusal(write(tmp_path / "c.toml", toml))
    assert found.startswith(message)
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.toml", b"port = 1\nport = 2", "is not TOML: "),
        ("c.json", b'{"port": 1, "port": 2}', "is not JSON: key 'port' is given twice"),
        ("c.json", b"[1]", 'is not JSON: the file must hold one object, as in {"key": 1} (got list)'),
        ("c.json", b"null", "(got NoneType)"),
        ("c.json", b"", "is not JSON: "),
        ("c.json", b"port = 1", "is not JSON: "),
        ("c.json", b'{"port": NaN}', "is not JSON: NaN is no number"),
        ("c.json", b'{"port": -Infinity}', "is not JSON: -Infinity is no number"),
        ("c.json", b'{"port": ' + b"9" * 5000 + b"}", "is not JSON: "),
        ("c.json", b'{"a":' * 100_000, "is nested too deeply"),
        ("c.toml", b"a = " + b"[" * 100_000, "is nested too deeply"),
        ("c.toml", b"{}", "is not TOML: "),
        ("c.yaml", b"port: 1", "(YAML is not read: write TOML or JSON)"),
        ("c.toml", b"# \n\xff", "is not UTF-8 (line 2)"),
        ("c.toml", "port = 1".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("c.toml", b"\0", "is not TOML: "),
        ("c.toml", b"#" * (1024 * 1024 + 1), "is larger than"),
    ],
)
def test_a_hostile_file_is_wrong_usage_and_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, content)
    found = refusal(file)
    assert found.startswith(f"config file {file} ")
    assert message in found


def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml").endswith("none.toml cannot be read: No such file or directory")
    assert "Is a directory" in refusal(tmp_path)
    assert "cannot be read" in refusal(Path("a\0b"))


def test_the_format_is_found_by_ending_or_content(tmp_path: Path) -> None:
    assert load(write(tmp_path / "c.json", '{"port": 1}')).port == 1
    assert load(write(tmp_path / "c.toml", "port = 2")).port == 2
    assert load(write(tmp_path / "c.conf", ' \n{"port": 3}')).port == 3
    assert load(write(tmp_path / "c.cfg", "port = 4")).port == 4
    assert load(write(tmp_path / "bom.toml", b"\xef\xbb\xbfport = 5\r\n")).port == 5
    assert load(write(tmp_path / "empty.toml", "")) == Settings()


def test_secrets_are_hidden_in_errors_descriptions_and_repr(tmp_path: Path) -> None:
    secret = "hunter2-hunter2"
    messages = [
        refusal(api_token=f"{secret} x"),
        refusal(database_url=f"user:{secret}@host"),
        refusal(environ={"API_KEY": f"{secret}\n"}),
    ]
    settings = load(
        write(
            tmp_path / "c.toml",
            f'[sources.a]\nproxy = "http://u:{secret}@p"\n[alerts]\nurl = "https://x/{secret}"\nbot_token = "{secret}"',
        ),
        api_token=secret,
        database_url=f"mysql://u:{secret}@h/d",
    )
    described = {item.name: item.value for item in describe(settings)}
    assert secret not in "".join([*messages, repr(settings), repr(described)])
    assert described["database_url"] == "mysql://u:***@h/d"
    assert logs.redact(f"said {secret}") == "said ***"


def test_a_short_password_is_not_hidden_as_a_word() -> None:
    load(database_url="mysql://root:root@h/d")
    assert logs.redact("root") == "root"


def test_a_percent_encoded_password_is_hidden_in_both_spellings() -> None:
    load(database_url="mysql://u:tiger%2Fpaw%21@h/d")
    assert logs.redact("tiger%2Fpaw%21 and tiger/paw!") == "*** and ***"


def test_settings_cannot_be_changed_and_travel_to_other_processes() -> None:
    settings = load(device_id="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 5  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_every_setting_has_a_help_line_and_says_what_is_allowed() -> None:
    for item in describe(Settings()):
        assert item.help
        assert item.allowed
    assert set(RULES) == {item.name for item in dataclasses.fields(Settings)} - {"origins", "notices"}


texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "device_id": st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
            "device_name": texts,
            "log_file": texts,
            "dispatch_interval": st.floats(0.1, 3600),
            "retry_delay_seconds": st.floats(0, 86_400),
            "concurrent_tasks": st.integers(1, 10_000),
            "enable_monitoring": st.booleans(),
            "executors": st.lists(texts, max_size=3),
            "sources": st.dictionaries(
                st.from_regex(r"[a-z.:]{1,9}", fullmatch=True),
                st.just(
                    {
                        "base_url": "https://x",
                        "countries": ["us", 5, 1.5, True],
                        "limits": {"day q\"'": {"calls": 5, "scope": ["a", "b"]}},
                    }
                ),
                max_size=2,
            ),
        },
    )
)
def test_a_written_file_gives_the_same_settings_again(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    settings = load(**values)
    file = write(tmp_path_factory.mktemp("written") / "c.toml", to_toml(settings))
    assert load(file) == settings


def test_a_written_file_shows_each_default_as_a_comment() -> None:
    text = to_toml(load())
    for name, rule in RULES.items():
        if rule.kind != "table":
            assert f"\n# {name} = " in text
            assert rule.help in text
