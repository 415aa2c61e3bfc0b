"""How the work of a node goes: what came of its runs, and how long turns and bodies take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from crawlfleet.core.durations import Durations
from crawlfleet.core.endings import EndingKind
from crawlfleet.engines.contract import Run
from crawlfleet.model.gate import Ended
from crawlfleet.model.lifecycle import ENDINGS
from crawlfleet.services.pace import Pace
from crawlfleet.services.vital_signs import WorkReport

STALE = "stale results rejected"


class WorkStats:
    """Counts since the start. The scheduler's thread counts; any thread may read.

    `counters` has the moves of runs that ended, `errors` and STALE; `errors` those with an error, by its kind. `pace`
    is how long turns and bodies take of late.
    """

    def __init__(self, task_types: Iterable[str]) -> None:
        self.counters: Counter[str] = Counter()
        self.errors: Counter[EndingKind] = Counter()
        self.turn_durations = Durations()
        self.body_durations = {name: Durations() for name in sorted(task_types)}
        self.pace = Pace()

    def note_turn(self, seconds: float) -> None:
        """A turn took so long."""
        self.pace.note_turn(seconds)
        self.turn_durations.observe(seconds)

    def note_body(self, run: Run) -> None:
        """The body of this run ended."""
        if run.began_at is not None and run.ended_at is not None:
            seconds = run.ended_at - run.began_at
            self.pace.note_body(seconds)
            self.body_durations[run.task.task_type].observe(seconds)

    def note_end(self, ended: Ended) -> None:
        """An ending is committed."""
        self.counters[ended.move or "finish"] += 1
        if ENDINGS[ended.ending.kind].counts_as_error:
            self.counters["errors"] += 1
            self.errors[ended.ending.kind] += 1

    def note_stale(self) -> None:
        """A result was rejected: its run is no longer ours."""
        self.counters[STALE] += 1

    def report(self, bodies: int) -> WorkReport:
        """What a beat tells of the work, while so many bodies run."""
        return WorkReport(bodies, dict(self.counters), self._performance())

    def _performance(self) -> dict[str, Any]:
        """Usual times of late, success rate and errors since the start."""
        counted = dict(self.counters)
        ended = sum(counted.get(move, 0) for move in ("finish", "fail", "bury"))
        body = self.pace.body
        return {
            "turn_seconds": round(self.pace.turn, 4),
            "body_seconds": None if body is None else round(body, 4),
            "success_rate": round(counted.get("finish", 0) / ended, 4) if ended else None,
            "errors_by_kind": dict(self.errors),
        }
