"""The state machine, written once: the states, every legal move, and which ending of a run leads to which move.

Data without SQL. The guards of the statements, the tests and the diagram in ARCHITECTURE.md are made from `MOVES`;
the gate, the tests and the table of kinds in docs/tables.md from `ENDINGS`. A state's quoted spelling appears here
and in the schema only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from crawlfleet.core.endings import EndingKind


class TaskStatus(StrEnum):
    PENDING = "pending"
    ASSIGNED = "assigned"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AssignmentStatus(StrEnum):
    ASSIGNED = "assigned"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    RELEASED = "released"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class DeviceStatus(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"


class AccountStatus(StrEnum):
    """Only what a person or a refusal decides; whether it is out of quota is asked of its budgets."""

    HEALTHY = "healthy"
    TOKEN_EXPIRED = "token_expired"  # the vendor refused it: waits for a person
    PARKED = "parked"  # a person parked it, or most of its apps vanished


class TaskEvent(StrEnum):
    """What people did to tasks, as `cl_task_event` notes it."""

    CANCELLED = "cancelled"
    REVIVED = "revived"
    MADE_DUE = "made_due"


LIVE = (TaskStatus.ASSIGNED, TaskStatus.RUNNING)
OPEN = (TaskStatus.PENDING, *LIVE)
ENDED = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)
LIVE_RUN = (AssignmentStatus.ASSIGNED, AssignmentStatus.RUNNING)


@dataclass(frozen=True)
class Move:
    """From which states to which state; no assignment states where no run is touched."""

    task_from: tuple[TaskStatus, ...]
    task_to: TaskStatus
    run_from: tuple[AssignmentStatus, ...] = ()
    run_to: AssignmentStatus | None = None
    why: str = ""


_T, _A = TaskStatus, AssignmentStatus

MOVES: dict[str, Move] = {
    "claim": Move((_T.PENDING,), _T.ASSIGNED, (), _A.ASSIGNED, "a device takes a due task"),
    "start": Move((_T.ASSIGNED,), _T.RUNNING, (_A.ASSIGNED,), _A.RUNNING, "the body began; written with the next turn"),
    "finish": Move(LIVE, _T.COMPLETED, LIVE_RUN, _A.COMPLETED, "the body returned"),
    "fail": Move(LIVE, _T.FAILED, LIVE_RUN, _A.FAILED, "a permanent error, or all attempts are spent"),
    "retry": Move(LIVE, _T.PENDING, LIVE_RUN, _A.FAILED, "a transient error with attempts left"),
    "release": Move(LIVE, _T.PENDING, LIVE_RUN, _A.RELEASED, "stop, quota or parked account: costs no attempt"),
    "expire": Move(LIVE, _T.PENDING, LIVE_RUN, _A.EXPIRED, "the device is gone, or its worker process died"),
    "bury": Move(LIVE, _T.FAILED, LIVE_RUN, _A.EXPIRED, "expired while running once too often: it kills its runner"),
    "cancel": Move(OPEN, _T.CANCELLED, LIVE_RUN, _A.CANCELLED, "a person cancels"),
    "revive": Move((_T.FAILED, _T.CANCELLED), _T.PENDING, why="a person retries"),
}


class Cost(StrEnum):
    """What an ending takes from its task; when all is spent, the task fails."""

    ATTEMPT = "attempt"  # of the task's max_retry_count + 1
    CRASH = "crash"  # of the crashes that a task may cause; only a run whose body had begun costs one


class WaitsFor(StrEnum):
    """What must happen before a task that goes back to the queue runs again."""

    RETRY = "retry"  # a delay that grows with each loss
    BUDGET = "budget"  # the budgets of its lane hold it back
    PERSON = "person"  # its account is parked until a person resumes it
    DEVICE = "device"  # one that has the account's token
    PAUSE = "pause"  # the seconds that the ending names


@dataclass(frozen=True)
class EndingRule:
    """What one kind of ending does.

    `move` is a move of `MOVES`; `when_spent` the one made instead when the task has no `cost` left. `waits_for` is None
    when the task is over or ready again at once; `pause_seconds` is how long it pauses when the ending names no time.
    `may_be_raised`: a body may end so by an exception. `counts_as_error`: the node counts it among its errors.
    `own_ends` are how an assignment reads after this device itself ended it so: the ending was written before.
    `written_as` is the kind that the gate is told instead.
    """

    move: str
    why: str
    when_spent: str | None = None
    cost: Cost | None = None
    waits_for: WaitsFor | None = None
    pause_seconds: float = 0.0
    may_be_raised: bool = False
    counts_as_error: bool = False
    own_ends: tuple[AssignmentStatus, ...] = ()
    written_as: EndingKind | None = None


_raised = partial(EndingRule, may_be_raised=True, counts_as_error=True)

# No `own_ends` where somebody else may have ended the run in the same way: `expired`, which any device may write.
ENDINGS: dict[EndingKind, EndingRule] = {
    EndingKind.OK: EndingRule(
        "finish",
        "The body returned. The task fails if the database refuses its result.",
        own_ends=(_A.COMPLETED, _A.FAILED),
    ),
    EndingKind.PERMANENT: _raised("fail", "No retry will help.", cost=Cost.ATTEMPT, own_ends=(_A.FAILED,)),
    EndingKind.TRANSIENT: _raised(
        "retry",
        "It may pass. So count errors that nobody foresaw, and bodies that ran longer than their execution_timeout.",
        when_spent="fail",
        cost=Cost.ATTEMPT,
        waits_for=WaitsFor.RETRY,
        own_ends=(_A.FAILED,),
    ),
    EndingKind.QUOTA: _raised(
        "release",
        "The vendor's quota is used up. The budget closes.",
        waits_for=WaitsFor.BUDGET,
        pause_seconds=60.0,
        own_ends=(_A.RELEASED,),
    ),
    EndingKind.AUTH: _raised(
        "release",
        "The vendor refuses the token. The account is parked; a task without an account fails.",
        waits_for=WaitsFor.PERSON,
        own_ends=(_A.RELEASED,),
    ),
    EndingKind.UNPAID: _raised(
        "release",
        "The run held too few calls of its budgets. A task that needs more than they ever allow fails.",
        waits_for=WaitsFor.BUDGET,
        own_ends=(_A.RELEASED, _A.FAILED),
    ),
    EndingKind.WAIT: _raised(
        "release",
        "This node, or its way to the vendor, is at fault.",
        waits_for=WaitsFor.PAUSE,
        own_ends=(_A.RELEASED,),
    ),
    EndingKind.TOKEN: _raised(
        "release",
        "This node cannot have the account's token, and takes no more of its tasks. Another node may at once.",
        waits_for=WaitsFor.DEVICE,
        own_ends=(_A.RELEASED,),
    ),
    EndingKind.PROXY: _raised(
        "release",
        "The proxy failed before the vendor saw anything.",
        waits_for=WaitsFor.PAUSE,
        own_ends=(_A.RELEASED,),
    ),
    EndingKind.CRASHED: EndingRule(
        "expire",
        "The process that ran the body died.",
        when_spent="bury",
        cost=Cost.CRASH,
        waits_for=WaitsFor.RETRY,
        counts_as_error=True,
    ),
    EndingKind.EXPIRED: EndingRule(
        "expire", "The device is gone.", when_spent="bury", cost=Cost.CRASH, waits_for=WaitsFor.RETRY
    ),
    EndingKind.RELEASED: EndingRule(
        "release", "The node gives the run back: it stops, or another device has room.", own_ends=(_A.RELEASED,)
    ),
    EndingKind.CANCELLED: EndingRule(
        "retry",
        "The body says that it was cancelled, but nobody cancelled it. The run of a cancelled task writes nothing.",
        when_spent="fail",
        cost=Cost.ATTEMPT,
        waits_for=WaitsFor.RETRY,
        own_ends=(_A.FAILED,),
        written_as=EndingKind.TRANSIENT,
    ),
}


def quoted(states: tuple[StrEnum, ...]) -> str:
    """States as the inside of an SQL IN (...)."""
    return ", ".join(f"'{state.value}'" for state in states)


def task_guard(move: str, column: str = "status") -> str:
    """The SQL condition under which a task may make this move."""
    return f"{column} IN ({quoted(MOVES[move].task_from)})"


def run_guard(move: str, column: str = "status") -> str:
    """The SQL condition under which an assignment may make this move."""
    return f"{column} IN ({quoted(MOVES[move].run_from)})"


def diagram() -> str:
    """The moves of a task as a Mermaid state diagram, for ARCHITECTURE.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {TaskStatus.PENDING}: add"]
    for name, move in MOVES.items():
        lines += [f"    {origin} --> {move.task_to}: {name}" for origin in move.task_from]
    lines += [f"    {state} --> [*]" for state in ENDED]
    return "\n".join(lines)


def endings_table() -> str:
    """The kinds of endings as a Markdown table, for docs/tables.md."""
    lines = ["| Kind | Move | Costs | Waits for | A body may raise it | What it means |", "|---|---|---|---|---|---|"]
    for kind, rule in ENDINGS.items():
        if rule.written_as is not None:
            continue  # never stored
        spent = "" if rule.when_spent is None else f", at last `{rule.when_spent}`"
        raised = "yes" if rule.may_be_raised else ""
        costs, waits = (f"{name}" if name else "" for name in (rule.cost, rule.waits_for))
        lines.append(f"| `{kind}` | `{rule.move}`{spent} | {costs} | {waits} | {raised} | {rule.why} |")
    return "\n".join(lines)
