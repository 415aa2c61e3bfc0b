"""The state machine, written once: the states, and every legal move of a task and its assignment.

Data without SQL. The guards of the statements, the tests and the diagram in ARCHITECTURE.md are made from `MOVES`;
a state's quoted spelling appears here and in the schema only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    PARKED = "parked"  # a person parked it


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
    "reject": Move((_T.PENDING,), _T.FAILED, why="no device seen lately knows its type"),
    "revive": Move((_T.FAILED, _T.CANCELLED), _T.PENDING, why="a person retries"),
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
