"""Every setting, once: its name, default, range and one line of help; read at the edge from four layers.

Later wins: defaults, config file (TOML or JSON), environment, command line. Names of the earlier implementation are
accepted with a notice. Nothing here connects, imports a room or asks whether a source or an engine exists.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from crawlfleet.core.config_file import read_config_file, toml_key, toml_value
from crawlfleet.core.errors import UsageError
from crawlfleet.core.logs import HIDDEN, hide, redact
from crawlfleet.core.secrets import KEY_VARIABLE

ENVIRONMENT_PREFIX = "CRAWLFLEET_"
MAX_PROCESSES = 64
MAX_LABELS = 32  # of one device; they travel with every claim
OFFLINE_BEATS = 3  # one lost beat and one late beat must not make a device look dead
SHORTEST_HIDDEN = 8  # a shorter secret may be a common word, and hiding that would garble every log line

MODES = ("standalone", "master", "worker")
ENGINES = ("threads", "processes", "dask")
STRATEGIES = ("least_tasks", "round_robin", "weighted", "random")

DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SOURCE_NAME = LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
DASK_ADDRESS = re.compile(r"[a-z]+://[^\s/@]+:\d+")  # which schemes there are, Dask knows
SOURCE_KEYS = ("base_url", "proxy", "timeout_seconds", "limits")
BASE_URL_VARIABLES = {"CRAWLFLEET_APPSFLYER_BASE_URL": "appsflyer", "CRAWLFLEET_APPLE_BASE_URL": "apple"}
SECRET_KEYS = re.compile(r"token|secret|password|webhook|api_key|authorization", re.IGNORECASE)

OLD_NAMES = {  # key of the earlier implementation -> setting; of several, the first one given counts
    "device_timeout_threshold": "offline_timeout",
    "device_timeout": "offline_timeout",
    "max_tasks_per_device": "concurrent_tasks",
    "default_task_timeout": "execution_timeout",
    "task_timeout": "execution_timeout",
    "task_retry_delay": "retry_delay_seconds",
    "max_retry_count": "max_retry",
    "enable_performance_monitoring": "enable_monitoring",
    "heartbeat_data_retention_days": "heartbeat_retention_days",
    "assignment_data_retention_days": "assignment_retention_days",
    "api_key": "api_token",
}
_MEET = "devices meet in the database (database_url), not at a master's address"
_PUMP = "the scheduler sizes its batches by itself; concurrent_tasks bounds what runs"
_ALWAYS = "tasks of an offline device are always given to others, after offline_timeout"
_PRIORITY = "priority always counts, in the order in which tasks are claimed"
_SCALING = "start or stop devices instead; every device takes what it has room for"
_TLS = "tls_certificate and tls_key make the API speak TLS"
WITHOUT_EFFECT = {  # key of the earlier implementation -> why it means nothing here
    "device_type": "the type of a device is its mode",
    "master_host": _MEET,
    "master_port": _MEET,
    "master_url": _MEET,
    "master_api_prefix": "the prefix of the API is always /api/distribution",
    "task_timeout_check_interval": "timeouts are watched at the moment they are due",
    "timeout_check_interval": "timeouts are watched at the moment they are due",
    "task_pull_limit": _PUMP,
    "batch_size": _PUMP,
    "enable_auto_scaling": _SCALING,
    "auto_scaling_threshold": _SCALING,
    "enable_task_priority": _PRIORITY,
    "high_priority_threshold": _PRIORITY,
    "enable_failover": _ALWAYS,
    "failover_timeout": _ALWAYS,
    "enable_task_redistribution": _ALWAYS,
    "redistribution_delay": _ALWAYS,
    "enable_ssl": _TLS,
    "ssl_cert_path": _TLS,
    "ssl_key_path": _TLS,
}
OLD_VARIABLES = {  # environment variable of the earlier implementation -> key, old or new
    "DEVICE_ID": "device_id",
    "DISTRIBUTION_MODE": "mode",
    **{
        key.upper(): key
        for key in (
            "device_name",
            "dispatch_interval",
            "heartbeat_interval",
            "load_balance_strategy",
            "concurrent_tasks",
            *(key for key in OLD_NAMES if key not in {"device_timeout", "task_timeout"}),
            *(key for key in WITHOUT_EFFECT if key not in {"master_url", "timeout_check_interval", "batch_size"}),
        )
    },
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting may be. `kind`: text, whole, number, flag, list or table; `option`: its command-line option."""

    kind: str
    help: str
    unit: str = ""
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    secret: bool = False
    option: str = ""

    @property
    def allowed(self) -> str:
        """What a person may write, as the rest of "must be ..."."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind in {"whole", "number"}:
            noun = "a whole number" if self.kind == "whole" else "a number"
            unit = f" {self.unit}" if self.unit else ""
            return f"{noun} from {self.low:g} to {self.high:g}{unit}"
        return {"flag": "true or false", "table": "a table"}.get(self.kind, self.unit)


def _text(default: str | None, help: str, allowed: str, secret: bool = False, option: str = "") -> Any:
    return field(
        default=default, repr=not secret, metadata={"rule": Rule("text", help, allowed, secret=secret, option=option)}
    )


def _choice(default: str, help: str, choices: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"rule": Rule("text", help, choices=choices)})


def _whole(default: int | None, help: str, low: int, high: int, unit: str = "") -> Any:
    return field(default=default, metadata={"rule": Rule("whole", help, unit, low, high)})


def _seconds(default: float, help: str, low: float, high: float) -> Any:
    return field(default=default, metadata={"rule": Rule("number", help, "seconds", low, high)})


def _flag(default: bool, help: str, option: str = "") -> Any:
    return field(default=default, metadata={"rule": Rule("flag", help, option=option)})


def _host_name() -> str:
    if hasattr(os, "uname"):
        name = os.uname().nodename
    else:
        import platform  # costs 10 ms

        name = platform.node()
    return name[:128] or "device"


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of a node. Made by `load_settings`, handed down as plain values.

    `origins` says where each value came from; `notices` are lines for the log, about names of the earlier
    implementation. Both do not take part in comparison. Making one checks only how settings fit together.
    """

    mode: str = _choice(
        "standalone", "Whether the device claims for itself, assigns to others, or runs what is assigned", MODES
    )
    device_id: str | None = _text(
        None, "Name of this device in the fleet; required by standalone", "1 to 64 of letters, digits, '-' and '_'"
    )
    device_name: str = field(
        default_factory=_host_name,
        metadata={
            "rule": Rule("text", "Name for people; the host name unless given", "text of 1 to 128 printable characters")
        },
    )
    database_url: str = _text(
        "sqlite:///crawlfleet.db",
        "The fleet's database: SQLite, MySQL, MariaDB or PostgreSQL",
        "a URL such as sqlite:///crawlfleet.db or mysql://user:password@host/name",
        secret=True,
        option="--database",
    )
    dispatch_interval: float = _seconds(10.0, "Longest wait until free capacity is noticed", 0.1, 3600)
    schedule_interval: float = _seconds(30.0, "Longest time an idle scheduler does not look at the queue", 0.1, 3600)
    heartbeat_interval: float = _seconds(30.0, "Time between two heartbeats", 0.5, 3600)
    offline_timeout: float = _seconds(
        300.0, "Silence after which a device counts as offline; at least 3 x heartbeat_interval", 1.5, 604_800
    )
    concurrent_tasks: int = _whole(5, "How many tasks run at once on this device", 1, 10_000)
    execution_timeout: int = _whole(3600, "Longest run of one task", 1, 604_800, "seconds")
    max_retry: int = _whole(3, "How often a failed task is tried again", 0, 100)
    retry_delay_seconds: float = _seconds(300.0, "Wait before the first retry; doubled each time", 0, 86_400)
    shutdown_grace: float = _seconds(30.0, "How long a stopping node waits for running tasks", 0, 3600)
    database_wait: float = _seconds(20.0, "How long a starting node tries to reach its database", 0, 3600)
    load_balance_strategy: str = _choice("least_tasks", "Which worker a master assigns a task to", STRATEGIES)
    claim_without_master: bool = _flag(True, "A worker takes tasks by itself while no master is online")
    heartbeat_retention_days: int = _whole(7, "Age at which heartbeat rows are deleted", 1, 3650, "days")
    assignment_retention_days: int = _whole(30, "Age at which rows of ended runs are deleted", 1, 3650, "days")
    task_log_lines: int = _whole(1000, "Log lines kept of each run; 0 keeps none", 0, 100_000, "lines")
    task_log_line_bytes: int = _whole(2000, "Longest log line that is kept whole", 100, 60_000, "bytes")
    task_log_retention_days: int = _whole(7, "Age at which log lines of runs are deleted", 1, 3650, "days")
    enable_monitoring: bool = _flag(False, "Record performance metrics with each heartbeat")
    processes: int | None = _whole(
        None, "Worker processes; 1, or concurrent_tasks with engine processes, unless given", 1, MAX_PROCESSES
    )
    threads_per_process: int | None = _whole(
        None, "Threads in each process; concurrent_tasks, or 1 with engine processes, unless given", 1, 10_000
    )
    use_proxy: bool = _flag(False, "Fetch through the proxies of accounts and sources; off, no proxy is used at all")
    secret_key_file: str | None = _text(
        None,
        "File with the keys of sealed tokens, for the owner only; CRAWLFLEET_SECRET_KEY wins",
        "the path of a file",
    )
    engine: str = _choice("threads", "Where the bodies of tasks run", ENGINES)
    dask_scheduler: str | None = _text(
        None,
        "Scheduler of the Dask cluster that runs the bodies with engine dask",
        "an address such as tcp://host:8786",
    )
    executors: tuple[str, ...] = field(
        default=(), metadata={"rule": Rule("list", "Modules with task executors of your own", "a list of module names")}
    )
    labels: tuple[str, ...] = field(
        default=(),
        metadata={
            "rule": Rule(
                "list",
                "Labels of this device, as a region or a proxy pool: tasks that name one run only where it is",
                f"a list of at most {MAX_LABELS} labels, each of 1 to 64 letters, digits, '_', '-', '.', ':'",
                option="--label",
            )
        },
    )
    host: str = _text("127.0.0.1", "Address on which the API listens", "a host name or an IP address")
    port: int = _whole(8080, "Port on which the API listens; 0 takes any free one", 0, 65_535)
    api: bool = _flag(True, "Serve the API", option="--no-api")
    api_token: str | None = _text(
        None,
        "Token that the API demands; required off loopback",
        "text of 1 to 512 printable ASCII characters without spaces",
        secret=True,
    )
    tls_certificate: str | None = _text(
        None, "PEM file with the certificate of the API and those that signed it; with tls_key", "the path of a file"
    )
    tls_key: str | None = _text(None, "PEM file with the private key of that certificate", "the path of a file")
    log_file: str | None = _text(None, "File that also receives the log, rotated at 5 MB", "the path of a file")
    sources: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict,
        repr=False,
        metadata={
            "rule": Rule(
                "table", "One table for each source: base_url, proxy, timeout_seconds, limits, keys of its own"
            )
        },
    )
    alerts: Mapping[str, Any] = field(
        default_factory=dict, repr=False, metadata={"rule": Rule("table", "Where alerts are sent")}
    )
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    notices: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises UsageError for settings that do not fit together, with the change that would make them fit."""
        needed = OFFLINE_BEATS * self.heartbeat_interval
        if self.offline_timeout < needed - 1e-9:
            raise UsageError(
                f"offline_timeout must be at least {OFFLINE_BEATS} x heartbeat_interval "
                f"(got {self.offline_timeout:g}{self._from('offline_timeout')} "
                f"and {self.heartbeat_interval:g}{self._from('heartbeat_interval')}): "
                f"raise offline_timeout to {needed:g} or more"
            )
        if self.engine == "dask" and self.dask_scheduler is None:
            raise UsageError("engine dask needs the address of a cluster: --dask-scheduler tcp://HOST:8786")
        if self.engine == "processes":
            if self.threads_per_process not in (None, 1):
                raise UsageError(
                    f"threads_per_process must be 1 with engine processes "
                    f"(got {self.threads_per_process}{self._from('threads_per_process')}): each process runs one "
                    f"task at a time, so that it can be killed alone; set processes instead"
                )
        elif self.processes not in (None, 1):
            raise UsageError(
                f"processes must be 1 with engine {self.engine} (got {self.processes}{self._from('processes')}): "
                f"set threads_per_process, or engine = processes"
            )

    def _from(self, name: str) -> str:
        origin = self.origins.get(name, "default")
        return "" if origin == "default" else f" from {origin}"

    @property
    def effective_processes(self) -> int:
        """How many processes run bodies: this one alone, unless the engine is `processes`."""
        if self.engine != "processes":
            return 1
        return self.processes or min(self.concurrent_tasks, MAX_PROCESSES)

    @property
    def effective_threads(self) -> int:
        """How many bodies run at once in each process."""
        if self.engine == "processes":
            return 1
        return self.threads_per_process or self.concurrent_tasks

    @property
    def slots(self) -> int:
        """How many bodies run at once on this device."""
        return min(self.concurrent_tasks, self.effective_processes * self.effective_threads)


FIELDS: dict[str, Field[Any]] = {item.name: item for item in fields(Settings) if "rule" in item.metadata}
RULES: dict[str, Rule] = {name: item.metadata["rule"] for name, item in FIELDS.items()}


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
    older = [(name, key) for name, key in OLD_VARIABLES.items() if environ.get(name)]
    draft.add_layer((key, environ[name], f"environment variable {name}") for name, key in older)
    draft.add_layer(_own_variables(environ))
    for name, source in BASE_URL_VARIABLES.items():
        if environ.get(name):
            draft.set_base_url(source, environ[name], f"environment variable {name}")
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    draft.add_layer((key, value, f"option {_option_of(key)}") for key, value in given.items())
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
        for (place, reason), keys in dead.items():
            verb = "has" if len(keys) == 1 else "have"
            inside = f" in {place}" if place else ""
            self.notices.append(f"{', '.join(keys)}{inside} {verb} no effect: {reason}")

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
        self.values["sources"] = _parse_sources(sources, origin)
        before = self.origins.get("sources")
        self.origins["sources"] = f"{before} and {origin}" if before else origin

    def derive_device_id(self, environ: Mapping[str, str]) -> None:
        """mode-host, mode-datacenter-host, and a suffix when DEVICE_SUFFIX is set."""
        host = _host_name().partition(".")[0]
        parts = [self.values["mode"], environ.get("DATACENTER", ""), host, environ.get("DEVICE_SUFFIX", "")]
        whole = "-".join(part for part in parts if part)
        self.values["device_id"] = re.sub(r"[^A-Za-z0-9_-]", "-", whole)[:64]
        self.origins["device_id"] = "host name"

    def settings(self) -> Settings:
        token = self.values.get("api_token")
        for secret in (token, *_url_passwords(self.values.get("database_url", ""))):
            if secret and len(secret) >= SHORTEST_HIDDEN:
                hide(secret)
        origins = {name: self.origins.get(name, "default") for name in RULES}
        return Settings(**self.values, origins=origins, notices=tuple(self.notices))


def _own_variables(environ: Mapping[str, str]) -> Iterable[tuple[str, object, str]]:
    for name in RULES:
        variable = _variable(name)
        if environ.get(variable):
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
            yield f"{origin} is now called {_variable(name) if RULES[name].secret else _option_of(name)}"
        else:
            yield f"{key} in {origin} is now called {name}"


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def _option_of(key: str) -> str:
    rule = RULES.get(key)
    return (rule.option if rule else "") or "--" + key.replace("_", "-")


def _spelling(origin: str) -> str:
    """The variable's or option's own name, which is the last word of its origin."""
    return origin.rpartition(" ")[2]


def _suggestion(key: str) -> str:
    close = close_matches(key.lower().replace("-", "_"), [*RULES, *OLD_NAMES])
    return f": did you mean {close[0]!r}?" if close else f": known keys are {', '.join(RULES)}"


def close_matches(word: str, known: Sequence[str], cutoff: float = 0.6) -> list[str]:
    """The known word that was probably meant; empty when none is close."""
    import difflib  # costs 10 ms, and only mistakes need it

    return difflib.get_close_matches(word, known, n=1, cutoff=cutoff)


def _url_passwords(url: str) -> tuple[str, ...]:
    found = re.match(r"[^:]+://[^:/]*:(.*)@", url)
    if not found:
        return ()
    from urllib.parse import unquote

    return found[1], unquote(found[1])


# --- values ----------------------------------------------------------------------------------------------------


def parse_value(name: str, value: object, origin: str) -> Any:
    """The value of one setting, checked.

    Outside files, where nothing but text can be written, text is read as a number, a flag or a list.
    Raises UsageError that names key, origin, value and what is allowed.
    """
    rule = RULES[name]
    written = value
    if isinstance(value, str) and not origin.startswith("file "):
        value = _from_text(rule.kind, value)
    if rule.kind == "table":
        return _parse_sources(value, origin) if name == "sources" else _parse_alerts(value, origin)
    if not _fits(name, rule, value):
        raise UsageError(f"{name} must be {rule.allowed} (got {_shown(name, written)} from {origin})")
    if rule.choices:
        return str(value).lower()
    if rule.kind == "number":
        return float(value)  # type: ignore[arg-type]  # _fits has seen that it is a number
    return tuple(value) if rule.kind == "list" else value  # type: ignore[arg-type]


def _from_text(kind: str, text: str) -> object:
    """What the text means, or the text itself when it means nothing of this kind."""
    stripped = text.strip()
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
        }.get(stripped.lower(), text)
    if kind in {"whole", "number"} and len(stripped) <= 40:
        if re.fullmatch(r"[+-]?[0-9]+", stripped):
            return int(stripped)
        if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", stripped):
            return float(stripped)
    if kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
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
        return value.lower() in rule.choices
    checks: dict[str, Callable[[str], object]] = {
        "device_id": DEVICE_ID.fullmatch,
        "device_name": lambda text: _is_line(text) and len(text) <= 128,
        "database_url": lambda text: _is_line(text) and re.match(r"[A-Za-z][A-Za-z0-9+]*://", text),
        "dask_scheduler": DASK_ADDRESS.fullmatch,
        "host": lambda text: _is_line(text) and len(text) <= 255 and " " not in text and "/" not in text,
        "api_token": lambda text: text.isascii() and _is_line(text) and " " not in text and len(text) <= 512,
    }
    return bool(checks.get(name, _is_line)(value))


def _is_line(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _shown(name: str, value: object) -> str:
    """A value for an error message: short, and never a secret."""
    if RULES[name].secret:
        return "a hidden value"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = redact(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _parse_sources(value: object, origin: str) -> dict[str, dict[str, Any]]:
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
        for key, item in table.items():
            problem = _source_problem(str(key), item)
            if problem:
                raise UsageError(f"sources.{name}.{key} {problem} (from {origin})")
        parsed[str(name)] = dict(table)
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
    return (
        f"must be a URL such as {'https://gateway.example' if key == 'base_url' else 'http://user:password@proxy:3128'}"
    )


def _parse_alerts(value: object, origin: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"alerts must be a table (from {origin})")
    for key, item in value.items():
        problem = _plain_problem(item)
        if problem:
            raise UsageError(f"alerts.{key} {problem} (from {origin})")
    return dict(value)


def _plain_problem(value: object) -> str:
    """What keeps a value from being written to TOML and JSON alike; empty when nothing does."""
    if isinstance(value, Mapping):
        return next(filter(None, map(_plain_problem, value.values())), "")
    if isinstance(value, list):
        return next(filter(None, map(_plain_problem, value)), "")
    if isinstance(value, float) and not math.isfinite(value):
        return "must not hold nan or inf"
    return "" if isinstance(value, str | int | float) else "must hold text, numbers, true, false, lists and tables only"


# --- descriptions ----------------------------------------------------------------------------------------------


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
        # The address of a chat's webhook is its password.
        is_secret = SECRET_KEYS.search(name) or (name.startswith("alerts.") and "://" in value)
        return HIDDEN if is_secret else redact(value)
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
        value = getattr(settings, name)
        given = settings.origins.get(name, "default") not in {"default", "host name"}
        lines.append(f"# {rule.help}: {rule.allowed}")
        if not given and value is None:
            value = "" if rule.kind == "text" else _short(rule.low)
        lines += [f"{'' if given else '# '}{name} = {toml_value(value)}", ""]
    for name, table in [*((f"sources.{toml_key(key)}", item) for key, item in settings.sources.items())]:
        lines += [f"[{name}]", *(f"{toml_key(key)} = {toml_value(item)}" for key, item in table.items()), ""]
    if not settings.sources:
        lines += [f"# {RULES['sources'].help}", "# [sources.appsflyer]", '# base_url = "https://gateway.example"', ""]
    if settings.alerts:
        lines += ["[alerts]", *(f"{toml_key(key)} = {toml_value(item)}" for key, item in settings.alerts.items()), ""]
    return "\n".join(lines)
