"""Checking the value of one setting, and the messages that say what is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crawlfleet.core.edge_text import clean, flaw
from crawlfleet.core.errors import UsageError
from crawlfleet.core.hosts import bare_host
from crawlfleet.core.logs import redact
from crawlfleet.settings.definitions import (
    DASK_ADDRESS,
    DEVICE_ID,
    ENGINE_GROUP,
    LABEL,
    MAX_LABELS,
    RULES,
    SECRET_KEYS,
    SHORTEST_API_TOKEN,
    SOURCE_KEYS,
    SOURCE_NAME,
    Rule,
)


def parse_value(name: str, value: object, origin: str) -> Any:
    """The value of one setting, checked.

    Outside files, where nothing but text can be written, text is read as a number, a flag or a list.
    Raises UsageError that names key, origin, value and what is allowed.
    """
    rule = RULES[name]
    if isinstance(value, str):
        value = clean(value)
        value = bare_host(value) if name == "host" else value
    written = value
    if isinstance(value, str) and not origin.startswith("file "):
        value = _from_text(rule.kind, value)
    if rule.kind == "table":
        return parse_sources(value, origin)
    wrong = flaw(written) if isinstance(written, str) else ""
    if wrong or not _fits(name, rule, value):
        why = f": {wrong}" if wrong else ""
        raise UsageError(f"{name} must be {rule.allowed} (got {_shown(name, written)} from {origin}{why})")
    if rule.choices:
        return str(value).lower()
    if rule.kind == "number":
        return float(value)  # type: ignore[arg-type]  # _fits has seen that it is a number
    return tuple(value) if rule.kind == "list" else value  # type: ignore[arg-type]


def _from_text(kind: str, text: str) -> object:
    """What the text means, or the text itself when it means nothing of this kind."""
    if kind == "flag":
        return {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }.get(text.lower(), text)
    if kind in {"whole", "number"} and len(text) <= 40:
        if re.fullmatch(r"[+-]?[0-9]+", text):
            return int(text)
        if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            return float(text)
    if kind == "list":
        return [part for part in map(clean, text.split(",")) if part]
    return text


def _fits(name: str, rule: Rule, value: object) -> bool:
    if rule.kind == "flag":
        return isinstance(value, bool)
    if rule.kind in {"whole", "number"}:
        numeric = int if rule.kind == "whole" else (int, float)
        return isinstance(value, numeric) and not isinstance(value, bool) and rule.low <= value <= rule.high
    if rule.kind == "list":
        fits = LABEL.fullmatch if name == "labels" else _is_line
        return (
            isinstance(value, list | tuple)
            and all(isinstance(item, str) and fits(item) for item in value)
            and (name != "labels" or len(value) <= MAX_LABELS)
        )
    if not isinstance(value, str):
        return False
    if rule.choices:
        return value.lower() in rule.choices or (name == "engine" and _is_offered_engine(value.lower()))
    checks: dict[str, Callable[[str], object]] = {
        "device_id": DEVICE_ID.fullmatch,
        "device_name": lambda text: _is_line(text) and len(text) <= 128,
        "database_url": lambda text: _is_line(text) and re.match(r"[A-Za-z][A-Za-z0-9+]*://", text),
        "dask_scheduler": DASK_ADDRESS.fullmatch,
        "host": lambda text: _is_line(text) and len(text) <= 255 and " " not in text and "/" not in text,
        "api_token": lambda text: (
            text.isascii() and _is_line(text) and " " not in text and SHORTEST_API_TOKEN <= len(text) <= 512
        ),
    }
    return bool(checks.get(name, _is_line)(value))


def _is_offered_engine(name: str) -> bool:
    """Whether a package offers an engine of this name."""
    from importlib.metadata import entry_points  # costs 10 ms, and only such an engine needs it

    return any(point.name == name for point in entry_points(group=ENGINE_GROUP))


def _is_line(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _shown(name: str, value: object) -> str:
    """A value for an error message: short, and never a secret."""
    if RULES[name].secret:
        return f"a hidden value of {len(value)} characters" if isinstance(value, str) else "a hidden value"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = redact(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def parse_sources(value: object, origin: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, Mapping):
        raise UsageError(f"sources must be a table of tables, as in [sources.appsflyer] (from {origin})")
    parsed: dict[str, dict[str, Any]] = {}
    for name, table in value.items():
        if not SOURCE_NAME.fullmatch(str(name)):
            raise UsageError(
                f"a source's name must be 1 to 64 of letters, digits, '_', '-', '.', ':' "
                f"(got {name!r:.80} from {origin})"
            )
        if not isinstance(table, Mapping):
            raise UsageError(f"sources.{name} must be a table, as in [sources.{name}] (from {origin})")
        cleaned = {key: clean(item) if isinstance(item, str) else item for key, item in table.items()}
        for key, item in cleaned.items():
            problem = _source_problem(str(key), item)
            if problem:
                raise UsageError(f"sources.{name}.{key} {problem} (from {origin})")
        parsed[str(name)] = cleaned
    return parsed


def _source_problem(key: str, value: object) -> str:
    """What is wrong with one entry of a source's table; empty when nothing is. The source judges keys of its own."""
    if key not in SOURCE_KEYS:
        if SECRET_KEYS.search(key):
            return "looks like a secret: a token belongs to an account, see `accounts add`"
        close = close_matches(key, SOURCE_KEYS)
        return f"is unknown: did you mean {close[0]!r}?" if close else _plain_problem(value)
    if key == "timeout_seconds":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and 0.1 <= value <= 86_400 else f"must be a number from 0.1 to 86400 (got {value!r:.80})"  # type: ignore[operator]
    if key == "limits":
        tables = isinstance(value, Mapping) and all(isinstance(table, Mapping) for table in value.values())
        return _plain_problem(value) if tables else "must be a table of tables, one for each limit"
    schemes = "https?" if key == "base_url" else "(https?|socks5h?)"
    if isinstance(value, str) and value.isprintable() and re.match(rf"{schemes}://[^/\s]+", value) and " " not in value:
        return ""
    wrong = flaw(value) if isinstance(value, str) else ""
    example = "https://gateway.example" if key == "base_url" else "http://user:password@proxy:3128"
    return f"must be a URL such as {example}" + (f"; {wrong}" if wrong else "")


def _plain_problem(value: object) -> str:
    """What keeps a value from being written to TOML and JSON alike; empty when nothing does."""
    if isinstance(value, Mapping):
        return next(filter(None, map(_plain_problem, value.values())), "")
    if isinstance(value, list):
        return next(filter(None, map(_plain_problem, value)), "")
    if isinstance(value, float) and not math.isfinite(value):
        return "must not hold nan or inf"
    return "" if isinstance(value, str | int | float) else "must hold text, numbers, true, false, lists and tables only"


def close_matches(word: str, known: Sequence[str], cutoff: float = 0.6) -> list[str]:
    """The known word that was probably meant; empty when none is close."""
    import difflib  # costs 10 ms, and only mistakes need it

    return difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
