"""How this program is called, for commands that name others."""

from __future__ import annotations

from pathlib import Path

import crawlfleet

MAIN = Path(crawlfleet.__file__).parent.parent / "main.py"


def program_words() -> str:
    """Return how a user starts this program: from a checkout, or installed."""
    return "python main.py" if MAIN.is_file() else "crawlfleet"
