"""Which peers there are, where each can keep its queue, and how its own documentation starts a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STORE_VARIABLE = "BENCH_STORE"  # the URL that a peer's module connects to
STORES = ("sqlite", "postgresql", "mariadb", "redis", "rabbitmq")


@dataclass(frozen=True)
class Peer:
    """`keeps` tells by store what is left of a task that has run; a store that is not in it is not supported.
    `learns` tells how a worker with nothing to do learns of a task: as by default, or as `besides` sets it.

    `worker` is a program of the peers' environment with its arguments, `{concurrency}` standing for how many tasks run
    at once; `besides` is what it is told besides in a scenario. The module `{name}_tasks` has the tasks.
    """

    name: str
    worker: tuple[str, ...]
    keeps: Mapping[str, str]
    learns: Mapping[str, str]
    besides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return f"{self.name}_tasks"


CRAWLFLEET = Peer(
    "crawlfleet",
    (),
    dict.fromkeys(("sqlite", "postgresql", "mariadb"), "every run"),
    {"sqlite": "is told", "postgresql": "is told", "mariadb": "looks every 150 ms"},
)
PEERS = (
    Peer(
        "huey",
        ("huey_consumer", "benchmarks.peers.huey_tasks.huey", "-w", "{concurrency}", "-k", "thread", "-n", "-q"),
        {"sqlite": "result", "postgresql": "result", "redis": "result"},
        {"sqlite": "looks every 0.1 to 10 s", "postgresql": "is told", "redis": "is told"},
    ),
    Peer(
        "procrastinate",
        (
            *("procrastinate", "--log-level", "warning", "--app", "benchmarks.peers.procrastinate_tasks.app"),
            *("worker", "--concurrency={concurrency}"),
        ),
        {"postgresql": "every run"},
        {"postgresql": "is told"},
    ),
    Peer(
        "dbos",
        ("python", "-m", "benchmarks.peers.dbos_tasks", "{concurrency}"),
        {"sqlite": "every run", "postgresql": "every run"},
        dict.fromkeys(("sqlite", "postgresql"), "looks every 10 ms"),
        {"latency": ("0.01",)},  # by default once in a second
    ),
    Peer(
        "celery",
        (
            *("celery", "-A", "benchmarks.peers.celery_tasks", "worker", "--concurrency={concurrency}"),
            *("--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        {"redis": "result", "rabbitmq": "nothing"},
        {"redis": "is told", "rabbitmq": "is told"},
        dict.fromkeys(("io", "far"), ("--pool", "threads")),
    ),
    Peer(
        "dramatiq",
        ("dramatiq", "benchmarks.peers.dramatiq_tasks", "--processes", "1", "--threads", "{concurrency}"),
        {"redis": "result", "rabbitmq": "nothing"},
        {"redis": "looks every 5 ms to 5 s", "rabbitmq": "is told"},
    ),
    Peer(
        "taskiq",
        (
            *("taskiq", "worker", "benchmarks.peers.taskiq_tasks:broker", "--workers", "1"),
            *("--max-async-tasks", "{concurrency}", "--log-level", "WARNING"),
        ),
        {"redis": "result"},
        {"redis": "is told"},
    ),
)
