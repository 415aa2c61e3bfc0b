"""SECURITY.md promises nothing that no test holds."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()


def test_each_promise_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 40
    known = {path: set(re.findall(r"^def (test_\w+)", (ROOT / path).read_text(), re.M)) for path, _ in named}
    assert [f"{path}::{name}" for path, name in named if name not in known[path]] == []


def test_every_row_and_every_zone_has_one() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| cannot ")]
    assert [row for row in rows if "`tests/" not in row] == []
    zones = PAGE.split("\n### ")[1:]
    assert len(zones) == 8
    assert [zone.splitlines()[0] for zone in zones if "| cannot | held by |" not in zone] == []
