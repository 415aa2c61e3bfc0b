"""Who guesses tokens is seen, counted and slowed; who has one is not held up."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from crawlfleet.api import strangers
from crawlfleet.api.strangers import FREE_GUESSES, REASONS, WRONG_TOKEN, Strangers
from crawlfleet.core.errors import UsageError
from crawlfleet.model.api_token import ApiTokenDAO, Role
from crawlfleet.settings.layers import load_settings
from tests.api.sample import sample_fleet
from tests.conftest import Backend


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the module; `now` may be set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(strangers, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture(autouse=True)
def as_many_guesses_as_ever(patient_with_guesses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "FREE_GUESSES", FREE_GUESSES)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_guessing_is_counted_told_and_slowed_and_the_right_token_goes_on(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """Three hundred wrong tokens left no line, no number and no delay."""
    with sample_fleet(backend.url) as sample:
        token = ApiTokenDAO(sample.db).add("known", Role.READ)
        found = [each.kwargs["strangers"] for each in sample.app.user_middleware if "strangers" in each.kwargs]
        client = TestClient(sample.app, base_url="http://127.0.0.1")

        def ask(token: str | None) -> int:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return client.get("/openapi.json", headers=headers).status_code

        assert ask(token) == 200
        assert [ask("wrong") for _ in range(FREE_GUESSES + 20)] == [401] * FREE_GUESSES + [429] * 20
        assert ask(token) == 200, "it was right before"
        assert ask(None) == 401
        answer = client.get("/openapi.json", headers={"Authorization": "Bearer other"})
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["error"]) == (429, "1", "too_many")
        assert found[0].counts == {"wrong_token": FREE_GUESSES, "slowed": 21, "no_token": 1}
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert lines == ["API requests refused: address=testclient requests=1 latest_reason=wrong_token"]


def test_the_pause_doubles_up_to_a_minute_and_is_forgotten(clock: SimpleNamespace) -> None:
    found = Strangers()
    pauses = []
    for _ in range(FREE_GUESSES + 9):
        found.refuse("203.0.113.9", WRONG_TOKEN)
        pauses.append(found.pause("203.0.113.9", "x"))
        clock.now += pauses[-1]
    assert pauses[FREE_GUESSES - 2 :] == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert found.pause("203.0.113.10", "x") == 0
    found.refuse("203.0.113.9", WRONG_TOKEN)
    clock.now += strangers.FORGOTTEN_SECONDS + 1
    assert found.pause("203.0.113.9", "x") == 0
    found.refuse("203.0.113.9", WRONG_TOKEN)
    assert found.pause("203.0.113.9", "x") == 0, "counted from one again"


def test_addresses_of_one_network_of_ipv6_are_one(clock: SimpleNamespace) -> None:
    found = Strangers()
    for number in range(FREE_GUESSES):
        found.refuse(f"2001:db8::{number:x}", WRONG_TOKEN)
    assert found.pause("2001:db8::ffff", "x") == 1
    assert found.pause("2001:db8:0:1::1", "x") == 0


def test_a_line_a_minute_tells_of_all_and_no_flood_of_addresses_takes_memory(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    found = Strangers()
    for number in range(5000):
        found.refuse(f"10.0.{number // 256}.{number % 256}", WRONG_TOKEN)
    found.refuse("10.0.0.7", "no_token")
    clock.now += strangers.LINE_SECONDS
    found.refuse("10.0.0.7", "no_token")
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "API requests refused: address=10.0.0.0 requests=1 latest_reason=wrong_token",
        "API requests refused: address=10.0.0.7 requests=3 latest_reason=no_token other_addresses=999",
    ]
    assert len(found._guesses) == len(found._untold) + 1000 == 1000
    assert set(found.counts) <= set(REASONS)


def test_a_short_token_is_refused_with_how_to_make_one() -> None:
    """`CRAWLFLEET_API_TOKEN=a` was taken."""
    for token in ("a", "x" * 31):
        with pytest.raises(UsageError) as caught:
            load_settings(None, {}, environ={"CRAWLFLEET_API_TOKEN": token})
        assert str(caught.value).startswith("api_token must be text of 32 to 512 printable ASCII")
        assert "openssl rand -hex 32" in str(caught.value)
        assert f"got a hidden value of {len(token)} characters from environment variable" in str(caught.value)
    assert load_settings(None, {}, environ={"CRAWLFLEET_API_TOKEN": "x" * 32}).api_token == "x" * 32
