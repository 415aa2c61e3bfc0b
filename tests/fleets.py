"""A database with our tables, and devices that claim and end tasks as a scheduler would."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from crawlfleet.core.clock import SYSTEM_CLOCK, Clock
from crawlfleet.core.db import Database
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.process import own_identity
from crawlfleet.core.transaction import Transaction
from crawlfleet.insights.tasks import TaskFilter, newest_tasks
from crawlfleet.model import claims, migrations, rescue
from crawlfleet.model.budget import LimitOf, as_stored
from crawlfleet.model.claim_strategy import Strategy
from crawlfleet.model.claims import AssignmentIds, Claim, Registration
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO, DeviceInfo
from crawlfleet.model.ending import Ending, Outcome
from crawlfleet.model.gate import Ended, RunCalls, book_calls, end_runs, mark_started
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.next_move import RetryPolicy
from crawlfleet.model.task_assignment import TaskAssignmentDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.templates import sqlite_url_with_tables


def fresh(url: str, clock: Clock = SYSTEM_CLOCK) -> Database:
    """The database behind this URL, with tables."""
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:") and not path.exists():
        sqlite_url_with_tables(path)
    db = Database(url, clock=clock).open()
    migrations.upgrade(db)  # looks once, and finds the tables of a template
    return db


@dataclass
class Device:
    """One registered device; every call is one transaction."""

    db: Database
    device_id: str = "d1"
    types: Sequence[str] = ("noop",)
    strategy: Strategy = Strategy.COMPARE_AND_SET
    policy: RetryPolicy = field(default_factory=lambda: RetryPolicy(300, 3600, lambda: 0.5))
    process: dict[str, Any] = field(default_factory=dict)
    defaults: TaskDefaults = field(default_factory=TaskDefaults)
    limit_of: LimitOf = as_stored
    mode: str = "standalone"
    labels: Sequence[str] = ()
    version: str = "0"

    def register(
        self, offline_timeout: float = 300, takeover: bool = True, again: bool = False, now: datetime | None = None
    ) -> int:
        identity = replace(own_identity(), **self.process)
        info = DeviceInfo(
            self.device_id,
            self.device_id,
            self.mode,
            "127.0.0.1",
            8080,
            5,
            identity,
            self.version,
            {"supported_tasks": [*self.types], "labels": [*self.labels]},
        )
        epoch = DeviceDAO(self.db).register_device(info, offline_timeout, takeover, again, now)
        self.ids = AssignmentIds(epoch)
        return epoch

    @property
    def epoch(self) -> int:
        return self.ids.epoch

    def claim(
        self, slots: int = 5, reserve: int = 0, now: datetime | None = None, lead_seconds: float = 0.0
    ) -> list[Claim]:
        """Let come due what is due, then claim."""
        claims.promote(self.db, lead_seconds, now)
        return self.take(slots, reserve, now, lead_seconds)

    def take(
        self, slots: int = 5, reserve: int = 0, now: datetime | None = None, lead_seconds: float = 0.0
    ) -> list[Claim]:
        """Claim, and nothing else."""

        def work(connection: Transaction) -> list[Claim]:
            standing = DeviceDAO(self.db).hold(connection, self.device_id, self.epoch).read()
            ledger = Ledger(connection, self.limit_of)
            if not standing.may_claim:
                return []
            request = claims.ClaimRequest(
                self.strategy,
                lambda _task: Registration(self.device_id, self.epoch),
                self.ids,
                claims.open_heads(connection, self.types, self.labels),
                slots,
                reserve,
                lead_seconds,
            )
            claimed = claims.claim(ledger, request)
            ledger.close()
            return claimed

        return self.db.write(work, now)

    def start(self, claimed: Iterable[Claim]) -> None:
        def work(connection: Transaction) -> None:
            mark_started(connection, [(c.assignment_id, c.task.id, connection.now) for c in claimed])

        self.db.write(work)

    def book(self, claim: Claim, calls: Sequence[datetime], now: datetime | None = None, is_over: bool = False) -> None:
        """Tell that the run of this claim has sent these calls."""

        def work(connection: Transaction) -> None:
            ledger = Ledger(connection)
            book_calls(ledger, [RunCalls(claim.assignment_id, claim.task.id, calls, is_over)])
            ledger.close()

        self.db.write(work, now)

    def reconcile(self, held: Collection[int], now: datetime | None = None) -> tuple[int, set[int]]:
        """Give back what is not among these assignments; how many, and which of these are lost."""

        def work(connection: Transaction) -> tuple[int, set[int]]:
            ledger = Ledger(connection)
            found = rescue.release_unheld(ledger, self.device_id, self.epoch, held)
            ledger.close()
            return found

        return self.db.write(work, now)

    def end(self, *endings: Ending, now: datetime | None = None) -> list[Ended]:
        def work(connection: Transaction) -> list[Ended]:
            ledger = Ledger(connection)
            ended = end_runs(ledger, endings, self.policy, self.defaults)
            ledger.close()
            return ended

        return self.db.write(work, now)


def ending(claim: Claim, kind: str = "ok", **more: object) -> Ending:
    """How this claim's run ended; more of its outcome, or of the ending."""
    own: dict[str, object] = {
        name: more.pop(name) for name in ("started_at", "completed_at", "calls", "lane_id") if name in more
    }
    own["fetch_counts"] = claim.fetch_counts.read()
    outcome = Outcome(EndingKind(kind), **more)  # type: ignore[arg-type]
    return Ending(claim.assignment_id, claim.task.id, outcome, **own)  # type: ignore[arg-type]


def add(db: Database, count: int = 1, task_type: str = "noop", **more: object) -> list[int]:
    """Queue so many tasks; their ids."""
    return CrawlTaskDAO(db).add([TaskSpec(task_type, **more) for _ in range(count)])  # type: ignore[arg-type]


def task(db: Database, task_id: int) -> dict[str, object]:
    found = CrawlTaskDAO(db).get(task_id)
    assert found is not None
    return found


def tasks_of(db: Database, task_type: str | None = None) -> list[dict[str, Any]]:
    """The newest hundred tasks, of this type if one is named."""
    return list(newest_tasks(db, TaskFilter(task_type=task_type), 100))


def runs(db: Database, task_id: int) -> list[dict[str, object]]:
    return TaskAssignmentDAO(db).of_task(task_id)
