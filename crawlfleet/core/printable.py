"""Text from outside as it may be shown: on a terminal, in a log line, in a message that is stored.

A vendor's text may hold line ends that forge a log line, escapes that a terminal obeys, and marks that turn the
direction of writing. Each is shown as an escape instead; Chinese, accents and emoji stay as they are.
"""

from __future__ import annotations

import re
import unicodedata

_ODD = re.compile(r"[^\x20-\x7e\u4e00-\u9fff]")  # what needs a closer look, found fast
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"  # parts of emoji, and of words in some languages


def printable(text: str, keep: str = "") -> str:
    r"""The text with `\n`, `\x1b`, `\u202e` and the like written out; characters of `keep` stay."""
    if text.isprintable():
        return text
    return _ODD.sub(lambda found: _shown(found[0], keep), text)


def _shown(character: str, keep: str) -> str:
    if character in keep or character in _JOINERS or character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":
        return character if character == "\u3000" else " "
    return character.encode("unicode_escape").decode("ascii")
