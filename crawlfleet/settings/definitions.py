"""Every setting, once: its name, default, range and one line of help.

Nothing here connects, or asks whether a source or an engine exists. `layers` reads settings, `values` checks them,
`display` shows them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from crawlfleet.core.errors import UsageError
from crawlfleet.core.hosts import bare_host, is_loopback
from crawlfleet.core.reach import PROXY_VARIABLES, TOKEN_FOLDER, TOKEN_VARIABLES, Reach

ENVIRONMENT_PREFIX = "CRAWLFLEET_"
MAX_PROCESSES = 64
MAX_LABELS = 32  # of one device; they travel with every claim
OFFLINE_BEATS = 3  # one lost beat and one late beat must not make a device look dead
SHORTEST_API_TOKEN = 32  # characters: one that nobody guesses, however fast the API answers
SHORTEST_HIDDEN = 8  # a shorter secret may be a common word, and hiding that would garble every log line

MODES = ("standalone", "master", "worker")
ENGINES = ("threads", "processes", "dask")
ENGINE_GROUP = "crawlfleet.engines"  # entry points of packages that offer others
STRATEGIES = ("least_tasks", "round_robin", "weighted", "random")

DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SOURCE_NAME = LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
DASK_ADDRESS = re.compile(r"[a-z]+://[^\s/@]+:\d+")  # which schemes there are, Dask knows
SOURCE_KEYS = ("base_url", "proxy", "timeout_seconds", "limits")
BASE_URL_VARIABLES = {"CRAWLFLEET_APPSFLYER_BASE_URL": "appsflyer", "CRAWLFLEET_APPLE_BASE_URL": "apple"}
SECRET_KEYS = re.compile(r"token|secret|password|webhook|api_key|authorization", re.IGNORECASE)


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


def _names(default: tuple[str, ...], help: str) -> Any:
    return field(default=default, metadata={"rule": Rule("list", help, "a list of names of environment variables")})


def host_name() -> str:
    """The name of this machine, at most 128 characters."""
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
        default_factory=host_name,
        metadata={
            "rule": Rule("text", "Display name; the host name unless given", "text of 1 to 128 printable characters")
        },
    )
    database_url: str = _text(
        "sqlite:///crawlfleet.db",
        "The fleet's database: SQLite, MySQL, MariaDB or PostgreSQL",
        "a URL such as sqlite:///crawlfleet.db or mysql://user:password@host/name",
        secret=True,
        option="--database",
    )
    database_url_file: str | None = _text(
        None, "File with the database_url, closed to others, in its place", "the path of a file"
    )
    dispatch_interval: float = _seconds(10.0, "Longest time until a free slot is noticed", 0.1, 3600)
    schedule_interval: float = _seconds(30.0, "Longest time between two looks of an idle node at the queue", 0.1, 3600)
    heartbeat_interval: float = _seconds(30.0, "Time between two heartbeats", 0.5, 3600)
    offline_timeout: float = _seconds(
        300.0, "Silence after which a device counts as offline; at least 3 x heartbeat_interval", 1.5, 604_800
    )
    concurrent_tasks: int = _whole(5, "How many tasks run at once on this device", 1, 10_000)
    execution_timeout: int = _whole(3600, "Time limit of one run of a task", 1, 604_800, "seconds")
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
    token_variables: tuple[str, ...] = _names(
        TOKEN_VARIABLES, "Environment variables that an account's --token-env may name, * for any characters"
    )
    token_folder: str = _text(TOKEN_FOLDER, "Folder that must hold the files of --token-file", "the path of a folder")
    proxy_variables: tuple[str, ...] = _names(
        PROXY_VARIABLES, "Environment variables that the proxy of an account may name, * for any characters"
    )
    engine: str = _choice("threads", "Where the bodies of tasks run", ENGINES)
    dask_scheduler: str | None = _text(
        None,
        "Scheduler of the Dask cluster that runs the bodies with engine dask",
        "an address such as tls://host:8786",
    )
    dask_without_tls: bool = _flag(False, "Reach a Dask scheduler of another machine without TLS")
    executors: tuple[str, ...] = field(
        default=(), metadata={"rule": Rule("list", "Modules with task executors of your own", "a list of module names")}
    )
    labels: tuple[str, ...] = field(
        default=(),
        metadata={
            "rule": Rule(
                "list",
                "Labels of this device, such as a region; a task with a label runs only on devices that have it",
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
        f"text of {SHORTEST_API_TOKEN} to 512 printable ASCII characters without spaces, as `openssl rand -hex 32`"
        " makes",
        secret=True,
    )
    api_token_file: str | None = _text(
        None, "File with the api_token, closed to others, in its place", "the path of a file"
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
            raise UsageError("engine dask needs the address of a cluster: --dask-scheduler tls://HOST:8786")
        if self.engine == "dask" and self._is_open_dask and not self.dask_without_tls:
            raise UsageError(
                f"dask_scheduler {self.dask_scheduler} is not encrypted, and tokens travel there: use tls://HOST:PORT,"
                " or set dask_without_tls where only you use that network"
            )
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

    @property
    def _is_open_dask(self) -> bool:
        """Whether others may hear what is said to the scheduler."""
        scheme, _, place = (self.dask_scheduler or "").partition("://")
        return scheme not in {"tls", "wss"} and not is_loopback(bare_host(place.rpartition(":")[0]))

    def _from(self, name: str) -> str:
        origin = self.origins.get(name, "default")
        return "" if origin == "default" else f" from {origin}"

    @property
    def reach(self) -> Reach:
        """What this node lets accounts use of its host."""
        return Reach(self.secret_key_file, self.token_variables, self.token_folder, self.proxy_variables)

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
