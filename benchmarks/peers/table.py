"""Which peers there are, where each can keep its queue, and how its own documentation starts a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STORE_VARIABLE = "BENCH_STORE"  # the URL that a peer's module connects to
STORES = ("sqlite", "postgresql", "mariadb", "redis", "rabbitmq")
CONCURRENCY = 5


@dataclass(frozen=True)
class Peer:
    """`keeps` tells by store what is left of a task that has run; a store that is not in it is not supported.

    `worker` is a program of the peers' environment with its arguments. The module `{name}_tasks` has the tasks.
    """

    name: str
    worker: tuple[str, ...]
    keeps: Mapping[str, str]

    @property
    def module(self) -> str:
        return f"{self.name}_tasks"


CRAWLFLEET = Peer("crawlfleet", (), dict.fromkeys(("sqlite", "postgresql", "mariadb"), "every run"))
PEERS = (
    Peer(
        "huey",
        ("huey_consumer", "benchmarks.peers.huey_tasks.huey", "-w", f"{CONCURRENCY}", "-k", "thread", "-n", "-q"),
        {"sqlite": "result", "postgresql": "result", "redis": "result"},
    ),
    Peer(
        "procrastinate",
        (
            *("procrastinate", "--log-level", "warning", "--app", "benchmarks.peers.procrastinate_tasks.app"),
            *("worker", f"--concurrency={CONCURRENCY}"),
        ),
        {"postgresql": "every run"},
    ),
    Peer(
        "dbos",
        ("python", "-m", "benchmarks.peers.dbos_tasks"),
        {"sqlite": "every run", "postgresql": "every run"},
    ),
    Peer(
        "celery",
        (
            *("celery", "-A", "benchmarks.peers.celery_tasks", "worker", f"--concurrency={CONCURRENCY}"),
            *("--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        {"redis": "result", "rabbitmq": "nothing"},
    ),
    Peer(
        "dramatiq",
        ("dramatiq", "benchmarks.peers.dramatiq_tasks", "--processes", "1", "--threads", f"{CONCURRENCY}"),
        {"redis": "result", "rabbitmq": "nothing"},
    ),
    Peer(
        "taskiq",
        (
            *("taskiq", "worker", "benchmarks.peers.taskiq_tasks:broker", "--workers", "1"),
            *("--max-async-tasks", f"{CONCURRENCY}", "--log-level", "WARNING"),
        ),
        {"redis": "result"},
    ),
)
