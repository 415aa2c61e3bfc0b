from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawlfleet.core import logs
from crawlfleet.settings.definitions import RULES, Settings
from crawlfleet.settings.display import describe, to_toml
from tests.settings.reading import load, refusal, write

texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


def test_secrets_are_hidden_in_errors_descriptions_and_repr(tmp_path: Path) -> None:
    secret = "hunter2-hunter2-hunter2-hunter2-hunter2"
    messages = [
        refusal(api_token=f"{secret} x"),
        refusal(database_url=f"user:{secret}@host"),
        refusal(environ={"CRAWLFLEET_API_TOKEN": f"'{secret}'\n"}),
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


def test_every_setting_has_a_help_line_and_says_what_is_allowed() -> None:
    for item in describe(Settings()):
        assert item.help
        assert item.allowed
    assert set(RULES) == {item.name for item in dataclasses.fields(Settings)} - {"origins", "notices"}


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
