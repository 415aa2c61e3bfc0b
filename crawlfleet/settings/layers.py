"""Reading settings at the edge from four layers. Later wins: defaults, config file, environment, command line.

Names of the earlier implementation are accepted with a notice.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crawlfleet.core.edge_text import clean, decode
from crawlfleet.core.errors import UsageError
from crawlfleet.core.logs import hide
from crawlfleet.core.private_files import read_secret
from crawlfleet.core.secrets import KEY_VARIABLE
from crawlfleet.settings.config_file import read_config_file
from crawlfleet.settings.definitions import (
    BASE_URL_VARIABLES,
    ENVIRONMENT_PREFIX,
    RULES,
    SECRET_KEYS,
    SHORTEST_HIDDEN,
    Settings,
    host_name,
)
from crawlfleet.settings.older_names import OLD_NAMES, OLD_VARIABLES, WITHOUT_EFFECT
from crawlfleet.settings.values import close_matches, parse_sources, parse_value

MAX_DEVICE_ID = 64
MAX_SUFFIX = 32
FROM_FILES = ("database_url", "api_token")  # each may be in a file that NAME_file names
NO_DEVICE_ID = re.compile("[^A-Za-z0-9_-]")


def load_settings(
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in effect: defaults, then `file`, then `environ` (default: the process's), then `overrides`.

    An override that is None counts as not given. A master or worker without device_id gets one made of its host name;
    standalone does not, see `require_device_id`.
    Raises UsageError that names the key, where its value came from, the value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    draft = _Draft()
    if file is not None:
        draft.add_layer((key, value, f"file {file}") for key, value in read_config_file(file).items())
    older = [(name, key) for name, key in OLD_VARIABLES.items() if clean(environ.get(name, ""))]
    draft.add_layer((key, environ[name], f"environment variable {name}") for name, key in older)
    draft.add_layer(_own_variables(environ))
    for name, source in BASE_URL_VARIABLES.items():
        if clean(environ.get(name, "")):
            draft.set_base_url(source, environ[name], f"environment variable {name}")
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    draft.add_layer((key, value, f"option {option_of(key)}") for key, value in given.items())
    for notice in _misspelt(environ):
        draft.notices.append(notice)
    if draft.values.get("mode", "standalone") != "standalone" and "device_id" not in draft.values:
        draft.derive_device_id(environ)
    return draft.settings()


def require_device_id(settings: Settings) -> str:
    """The device id; raises UsageError that says the three ways to give one."""
    if settings.device_id is None:
        raise UsageError(
            f"device_id is missing: it must be {RULES['device_id'].allowed}; give it with --device-id ID, "
            f"with device_id in the config file, or with the environment variable DEVICE_ID"
        )
    return settings.device_id


class _Draft:
    """Settings while their layers are put on top of each other."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.notices: list[str] = []
        self.files: dict[str, str] = {}  # settings that a file holds, unless a later layer gives them itself

    def add_layer(self, entries: Iterable[tuple[str, object, str]]) -> None:
        """Entries are (key, value, origin); text counts as a number or a flag only where it cannot be written else."""
        found = list(entries)
        given = {key: origin for key, _, origin in found}
        dead: dict[tuple[str, str], list[str]] = {}
        for key, value, origin in found:
            if key in WITHOUT_EFFECT:
                place = origin if origin.startswith("file ") else ""
                dead.setdefault((place, WITHOUT_EFFECT[key]), []).append(key if place else _spelling(origin))
                continue
            name = OLD_NAMES.get(key, key)
            if name not in RULES:
                raise UsageError(f"unknown key {key!r} in {origin}{_suggestion(key)}")
            better = self._better_key(key, name, given)
            if better is not None:
                self.notices.append(f"{key} in {origin} is ignored: {better} is given there too")
                continue
            self.notices += _renamed(key, name, origin)
            if value is not None:  # null in JSON: not given
                self.values[name], self.origins[name] = parse_value(name, value, origin), origin
        self._choose_files({OLD_NAMES.get(key, key): origin for key, value, origin in found if value is not None})
        for (place, reason), keys in dead.items():
            verb = "has" if len(keys) == 1 else "have"
            inside = f" in {place}" if place else ""
            self.notices.append(f"{', '.join(keys)}{inside} {verb} no effect: {reason}")

    def _choose_files(self, given: Mapping[str, str]) -> None:
        for name in FROM_FILES:
            file = f"{name}_file"
            if name in given and file in given:
                raise UsageError(f"{name} ({given[name]}) and {file} ({given[file]}) are both given: keep one")
            if file in given:
                self.files[name] = self.values[file]
            elif name in given:
                self.files.pop(name, None)

    def _read_files(self) -> None:
        for name, path in self.files.items():
            origin = f"{name}_file {path}"
            try:
                text = decode(read_secret(f"{name}_file", path))
            except ValueError as error:
                raise UsageError(f"{origin} cannot be used: {error}") from None
            if not text:
                raise UsageError(f"{origin} is empty")
            self.values[name], self.origins[name] = parse_value(name, text, origin), origin

    @staticmethod
    def _better_key(key: str, name: str, given: Mapping[str, str]) -> str | None:
        """The key of this layer that counts instead of `key`."""
        if key == name:
            return None
        for other in (name, *(old for old, new in OLD_NAMES.items() if new == name)):
            if other == key:
                return None
            if other in given:
                return other
        return None

    def set_base_url(self, source: str, value: str, origin: str) -> None:
        sources = {name: dict(table) for name, table in self.values.get("sources", {}).items()}
        sources.setdefault(source, {})["base_url"] = value
        self.values["sources"] = parse_sources(sources, origin)
        before = self.origins.get("sources")
        self.origins["sources"] = f"{before} and {origin}" if before else origin

    def derive_device_id(self, environ: Mapping[str, str]) -> None:
        """mode-host, mode-datacenter-host, and a suffix when DEVICE_SUFFIX is set."""
        parts = [self.values["mode"], clean(environ.get("DATACENTER", "")), host_name()]
        self.values["device_id"] = _derived_id("-".join(filter(None, parts)), clean(environ.get("DEVICE_SUFFIX", "")))
        self.origins["device_id"] = "host name"

    def settings(self) -> Settings:
        self._read_files()
        token = self.values.get("api_token")
        for secret in (token, *_url_passwords(self.values.get("database_url", ""))):
            if secret and len(secret) >= SHORTEST_HIDDEN:
                hide(secret)
        origins = {name: self.origins.get(name, "default") for name in RULES}
        return Settings(**self.values, origins=origins, notices=tuple(self.notices))


