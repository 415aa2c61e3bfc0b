"""Config files as plain mappings: reading TOML and JSON, and writing single TOML values. Knows no setting."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crawlfleet.core.errors import UsageError
from crawlfleet.core.json_text import parse_json

MAX_FILE_BYTES = 1024 * 1024  # a config file is a page; more is some other file


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The keys of a TOML or JSON file: by its ending, else JSON when it begins with a brace.

    A UTF-8 byte order mark is skipped. Raises UsageError that names the file and, where known, the line.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"config file {path} cannot be read: {reason}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"config file {path} is larger than {MAX_FILE_BYTES} bytes: this is some other file")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"config file {path} is UTF-16: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"config file {path} is not UTF-8 (line {line}): save it as UTF-8") from None
    ending = Path(path).suffix.lower()
    is_json = ending == ".json" or (ending != ".toml" and text.lstrip().startswith("{"))
    try:
        return _read_json(text) if is_json else _read_toml(text, ending)
    except RecursionError:
        raise UsageError(f"config file {path} is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"config file {path} is not {'JSON' if is_json else 'TOML'}: {error}") from None


def _read_toml(text: str, ending: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = " (YAML is not read: write TOML or JSON)" if ending in {".yaml", ".yml"} else ""
        raise ValueError(f"{error}{hint}") from None


def _read_json(text: str) -> dict[str, Any]:
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError(f'the file must hold one object, as in {{"key": 1}} (got {type(found).__name__})')
    return found


def toml_key(key: str) -> str:
    """The key as TOML spells it, quoted where it must be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def toml_value(value: Any) -> str:
    """Text, number, flag, list or mapping on one line of TOML."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # the one escape that JSON lacks
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(str(key))} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)
