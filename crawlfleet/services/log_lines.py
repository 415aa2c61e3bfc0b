"""The wording of what the scheduler logs, and of a node's start, in one place, so that it is tested like code.

Each line goes to the logger of the service that it is about; scripts know the lines of a start by logger, wording and
order.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import cause_of
from crawlfleet.engines.contract import Run
from crawlfleet.model.gate import Ended
from crawlfleet.model.task_spec import Task

QUIET_LINES = 20  # more tasks or endings than this in one turn are told in one line, or in none

TOLD_ONCE = (EndingKind.RELEASED, EndingKind.AUTH, EndingKind.TOKEN)  # by other lines, for many runs

_scheduler = logging.getLogger("crawlfleet.services.task_scheduler")
_manager = logging.getLogger("crawlfleet.services.device_manager")
_dispatcher = logging.getLogger("crawlfleet.services.dispatcher")


def node_initialized(mode: str, strategy: str | None) -> None:
    """All services of a node are made; a master has a strategy."""
    _scheduler.info("TaskScheduler initialized in %s mode", mode)
    _manager.info("DeviceManager initialized")
    if strategy is not None:
        _dispatcher.info("Load balance strategy: %s", strategy)


def device_manager_started() -> None:
    """The device is registered (`model.device` tells that), and it beats."""
    _manager.info("DeviceManager started")


def task_scheduler_started(mode: str) -> None:
    """Tasks are claimed from now on."""
    _scheduler.info("TaskScheduler started in %s mode", mode)


def stopping(grace_seconds: float, bodies: int) -> None:
    """Nothing is claimed any more."""
    _scheduler.info("TaskScheduler stopping: no new tasks, up to %g s for %d running ones", grace_seconds, bodies)


def stopped(left: int) -> None:
    """The scheduler has ended; so many runs could not be handed back."""
    if left:
        _scheduler.warning("%d runs were not handed back: they are rescued when this device registers again", left)
    _scheduler.info("TaskScheduler stopped")


def database_away(error: Exception) -> None:
    """The first turn that did not reach the database."""
    _scheduler.warning("database away, waiting for it: %s", error)


def database_back(seconds: float) -> None:
    """The first turn that did, after so long."""
    _scheduler.info("database back after %.1f s", seconds)


def turn_refused(cause: str) -> None:
    """The database refused a transaction with several endings."""
    _scheduler.error("turn refused by the database, ending runs one by one: %s", cause)


def result_waits(run: Run, error: Exception) -> None:
    """The database has trouble with one result."""
    _scheduler.warning(
        "a result waits, the database does not take it now: task=%d assignment=%d: %s",
        run.task.id,
        run.assignment_id,
        cause_of(error),
    )


def executing(runs: Sequence[Run]) -> None:
    """These runs are about to be handed to an engine; nothing when they are many."""
    if len(runs) <= QUIET_LINES:
        for run in runs:
            _scheduler.info("Executing task %d of type %s%s", run.task.id, run.task.task_type, _of(run.task))


def _of(task: Task) -> str:
    """Whose work it is, for which app and days, as far as the task has such."""
    days = dict.fromkeys(str(day) for day in (task.start_date, task.end_date) if day is not None)
    facts = {"source": task.source, "username": task.username, "app_id": task.app_id, "days": "..".join(days)}
    return "".join(f" {name}={value}" for name, value in facts.items() if value)


def slot_kept(run: Run) -> None:
    """The run timed out or is not wanted, and its body cannot be ended."""
    _scheduler.warning(
        "a body keeps its slot until it ends by itself: task=%d assignment=%d", run.task.id, run.assignment_id
    )


def loop_held(run: Run | None, seconds: float) -> None:
    """A body does not give way on the event loop; `run` when it is known which."""
    which = "" if run is None else f": type={run.task.task_type} task={run.task.id} assignment={run.assignment_id}"
    _scheduler.warning(
        "a body has blocked the event loop for %.0f s (an async body must await), no task begins until it gives way%s",
        seconds,
        which,
    )


def loop_free() -> None:
    """It gave way at last."""
    _scheduler.info("the event loop goes on")


def token_missing(device_id: str, account: tuple[str, str], reason: str) -> None:
    """A run ended since this node cannot have the token of its account."""
    _scheduler.warning(
        "token missing: device=%s source=%s username=%s takes none of its tasks until it is there: %s",
        device_id,
        *account,
        reason,
    )


def token_found(device_id: str, account: tuple[str, str]) -> None:
    """The token is there by now."""
    _scheduler.info("token no longer missing: device=%s source=%s username=%s", device_id, *account)


def run_abandoned(run: Run, error: Exception) -> None:
    """Not even the failure of a run can be written."""
    _scheduler.error(
        "run cannot be ended, it goes back: task=%d assignment=%d error=%s: %s",
        run.task.id,
        run.assignment_id,
        type(error).__name__,
        str(error)[:300],
    )


def result_rejected(run: Run) -> None:
    """A result came too late."""
    _scheduler.warning("stale result rejected: task=%d assignment=%d", run.task.id, run.assignment_id)


def run_dropped(run: Run) -> None:
    """A run is no longer ours."""
    _scheduler.warning("run cancelled or lost: task=%d assignment=%d", run.task.id, run.assignment_id)


def strays_released(count: int) -> None:
    """Runs went back that the database had for ours and that are not in memory."""
    _scheduler.warning("released %d claims whose reply was lost", count)


def lease_lost(device_id: str, epoch: int, runs: int) -> None:
    """This process no longer is its device."""
    _scheduler.warning("lease lost: device=%s epoch=%d runs=%d", device_id, epoch, runs)


def runs_ended(ended: Sequence[Ended]) -> None:
    """What came of the endings of one turn, in one line, when they are many."""
    if len(ended) > QUIET_LINES:
        kinds = Counter(each.move or str(each.verdict) for each in ended)
        counts = " ".join(f"{kind}={count}" for kind, count in sorted(kinds.items()))
        _scheduler.info("Ended %d runs: %s", len(ended), counts)


def run_ended(run: Run, ended: Ended, seconds: float, is_one_of: int) -> None:
    """What came of one run, whose body ran so long; one of many: only what a person should look at."""
    ending, task, quiet = ended.ending, run.task, is_one_of > QUIET_LINES
    if ended.parked:
        _scheduler.warning(
            "account parked until a person resumes it: source=%s username=%s task=%d reason=%s",
            task.source,
            task.username,
            task.id,
            ending.message,
        )
    if ended.move == "finish":
        if not quiet:
            rows = f" rows={len(ending.outcome.rows)}" if ending.outcome.replaces is not None else ""
            _scheduler.info("Task %d completed successfully in %.2fs%s%s", task.id, seconds, _of(task), rows)
    elif ended.move in {"fail", "bury"}:
        _scheduler.error(
            "Task %d failed: kind=%s assignment=%d%s seconds=%.2f reason=%s",
            task.id,
            ending.kind,
            run.assignment_id,
            _of(task),
            seconds,
            ending.message,
        )
    elif ended.move is not None and not quiet and ending.kind not in TOLD_ONCE:
        # in the zone of the log's own times, and with its name, since those have none
        again = None if ended.next_run_at is None else ended.next_run_at.astimezone().isoformat(timespec="seconds")
        when = "" if again is None else f" again_at={again}"
        _scheduler.warning(
            "Task %d waits: kind=%s assignment=%d%s%s seconds=%.2f reason=%s",
            task.id,
            ending.kind,
            run.assignment_id,
            when,
            _of(task),
            seconds,
            ending.message,
        )
