"""A planned backfill: its calls, the tasks that make them, and what to tell about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from crawlfleet.model.budget import digest
from crawlfleet.model.task_spec import BELIEVE_EMPTY, TaskSpec
from crawlfleet.planning.call_plan import PlannedCall
from crawlfleet.planning.day_needs import Skip
from crawlfleet.planning.meters import Meter

PRIORITY = -10  # what is fetched every day goes first
EXPIRING_PRIORITY = -1  # days that the vendor is about to forget wait for little else


@dataclass(frozen=True)
class Backfill:
    """A plan. `finish_at` is when the budgets allow its last call, None without calls; `ids` those of queued tasks.

    `meters` are the budgets that matter to it; `skipped` counts the days of all apps that are not asked for.
    `believe_empty`: a day that had rows and has none now loses them.
    """

    source: str
    username: str
    report: str
    start: date
    end: date
    app_ids: Sequence[str]
    calls: Sequence[PlannedCall]
    meters: Sequence[tuple[Meter, int]]
    skipped: Mapping[Skip, int]
    notes: Sequence[str]
    ids: Sequence[int] = ()
    believe_empty: bool = False

    @property
    def finish_at(self) -> datetime | None:
        return max((call.at for call in self.calls), default=None)

    def specs(self, label: str | None = None) -> list[TaskSpec]:
        """The tasks, in the order in which they should run; planning them twice does not queue them twice."""
        return [
            TaskSpec(
                "app_data",
                self.username,
                self.source,
                call.app_id,
                call.start,
                call.end,
                self.report,
                priority=EXPIRING_PRIORITY if call.is_expiring else PRIORITY,
                run_at=call.run_at,
                task_data={BELIEVE_EMPTY: True} if self.believe_empty else None,
                unique_key=("believe:" if self.believe_empty else "backfill:")
                + digest(self.source, self.username, call.app_id, self.report, call.start, call.end),
                label=label,
            )
            for call in self.calls
        ]

    def queued(self, ids: Sequence[int]) -> Backfill:
        """The same after its tasks were queued."""
        return replace(self, ids=ids)

    def as_dict(self) -> dict[str, Any]:
        """As `tasks backfill --json` prints it: docs/commands.md."""
        tasks = [
            {
                "app_id": call.app_id,
                "start_date": call.start,
                "end_date": call.end,
                "run_at": call.run_at,
                "limits": list(call.shape.limits),
            }
            for call in self.calls
        ]
        return {
            "source": self.source,
            "username": self.username,
            "report": self.report,
            "start_date": self.start,
            "end_date": self.end,
            "apps": len(self.app_ids),
            "calls": sum(call.shape.calls for call in self.calls),
            "finish_at": self.finish_at,
            "tasks": tasks,
            "budgets": [_budget(meter, planned) for meter, planned in self.meters],
            "skipped": {str(reason): self.skipped[reason] for reason in Skip},
            "notes": list(self.notes),
            "ids": list(self.ids),
        }


def _budget(meter: Meter, planned: int) -> dict[str, Any]:
    charge = meter.charge
    names = {"username": charge.username, "app_id": charge.app_id, "report": charge.report}
    return {
        "limit": charge.limit_name,
        "scope": {name: value for name, value in names.items() if value},
        "calls_planned": planned,
        "calls_left": meter.left,
        "allowed": meter.allowed,
        "resets_at": meter.resets_at,
    }
