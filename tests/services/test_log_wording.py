"""The wording of the lines, by the module that holds it: each function's line, its level and its logger."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.vendor_data import ReportRange
from crawlfleet.engines.contract import Run
from crawlfleet.executors.contract import Executor, TaskContext
from crawlfleet.model.ending import Ending, Outcome
from crawlfleet.model.gate import Ended, FenceVerdict
from crawlfleet.model.task_spec import Task
from crawlfleet.services import log_lines

LATER = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
AGAIN = LATER.astimezone().isoformat()  # in the zone of the log
DAY = date(2026, 1, 30)


def run(**more: object) -> Run:
    task = Task(id=7, task_type="noop", source="vendor", username="alice", **more)  # type: ignore[arg-type]
    return Run(70, task, Executor("noop", lambda task, context: None), TaskContext(task))


def bare() -> Run:
    """A run of a task of nobody."""
    task = Task(id=8, task_type="noop")
    return Run(80, task, Executor("noop", lambda task, context: None), TaskContext(task))


def ended(move: str | None, kind: EndingKind, message: str | None = None, **more: object) -> Ended:
    ending = Ending(70, 7, Outcome(kind, message))
    return Ended(ending, FenceVerdict.WRITTEN, move, **more)  # type: ignore[arg-type]


OK = ended("finish", EndingKind.OK)
SCOPE = ReportRange("vendor", "alice", "com.a", "r", DAY, LATER.date())
STORED = Ended(Ending(70, 7, Outcome(rows=[1, 2, 3], replaces=SCOPE)), FenceVerdict.WRITTEN, "finish")
FAILED = ended("fail", EndingKind.PERMANENT, "no such app")
WAITS = ended("retry", EndingKind.TRANSIENT, "later", next_run_at=LATER)
READY = ended("release", EndingKind.WAIT, "no way")
RELEASED = ended("release", EndingKind.RELEASED, "the node stopped")
PARKED = ended("release", EndingKind.AUTH, "refused", parked=True)

LINES: list[tuple[Callable[[], None], list[str]]] = [
    (
        lambda: log_lines.node_initialized("master", "random"),
        [
            "INFO services.task_scheduler TaskScheduler initialized in master mode",
            "INFO services.device_manager DeviceManager initialized",
            "INFO services.dispatcher Load balance strategy: random",
        ],
    ),
    (log_lines.device_manager_started, ["INFO services.device_manager DeviceManager started"]),
    (
        lambda: log_lines.task_scheduler_started("worker"),
        ["INFO services.task_scheduler TaskScheduler started in worker mode"],
    ),
    (
        lambda: log_lines.stopping(30, 2),
        ["INFO services.task_scheduler TaskScheduler stopping: no new tasks, up to 30 s for 2 running ones"],
    ),
    (lambda: log_lines.stopped(0), ["INFO services.task_scheduler TaskScheduler stopped"]),
    (
        lambda: log_lines.stopped(3),
        [
            "WARNING services.task_scheduler 3 runs were not handed back: they are rescued when this device registers"
            " again",
            "INFO services.task_scheduler TaskScheduler stopped",
        ],
    ),
    (
        lambda: log_lines.database_away(OSError("no route")),
        ["WARNING services.task_scheduler database away, waiting for it: no route"],
    ),
    (
        lambda: log_lines.result_waits(run(), OSError("disk full")),
        [
            "WARNING services.task_scheduler a result waits, the database does not take it now: task=7 assignment=70:"
            " disk full"
        ],
    ),
    (lambda: log_lines.database_back(61.25), ["INFO services.task_scheduler database back after 61.2 s"]),
    (
        lambda: log_lines.turn_refused("too long"),
        ["ERROR services.task_scheduler turn refused by the database, ending runs one by one: too long"],
    ),
    (
        lambda: log_lines.executing([run(app_id="com.a", start_date=DAY, end_date=DAY), bare()]),
        [
            "INFO services.task_scheduler Executing task 7 of type noop source=vendor username=alice app_id=com.a"
            " days=2026-01-30",
            "INFO services.task_scheduler Executing task 8 of type noop",
        ],
    ),
    (lambda: log_lines.executing([run()] * 21), []),
    (
        lambda: log_lines.slot_kept(run()),
        ["WARNING services.task_scheduler a body keeps its slot until it ends by itself: task=7 assignment=70"],
    ),
    (
        lambda: log_lines.loop_held(run(), 5.2),
        [
            "WARNING services.task_scheduler a body has blocked the event loop for 5 s (an async body must await), no"
            " task begins until it gives way: type=noop task=7 assignment=70"
        ],
    ),
    (log_lines.loop_free, ["INFO services.task_scheduler the event loop goes on"]),
    (
        lambda: log_lines.run_abandoned(run(), ValueError("odd")),
        ["ERROR services.task_scheduler run cannot be ended, it goes back: task=7 assignment=70 error=ValueError: odd"],
    ),
    (
        lambda: log_lines.result_rejected(run()),
        ["WARNING services.task_scheduler stale result rejected: task=7 assignment=70"],
    ),
    (
        lambda: log_lines.run_abandoned(run(), OverflowError("date value out of range")),
        [
            "ERROR services.task_scheduler run cannot be ended, it goes back: task=7 assignment=70"
            " error=OverflowError: date value out of range"
        ],
    ),
    (
        lambda: log_lines.token_missing("d1", ("appsflyer", "acme"), "T is not set on this node"),
        [
            "WARNING services.task_scheduler token missing: device=d1 source=appsflyer username=acme takes none of its"
            " tasks until it is there: T is not set on this node"
        ],
    ),
    (
        lambda: log_lines.token_found("d1", ("appsflyer", "acme")),
        ["INFO services.task_scheduler token no longer missing: device=d1 source=appsflyer username=acme"],
    ),
    (
        lambda: log_lines.run_dropped(run()),
        ["WARNING services.task_scheduler run cancelled or lost: task=7 assignment=70"],
    ),
    (
        lambda: log_lines.strays_released(2),
        ["WARNING services.task_scheduler released 2 claims whose reply was lost"],
    ),
    (
        lambda: log_lines.lease_lost("d1", 4, 2),
        ["WARNING services.task_scheduler lease lost: device=d1 epoch=4 runs=2"],
    ),
    (lambda: log_lines.runs_ended([OK] * 20), []),
    (
        lambda: log_lines.runs_ended([OK] * 20 + [FAILED, Ended(OK.ending, FenceVerdict.STALE)]),
        ["INFO services.task_scheduler Ended 22 runs: fail=1 finish=20 stale=1"],
    ),
    (
        lambda: log_lines.run_ended(run(), OK, 1.234, 1),
        ["INFO services.task_scheduler Task 7 completed successfully in 1.23s source=vendor username=alice"],
    ),
    (
        lambda: log_lines.run_ended(run(app_id="com.a", start_date=DAY, end_date=LATER.date()), STORED, 61.0, 1),
        [
            "INFO services.task_scheduler Task 7 completed successfully in 61.00s source=vendor username=alice"
            " app_id=com.a days=2026-01-30..2026-01-31 rows=3"
        ],
    ),
    (lambda: log_lines.run_ended(run(), OK, 1.234, 21), []),
    (
        lambda: log_lines.run_ended(run(), FAILED, 0.5, 21),
        [
            "ERROR services.task_scheduler Task 7 failed: kind=permanent assignment=70 source=vendor username=alice"
            " seconds=0.50 reason=no such app"
        ],
    ),
    (
        lambda: log_lines.run_ended(run(), WAITS, 0.0, 1),
        [
            f"WARNING services.task_scheduler Task 7 waits: kind=transient assignment=70 again_at={AGAIN}"
            " source=vendor username=alice seconds=0.00 reason=later"
        ],
    ),
    (
        lambda: log_lines.run_ended(run(), READY, 0.0, 1),
        [
            "WARNING services.task_scheduler Task 7 waits: kind=wait assignment=70 source=vendor username=alice"
            " seconds=0.00 reason=no way"
        ],
    ),
    (lambda: log_lines.run_ended(run(), RELEASED, 0.0, 1), []),
    (
        lambda: log_lines.run_ended(run(), PARKED, 0.0, 21),
        [
            "WARNING services.task_scheduler account parked until a person resumes it: source=vendor username=alice"
            " task=7 reason=refused"
        ],
    ),
]


@pytest.mark.parametrize(("tell", "expected"), LINES)
def test_each_line_has_its_words_its_level_and_its_logger(
    tell: Callable[[], None], expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="crawlfleet")
    tell()
    found = [f"{each.levelname} {each.name.removeprefix('crawlfleet.')} {each.getMessage()}" for each in caplog.records]
    assert found == expected


def test_no_line_goes_untested() -> None:
    tested = {name for tell, _ in LINES for name in (*tell.__code__.co_names, tell.__name__)}
    functions = {
        name
        for name, value in vars(log_lines).items()
        if getattr(value, "__module__", "") == log_lines.__name__ and not name.startswith("_")
    }
    assert functions <= tested
