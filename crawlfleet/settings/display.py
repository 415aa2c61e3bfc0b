"""How settings are shown: described for people with secrets hidden, and as a config file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crawlfleet.core.logs import HIDDEN, redact
from crawlfleet.settings.config_file import toml_key, toml_value
from crawlfleet.settings.definitions import FIELDS, RULES, SECRET_KEYS, Settings


@dataclass(frozen=True, slots=True)
class Described:
    """One setting for people: its value with secrets hidden, and where that came from."""

    name: str
    value: Any
    origin: str
    help: str
    allowed: str


def describe(settings: Settings) -> list[Described]:
    """All settings in the order of their definition, secrets hidden."""
    return [
        Described(
            name,
            _presentable(name, getattr(settings, name)),
            settings.origins.get(name, "default"),
            rule.help,
            rule.allowed,
        )
        for name, rule in RULES.items()
    ]


def _presentable(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _presentable(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_presentable(name, item) for item in value]
    if isinstance(value, str):
        return HIDDEN if SECRET_KEYS.search(name) else redact(value)
    return _short(value)


def _short(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def to_toml(settings: Settings) -> str:
    """A config file with every setting and its help; what is at its default stands there as a comment.

    Holds the secrets of `settings` in clear: that is what a config file is for.
    """
    lines = [
        "# Settings of a crawlfleet node. Environment variables (CRAWLFLEET_...) and options win over this file.",
        "",
    ]
    for name, rule in RULES.items():
        if rule.kind == "table":
            continue
        value, origin = getattr(settings, name), settings.origins.get(name, "default")
        given = origin not in {"default", "host name"}
        if origin.startswith(f"{name}_file "):  # it stays in its file
            value, given = FIELDS[name].default, False
        lines.append(f"# {rule.help}: {rule.allowed}")
        if not given and value is None:
            value = "" if rule.kind == "text" else _short(rule.low)
        lines += [f"{'' if given else '# '}{name} = {toml_value(value)}", ""]
    for name, table in [*((f"sources.{toml_key(key)}", item) for key, item in settings.sources.items())]:
        lines += [f"[{name}]", *(f"{toml_key(key)} = {toml_value(item)}" for key, item in table.items()), ""]
    if not settings.sources:
        lines += [f"# {RULES['sources'].help}", "# [sources.appsflyer]", '# base_url = "https://gateway.example"', ""]
    return "\n".join(lines)
