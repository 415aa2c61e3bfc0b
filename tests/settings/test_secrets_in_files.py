"""The database's URL and the API's token from files, as systemd and containers hand out secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawlfleet.core.errors import UsageError
from crawlfleet.settings.display import to_toml
from crawlfleet.settings.layers import load_settings

URL, TOKEN = "postgresql://crawlfleet:very-secret@db/crawlfleet", "t" * 43


def secret(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Variables that name a file with the URL and one with the token."""
    return {
        "CRAWLFLEET_DATABASE_URL_FILE": secret(tmp_path / "database-url", f"{URL}\n"),
        "CRAWLFLEET_API_TOKEN_FILE": secret(tmp_path / "api-token", f"{TOKEN}\n"),
    }


def test_url_and_token_are_read_from_files_and_stay_there(files: dict[str, str]) -> None:
    settings = load_settings(environ=files)
    assert (settings.database_url, settings.api_token) == (URL, TOKEN)
    assert settings.origins["database_url"] == f"database_url_file {files['CRAWLFLEET_DATABASE_URL_FILE']}"
    assert settings.notices == ()
    written = to_toml(settings)
    assert f'database_url_file = "{files["CRAWLFLEET_DATABASE_URL_FILE"]}"' in written
    assert "very-secret" not in written
    assert TOKEN not in written


def test_a_later_layer_wins_over_the_file_and_an_earlier_one_does_not(files: dict[str, str], tmp_path: Path) -> None:
    settings = load_settings(None, {"database_url": "sqlite:///mine.db"}, files)
    assert settings.database_url == "sqlite:///mine.db"
    config = tmp_path / "crawlfleet.toml"
    config.write_text('database_url = "sqlite:///old.db"\n')
    assert load_settings(config, None, files).database_url == URL


def test_two_places_of_one_secret_are_refused(files: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"database_url .* and database_url_file .* are both given: keep one"):
        load_settings(environ={**files, "CRAWLFLEET_DATABASE_URL": URL})


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [(URL, 0o644, "is open to others"), (" \n", 0o600, "is empty"), ("very-secret", 0o600, "database_url")],
)
def test_a_file_that_cannot_be_used_is_named_and_not_shown(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = secret(tmp_path / "url", text, mode)
    with pytest.raises(UsageError, match=said) as caught:
        load_settings(environ={"CRAWLFLEET_DATABASE_URL_FILE": path})
    assert path in str(caught.value)
    assert "very-secret" not in str(caught.value)