def _derived_id(name: str, suffix: str) -> str:
    """The name and the suffix as a device id. One that has to be changed for it carries a mark of what it was, since
    others may have names that are changed to the same."""
    whole = f"{name}-{suffix}" if suffix else name
    if len(whole) <= MAX_DEVICE_ID and not NO_DEVICE_ID.search(whole):
        return whole
    if len(suffix) > MAX_SUFFIX:
        raise UsageError(
            f"environment variable DEVICE_SUFFIX must have at most {MAX_SUFFIX} characters (got {suffix!r:.99})"
        )
    mark = hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    end = NO_DEVICE_ID.sub("-", f"{mark}-{suffix}" if suffix else mark)
    name, room = NO_DEVICE_ID.sub("-", name), MAX_DEVICE_ID - len(end) - 1
    if len(name) > room:  # names of one place differ at their ends
        name = f"{name[: room // 2]}-{name[room // 2 + 1 - room :]}"
    return f"{name}-{end}"


def _own_variables(environ: Mapping[str, str]) -> Iterable[tuple[str, object, str]]:
    for name in RULES:
        variable = _variable(name)
        if clean(environ.get(variable, "")):
            yield name, environ[variable], f"environment variable {variable}"


def _misspelt(environ: Mapping[str, str]) -> Iterable[str]:
    """Notices, not errors: tokens and other programs use names with our prefix too."""
    known = [*(_variable(name) for name in RULES), *BASE_URL_VARIABLES, KEY_VARIABLE]
    for variable in environ:
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in known:
            for close in close_matches(variable, known, cutoff=0.9):
                yield f"environment variable {variable} is no setting: did you mean {close}?"


def _renamed(key: str, name: str, origin: str) -> Iterable[str]:
    """The notice about a name of the earlier implementation, if it is one."""
    if origin.startswith("environment variable "):
        if _spelling(origin) not in {"DEVICE_ID", _variable(name)}:
            yield f"{origin} is now called {_variable(name)}"
    elif key != name:
        if origin.startswith("option "):
            # A secret has no option: everyone on the machine can read a command line.
            yield f"{origin} is now called {_variable(name) if RULES[name].secret else option_of(name)}"
        else:
            yield f"{key} in {origin} is now called {name}"


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def option_of(key: str) -> str:
    rule = RULES.get(key)
    return (rule.option if rule else "") or "--" + key.replace("_", "-")


def _spelling(origin: str) -> str:
    """The variable's or option's own name, which is the last word of its origin."""
    return origin.rpartition(" ")[2]


def _suggestion(key: str) -> str:
    close = close_matches(key.lower().replace("-", "_"), [*RULES, *OLD_NAMES])
    return f": did you mean {close[0]!r}?" if close else f": known keys are {', '.join(RULES)}"


def _url_passwords(url: str) -> tuple[str, ...]:
    """Its password and its secret parameters, as they are written and as they are meant."""
    from urllib.parse import unquote, unquote_plus

    found = re.match(r"[^:]+://[^:/]*:(.*)@", url)
    parameters = [each.partition("=") for each in url.partition("?")[2].split("&")]
    written = [value for name, _, value in parameters if SECRET_KEYS.search(name)]
    passwords = [] if found is None else [found[1], unquote(found[1])]
    return (*passwords, *written, *map(unquote_plus, written))
