"""Backfill: an account, apps and days become the tasks that fetch what is missing, under the budgets as they stand.

This module reads the database and puts the parts together: `day_needs` says what is missing, `call_plan` how to ask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from crawlfleet.core.errors import CrawlfleetError, PermanentError, UsageError
from crawlfleet.core.transaction import Reader
from crawlfleet.executors.task_dates import asked_range
from crawlfleet.model import coverage, planning_facts
from crawlfleet.model.budget import Cost, CostOf
from crawlfleet.model.coverage_state import NEIGHBOUR_DAYS
from crawlfleet.model.lifecycle import AccountStatus
from crawlfleet.model.task_spec import Task, TaskSpec
from crawlfleet.planning.backfill import Backfill
from crawlfleet.planning.call_plan import CallPlanner, Need
from crawlfleet.planning.day_needs import Skip, day_needs
from crawlfleet.planning.meters import BudgetState, Meter
from crawlfleet.sources.contract import ALL_APPS, Report, Shape
from crawlfleet.sources.registry import default_report

MOST_DAYS = 3660  # of one backfill: ten years


class BackfillPlanner:
    """Plans one backfill. `account` is a row of `AccountDAO.find`, `cost_of` tells what a task costs."""

    def __init__(self, reader: Reader, account: Mapping[str, Any], report: Report, cost_of: CostOf) -> None:
        self._reader = reader
        self._account = account
        self._source: str = account["source"]
        self._username: str = account["username"]
        self._report = report
        self._cost_of = cost_of

    def plan(self, start: date, end: date, app_ids: Sequence[str] = ()) -> Backfill:
        """The fewest calls that finish earliest for the days from `start` to `end` of these apps, or all known ones.

        Raises UsageError for days that cannot be, CrawlfleetError when no app is known.
        """
        now = self._reader.now
        yesterday = now.date() - timedelta(1)
        _check_days(start, end, yesterday)
        if self._report.is_snapshot:
            raise UsageError(f"report {self._report.name} is a snapshot of its day: no past day can be fetched")
        notes = self._parked()
        last = min(end, yesterday)
        if last < end:
            notes.append(f"days after {yesterday}, yesterday in UTC, are not over yet and left out")
        apps = self._apps(app_ids)
        needs, skipped = self._needs(apps, start, last, now, notes)
        skipped[Skip.NOT_OVER] += (end - last).days * len(apps)
        if needs:
            self._report = self._with_costs(needs[0].app_id, now)
        meters = self._meters([need.app_id for need in needs], now)
        planner = CallPlanner(self._report, lambda app_id, shape: meters[app_id, shape], now, self._oldest(now))
        calls = planner.plan(needs)
        planned: Counter[Meter] = Counter()
        for call in calls:
            planned.update(dict.fromkeys(meters[call.app_id, call.shape], call.shape.calls))
        shared = {
            meter: None for each in meters.values() for meter in each if planned[meter] or not meter.charge.app_id
        }
        return Backfill(
            self._source,
            self._username,
            self._report.name,
            start,
            end,
            apps,
            calls,
            [(meter, planned[meter]) for meter in shared],
            skipped,
            notes,
        )

    def _parked(self) -> list[str]:
        if self._account["status"] == AccountStatus.HEALTHY:
            return []
        return [f"account {self._username} is parked: its tasks wait until `accounts resume {self._username}`"]

    def _oldest(self, now: datetime) -> date | None:
        days = self._report.lookback_days
        return None if days is None else now.date() - timedelta(days)

    def _apps(self, asked: Sequence[str]) -> list[str]:
        if ALL_APPS in asked and not self._report.account_wide:
            raise UsageError(f"app_id {ALL_APPS!r} is not for report {self._report.name}: name apps, or none for all")
        if not asked and self._report.account_wide:
            return [ALL_APPS]
        found = asked or planning_facts.active_apps(self._reader, self._source, self._username)
        found = list(dict.fromkeys(found or self._account["app_ids"]))
        if not found:
            raise CrawlfleetError(
                f"no app of account {self._username} at {self._source} is known: run"
                f" `tasks add --type user_apps --username {self._username} --source {self._source}` first, or name apps"
            )
        return found

    def _needs(
        self, apps: Sequence[str], start: date, end: date, now: datetime, notes: list[str]
    ) -> tuple[list[Need], Counter[Skip]]:
        feeds = planning_facts.feeds(self._reader, self._source, self._username, self._report.name)
        around = timedelta(NEIGHBOUR_DAYS)  # by which a thin day is known
        ids = [feeds[app].id for app in apps if app in feeds]
        covered = coverage.of_feeds(self._reader, ids, start - around, end + around)
        asked_for = self._asked_for(apps, start, end, now)
        usual = [feed.rows_per_day for feed in feeds.values() if feed.rows_per_day is not None]
        usual_rows = sum(usual) / len(usual) if usual else None
        needs, skipped, denied_apps = [], Counter[Skip](), []
        for app in apps:
            feed = feeds.get(app)
            denied = feed is not None and feed.denied_until is not None and feed.denied_until > now
            if denied:
                denied_apps.append(app)
            known = covered.get(feed.id, {}) if feed else {}
            found = day_needs(known, start, end, now, asked_for[app], self._oldest(now), denied)
            skipped.update(found.skipped)
            if found.days:
                rows = feed.rows_per_day if feed and feed.rows_per_day is not None else usual_rows
                needs.append(Need(app, found.days, rows))
        if denied_apps:
            notes.append(f"the vendor denies report {self._report.name} of {_names(denied_apps)}")
        if skipped[Skip.TOO_OLD]:
            notes.append(f"days before {self._oldest(now)} are left out: the vendor no longer answers them")
        return needs, skipped

    def _asked_for(self, apps: Sequence[str], start: date, end: date, now: datetime) -> dict[str, Collection[date]]:
        """The days of each app that open tasks will fetch."""
        found: dict[str, set[date]] = {app: set() for app in apps}
        yesterday = now.date() - timedelta(1)
        every = [ALL_APPS] if self._report.account_wide else list(apps)
        for task in self._open_requests():
            try:
                days = asked_range(task, now.date())
            except PermanentError:  # it will fail
                continue
            if days is None and task.task_type == "app_data":
                days = yesterday, yesterday
            if days is None:
                continue
            first, last = max(days[0], start), min(days[1], end)
            inside = [first + timedelta(n) for n in range((last - first).days + 1)]
            for app in [task.app_id] if task.app_id else every:
                if app in found:
                    found[app].update(inside)
        return {app: frozenset(days) for app, days in found.items()}

    def _open_requests(self) -> list[Task]:
        found = planning_facts.open_requests(self._reader, self._source, self._username)
        usual = default_report(self._source)
        return [task for task in found if (task.report or usual) == self._report.name]

    def _meters(self, apps: Sequence[str], now: datetime) -> dict[tuple[str, Shape], tuple[Meter, ...]]:
        """The budgets of each way of asking for each app, as they stand."""
        charges = {(app, shape): self._cost(app, shape, now).charges for app in apps for shape in self._report.shapes}
        by_key = {charge.key: charge for each in charges.values() for charge in each}
        known = planning_facts.budgets(self._reader, by_key, now)
        owed = planning_facts.owed_calls(self._reader, [budget.id for budget in known.values()], now)
        made = {}
        for key, charge in by_key.items():
            if key in known:
                budget = known[key]
                budget.calls, budget.seconds = charge.calls, charge.seconds
                opens_at = budget.closed_until or now
                standing = BudgetState(budget.allowed(now), opens_at, len(budget.busy), owed.get(budget.id, ()))
                made[key] = Meter(replace(charge, seconds=budget.window_seconds(now)), standing, now)
            else:
                made[key] = Meter(charge, BudgetState(charge.calls, now), now)
        return {way: tuple(made[charge.key] for charge in each) for way, each in charges.items()}

    def _with_costs(self, app: str, now: datetime) -> Report:
        """The report with calls as the settings have them; they may change what a source asks for."""
        shapes = [replace(shape, calls=self._cost(app, shape, now).calls) for shape in self._report.shapes]
        return replace(self._report, shapes=tuple(shapes))

    def _cost(self, app: str, shape: Shape, now: datetime) -> Cost:
        """What a task of this app costs that is asked in this way."""
        end = now.date() - timedelta(1)
        start = end - timedelta(shape.min_days - 1)
        return self._cost_of(TaskSpec("app_data", self._username, self._source, app, start, end, self._report.name))


def _check_days(start: date, end: date, yesterday: date) -> None:
    if start > end:
        raise UsageError(f"start_date must not be after end_date (got {start} and {end})")
    if start > yesterday:
        raise UsageError(f"start_date must not be after {yesterday}, yesterday in UTC (got {start})")
    days = (end - start).days + 1
    if days > MOST_DAYS:
        raise UsageError(f"start_date to end_date must be at most {MOST_DAYS} days (got {start} to {end}, {days} days)")


def _names(apps: Sequence[str]) -> str:
    shown = ", ".join(apps[:5])
    return shown if len(apps) <= 5 else f"{shown} and {len(apps) - 5} other apps"
