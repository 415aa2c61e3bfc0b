"""What one can ask a fleet to do, from Python, the command line or the API: a handle on its database."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cache
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.errors import CrawlfleetError, NotFound, UsageError
from crawlfleet.executors.registry import ALIASES, executors, near_miss
from crawlfleet.executors.shared_sources import shared_source
from crawlfleet.model import audit, dispatch, fleet_state, migrations, rescue
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.app_notes import apps_not_listed
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import DeviceHeartbeatDAO
from crawlfleet.model.lifecycle import MOVES, TaskStatus
from crawlfleet.model.task_assignment import TaskAssignmentDAO
from crawlfleet.model.task_insert import TaskDefaults, holders_of
from crawlfleet.model.task_spec import TaskSpec, parse_date
from crawlfleet.planning.backfill import Backfill
from crawlfleet.planning.planner import BackfillPlanner
from crawlfleet.planning.tariff import Tariff
from crawlfleet.settings.values import close_matches
from crawlfleet.sources.contract import SourceSettings
from crawlfleet.sources.registry import built_in_reports, default_report

ACCOUNT_TYPES = frozenset({"user_apps", "app_data"})  # built-in types that run on behalf of an account
CLEANUP_ROWS = 50_000  # of each table, that one call deletes at most

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Queued:
    """The ids of tasks, in the order in which they were given, and what a person should know of them."""

    ids: list[int]
    notes: list[str]


class Fleet:
    """The fleet that shares one database. Cheap to keep; safe to use from several threads.

    Every change takes an `actor`, the person or program that asks for it, for the audit (`cl_audit`); None leaves it
    out.
    """

    def __init__(self, db: Database, defaults: TaskDefaults | None = None) -> None:
        self.db = db
        self.accounts = AccountDAO(db)
        self.tasks = CrawlTaskDAO(db)
        self._defaults = defaults or TaskDefaults(cost_of=Tariff({}, executors).cost_of)
        self._devices = DeviceDAO(db)
        self._logged: set[str] = set()
        self._known_types = {*ACCOUNT_TYPES, *ALIASES}  # and what devices were seen to know: it never ends

    def add_task(
        self,
        task_type: str,
        *,
        username: str | None = None,
        source: str | None = None,
        app_id: str | None = None,
        start_date: date | str | None = None,
        end_date: date | str | None = None,
        report: str | None = None,
        priority: int = 0,
        run_at: datetime | str | None = None,
        task_data: Mapping[str, Any] | None = None,
        unique_key: str | None = None,
        execution_timeout: int | None = None,
        max_retry_count: int | None = None,
        label: str | None = None,
    ) -> int:
        """Queue one task; its id. The fields are those of `TaskSpec`. Raises UsageError for a wrong value."""
        spec = TaskSpec.from_mapping({name: value for name, value in locals().items() if name not in {"self", "spec"}})
        return self.add_tasks([spec])[0]

    def add_tasks(self, specs: Iterable[TaskSpec], actor: str | None = None, *, force: bool = False) -> list[int]:
        """Queue tasks as `queue` does; their ids, in the order of the specs. Logs what `queue` notes, once."""
        queued = self.queue(specs, actor, force=force)
        for note in queued.notes:
            if note not in self._logged:
                self._logged.add(note)
                log.warning("%s", note)
        return queued.ids

    def queue(self, specs: Iterable[TaskSpec], actor: str | None = None, *, force: bool = False) -> Queued:
        """Queue tasks in one transaction.

        A `source` that is left out is the only one at which the username has an account; a `report` that is left
        out is the source's first, `partners_by_date_report` at AppsFlyer. A spec whose `unique_key` is open already
        gives that task's id; a task of a type that no device has known yet waits for one; an app may be missing from
        the account's known list. All of these are noted.
        Raises UsageError for a username with no account or several, for half a range of days, and, unless `force` is
        set, for a type whose name is nearly one that is known and for a report that a built-in source does not have;
        then nothing is queued.
        """
        batch, notes = self.check(specs, force=force)
        added = self.tasks.queue(batch, self._defaults, actor=actor)
        return Queued(added.ids, notes + added.open_already(batch))

    def check(self, specs: Iterable[TaskSpec], *, force: bool = False) -> tuple[list[TaskSpec], list[str]]:
        """What `queue` would queue, and its notes on types and apps; raises UsageError as `queue` does."""
        batch = self.with_defaults(specs)
        if not force:
            _check_reports(batch)
        return batch, self._check_types(batch, force) + apps_not_listed(self.db, batch)

    def _check_types(self, specs: Sequence[TaskSpec], force: bool) -> list[str]:
        """Refuse names that are nearly known ones; a note for each type that no device has known yet."""
        new = {spec.task_type for spec in specs} - self._known_types
        if not new:
            return []
        self._known_types |= self._devices.types_ever_known()
        for name in sorted(new - self._known_types):
            close = None if force else near_miss(name, self._known_types | _types_here())
            if close is not None:
                raise UsageError(f"no device knows the task type {name!r}: did you mean {close}? (--force queues it)")
        return [
            f"no device has known the task type {name} yet: its tasks wait until a node does (--executors MODULE)"
            for name in sorted(new - self._known_types)
        ]

    def with_defaults(self, specs: Iterable[TaskSpec]) -> list[TaskSpec]:
        """The specs with the source and the report that they leave out; raises UsageError as `queue` does."""
        batch = [replace(s, task_type=ALIASES[s.task_type]) if s.task_type in ALIASES else s for s in specs]
        bound = [spec for spec in batch if spec.task_type in ACCOUNT_TYPES]
        if not bound:
            return batch
        half = next((spec for spec in bound if (spec.start_date is None) != (spec.end_date is None)), None)
        if half is not None:
            raise UsageError(
                f"start_date and end_date go together (got start_date {half.start_date}, end_date {half.end_date})"
            )
        nameless = next((spec for spec in bound if spec.username is None), None)
        if nameless is not None:
            raise UsageError(f"a task of type {nameless.task_type} needs a username")
        unsourced = {spec.username for spec in bound if spec.source is None and spec.username is not None}
        sources = self.accounts.sources_of(unsourced) if unsourced else {}
        return [self._bind(spec, sources) if spec.task_type in ACCOUNT_TYPES else spec for spec in batch]

    def _bind(self, spec: TaskSpec, sources: Mapping[str, list[str]]) -> TaskSpec:
        source = spec.source
        if source is None:
            found = sources.get(spec.username or "", [])
            if not found:
                close = close_matches(spec.username or "", sorted({each["username"] for each in self.accounts.find()}))
                meant = f"did you mean {close[0]!r}? Else " if close else ""
                raise UsageError(
                    f"username {spec.username!r} has no account: {meant}add it first with"
                    f" `accounts add --source appsflyer --username {spec.username} --token-env NAME`"
                )
            if len(found) > 1:
                raise UsageError(f"username {spec.username!r} has accounts at {', '.join(found)}: name one with source")
            source = found[0]
        report = spec.report or (default_report(source) if spec.task_type == "app_data" else None)
        return replace(spec, source=source, report=report)

    def backfill(
        self,
        username: str,
        start_date: date | str,
        end_date: date | str,
        *,
        source: str | None = None,
        app_ids: Sequence[str] = (),
        report: str | None = None,
        label: str | None = None,
        dry_run: bool = False,
        actor: str | None = None,
        believe_empty: bool = False,
    ) -> Backfill:
        """Queue the fewest calls that fetch what is missing of these days, as early as the budgets allow.

        For all known apps of the account unless `app_ids` names some; the tasks get the `label`. With `dry_run`
        nothing is queued. Repeating it queues nothing twice. With `believe_empty` a day that had rows and has none now
        loses them. How it decides: docs/planning.md.
        Raises UsageError for an account, a report or days that cannot be, CrawlfleetError when no app is known.
        """
        start, end = parse_date(start_date, "start_date"), parse_date(end_date, "end_date")
        if start is None or end is None:
            raise UsageError("a backfill needs start_date and end_date")
        [spec] = self.with_defaults([TaskSpec("app_data", username, source, report=report, label=label)])
        assert spec.source is not None
        accounts = self.accounts.find(username, spec.source)
        if not accounts:
            raise UsageError(f"username {username!r} has no account at {spec.source}: `accounts add` adds one")
        reports = shared_source(spec.source, SourceSettings()).reports
        name = spec.report or next(iter(reports))
        if name not in reports:
            raise UsageError(f"report must be one of {', '.join(sorted(reports))} (got {name!r:.80})")
        with self.db.read() as reader:
            planner = BackfillPlanner(reader, accounts[0], reports[name], self._defaults.cost_of)
            found = replace(planner.plan(start, end, app_ids), believe_empty=believe_empty)
        return found if dry_run else found.queued(self.tasks.add(found.specs(label), self._defaults, actor=actor))

    def retry_tasks(self, task_ids: Sequence[int], actor: str | None = None) -> list[int]:
        """Queue failed and cancelled tasks again, due now and with all attempts; the ids that were.

        Others are left as they are, and so are tasks whose unique key another open task holds.
        """
        return rescue.revive(self.db, task_ids, actor)

    def run_now(self, task_ids: Sequence[int], actor: str | None = None) -> list[int]:
        """Let pending tasks that wait for their time, or for their next try, be due now; the ids of those that did."""
        return rescue.make_due(self.db, task_ids, actor)

    def open_elsewhere(self, task_ids: Sequence[int]) -> list[str]:
        """For people: which of these tasks were left as they were since another open task has their unique key."""
        with self.db.read() as reader:
            found = holders_of(reader, task_ids)
        return [f"task {task_id} was left as it was: its unique key is already open as {at}" for task_id, at in found]

    def cancel_tasks(self, task_ids: Sequence[int], actor: str | None = None) -> list[int]:
        """Cancel open tasks, running ones too; the ids that were. Tasks that have ended are left as they are."""
        return rescue.cancel(self.db, task_ids, actor)

    def require_movable(self, move: str, task_ids: Iterable[int]) -> None:
        """Raise CrawlfleetError for an id of no task, and for a task that is in no state to make this move."""
        ids = list(task_ids)
        states = self.tasks.states(ids)
        for task_id in ids:
            if task_id not in states:
                raise NotFound(f"there is no task {task_id}")
            if states[task_id] not in MOVES[move].task_from:
                done = "retried" if move == "revive" else TaskStatus.CANCELLED
                raise CrawlfleetError(
                    f"task {task_id} is {states[task_id]}: it can be {done} while it is"
                    f" {' or '.join(MOVES[move].task_from)}"
                )

    def set_paused(self, paused: bool, reason: str | None = None, actor: str | None = None) -> bool:
        """Pause the whole queue (running tasks go on, nothing is claimed) or open it; False when it was so already."""
        return fleet_state.set_paused(self.db, paused, reason, actor)

    def set_draining(self, device_id: str, draining: bool, actor: str | None = None) -> None:
        """Ask a device to finish what it runs and claim nothing more, or to go on; raises NotFound."""
        if not DeviceDAO(self.db).set_draining(device_id, draining, actor):
            raise no_device(device_id)

    def rebalance(self, actor: str | None = None) -> int:
        """Give tasks that wait at busy workers back for idle ones; how many. A master does so by itself."""
        return dispatch.rebalance(self.db, actor)

    def remove_device(self, device_id: str, actor: str | None = None, offline_timeout: float | None = None) -> int:
        """Forget a device; how many tasks it gave back. Raises NotFound, and DeviceRefused for one that is online,
        unless its `offline_timeout` is given (see `DeviceDAO.remove`)."""
        released = DeviceDAO(self.db).remove(device_id, actor, offline_timeout)
        if released is None:
            raise no_device(device_id)
        return released

    def account(self, username: str, source: str | None = None) -> dict[str, Any]:
        """The row of one account. Raises NotFound, and UsageError for a name that several sources know."""
        found = self.accounts.find(username, source)
        if not found:
            at = f" at {source}" if source else ""
            raise NotFound(f"there is no account {username!r}{at}: `accounts list` shows all")
        if len(found) > 1:
            places = ", ".join(row["source"] for row in found)
            raise UsageError(f"there are accounts {username!r} at {places}: choose one with --source")
        return found[0]

    def clean_up(self, days: int, actor: str | None = None) -> dict[str, int]:
        """Delete heartbeats, and runs that ended, older than so many days: at most about 50,000 of each, oldest first.

        How many of each there were; nodes do the same each hour with the ages of their settings.
        """
        self.db.write(lambda connection: audit.record(connection, actor, "management.cleanup", days=days))
        return {
            "heartbeats": DeviceHeartbeatDAO(self.db).sweep(days, most=CLEANUP_ROWS),
            "assignments": TaskAssignmentDAO(self.db).sweep(days, most=CLEANUP_ROWS),
        }

    def close(self) -> None:
        """Give up the connections."""
        self.db.close()


def _check_reports(specs: Iterable[TaskSpec]) -> None:
    """Refuse reports that no node can know."""
    for source, report in sorted({(s.source or "", s.report) for s in specs if s.task_type == "app_data" and s.report}):
        known = built_in_reports(source)
        if known and report not in known:
            raise UsageError(
                f"report must be one of {', '.join(known)} at {source} (got {report!r:.80}; --force queues it)"
            )


@cache
def _types_here() -> frozenset[str]:
    """The task types of this process, found once: to look for installed packages takes long."""
    try:
        return frozenset(executors())
    except UsageError:  # a broken package is told to whoever runs its tasks
        return frozenset()


def no_device(device_id: str) -> NotFound:
    """The error for an id of no device."""
    return NotFound(f"there is no device {device_id!r}: `devices list` shows all")


def connect(database_url: str, defaults: TaskDefaults | None = None, wait_seconds: float = 0) -> Fleet:
    """A fleet by its database's URL; makes or upgrades the tables. Close it when done.

    Raises DatabaseUnreachable, DatabaseRefused (newer or too old), UsageError (the URL).
    """
    db = Database(database_url).open(wait_seconds)
    migrations.upgrade(db)
    return Fleet(db, defaults)
