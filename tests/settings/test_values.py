from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.settings.definitions import RULES
from tests.settings.reading import load, refusal, write

NUMBERS = [name for name, rule in RULES.items() if rule.kind in {"whole", "number"}]
FLAGS = [name for name, rule in RULES.items() if rule.kind == "flag"]
# What a bound needs beside it to fit together with the other settings.
COMPANIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("heartbeat_interval", "high"): {"offline_timeout": 10_800},
    ("offline_timeout", "low"): {"heartbeat_interval": 0.5},
    ("processes", "high"): {"engine": "processes"},
}


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


@pytest.mark.parametrize("text", ["", "a b", "a.b", "x" * 65, "é", "设备", "a\nb", "a/b", "a'--"])
def test_any_other_device_id_is_refused_with_what_is_allowed(text: str) -> None:
    assert refusal(device_id=text).startswith("device_id must be 1 to 64 of letters, digits, '-' and '_' (got ")


def test_choices_are_listed_when_another_word_is_given() -> None:
    told = "engine must be one of threads, processes, dask (got 'gevent' from option --engine)"
    assert refusal(engine="gevent") == told
    assert load(load_balance_strategy="LEAST_TASKS").load_balance_strategy == "least_tasks"
    assert "standalone, master, worker" in refusal(mode="solo")


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
