"""What a node and its worker process say to each other: objects that are pickled over one connection.

The node sends a `WorkerSetup`, then a `BodyRequest` for each run, and answers `Notice.CALL_WANTED` with True, False or
CallRefused. The worker sends notices and log records while the body runs, and its outcome at the end, each as `Said`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from logging import LogRecord

from crawlfleet.executors.contract import TaskContext
from crawlfleet.model.ending import Outcome


@dataclass(frozen=True)
class WorkerSetup:
    """The first message: the executor modules to import, and the level of each logger by its name."""

    modules: Sequence[str]
    log_levels: Mapping[str, int]


@dataclass(frozen=True)
class BodyRequest:
    """Run the body of the executor of this name; `number` counts the runs of a worker."""

    number: int
    executor: str
    context: TaskContext


class Notice(Enum):
    """What a worker tells about the body that it runs."""

    BODY_BEGAN = auto()
    CALL_WANTED = auto()  # the body waits until the node allows or refuses a call to its source
    CALL_ANSWERED = auto()


@dataclass(frozen=True)
class SpooledOutcome:
    """An outcome whose rows are in a spool. The descriptor of the spool's file follows on the connection."""

    outcome: Outcome
    row_count: int


@dataclass(frozen=True)
class Said:
    """What a worker says, from which process and in which run.

    Every process that a body forks inherits the connection, and a thread that a body leaves behind outlives its run.
    Neither speaks for the run that the node waits for.
    """

    process: int
    number: int
    content: Outcome | SpooledOutcome | Notice | LogRecord
