from __future__ import annotations

from collections.abc import Iterator

import pytest

from crawlfleet.core import logs


@pytest.fixture(autouse=True)
def no_secrets_left() -> Iterator[None]:
    yield
    logs._secrets.clear()
