"""Settings as a test reads them: of a file, an environment and options; and the error when they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.errors import UsageError
from crawlfleet.settings.definitions import Settings
from crawlfleet.settings.layers import load_settings


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
