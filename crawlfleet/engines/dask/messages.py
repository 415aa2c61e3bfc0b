"""What a node and the workers of a Dask cluster tell each other about one run.

From a worker to the node a message travels as an event of the node's Dask client: a mapping of plain values. From the
node to a worker it is the argument of a function that runs there, so it is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from crawlfleet.core.errors import CallRefused
from crawlfleet.executors.contract import TaskContext

EVENT = "crawlfleet"  # the key that marks our events among Dask's own


@dataclass(frozen=True)
class RunRequest:
    """A body to run, and how to reach its node: `topic` is the id of its Dask client. `version` is the node's."""

    topic: str
    executor: str
    context: TaskContext
    modules: Sequence[str]
    levels: Mapping[str, int]
    version: str


@dataclass(frozen=True)
class SealedRequest:
    """A pickled `RunRequest`. It may hold a token, and Dask prints the arguments of its tasks: this prints nothing."""

    content: bytes

    def __repr__(self) -> str:
        return "SealedRequest(...)"


@dataclass(frozen=True)
class Leave:
    """The node's answer to `AskLeave`: whether the call may be sent, until a moment of the worker's monotonic clock."""

    allowed: bool | CallRefused
    until: float


# -- from a worker to the node


@dataclass(frozen=True)
class AskBegin:
    """A worker has a free thread for the body; it waits for a yes or a no."""

    worker: str


@dataclass(frozen=True)
class AskLeave:
    """The body is about to call its source; it waits for a `Leave`. `asked_at` is of the worker's monotonic clock."""

    asked_at: float
    heard_at: float = 0.0  # of the node's; set when it is heard


@dataclass(frozen=True)
class LeaveUnused:
    """Leave came too late, and the call was not sent; the body waits until it is given back."""


@dataclass(frozen=True)
class CallAnswered:
    """The source has answered the body's last call."""


@dataclass(frozen=True)
class LogLine:
    """A line that the body logged."""

    worker: str
    name: str
    level: int
    text: str
    is_note: bool


@dataclass(frozen=True)
class RowsReady:
    """So many rows, in a file of so many bytes, wait to be fetched."""

    rows: int
    size: int


FromWorker = AskBegin | AskLeave | LeaveUnused | CallAnswered | LogLine | RowsReady
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(FromWorker)}


def as_event(message: FromWorker, key: str) -> dict[str, Any]:
    """The message as a Dask event about the Dask task of this key."""
    return {EVENT: type(message).__name__, "key": key, "values": asdict(message)}


def from_event(event: object) -> tuple[str, FromWorker] | None:
    """The key and the message of a Dask event; None for an event that is none of ours."""
    if not isinstance(event, dict) or event.get(EVENT) not in _KINDS:
        return None
    message: FromWorker = _KINDS[event[EVENT]](**event["values"])
    return event["key"], message


# -- of the node to itself


@dataclass(frozen=True)
class Interrupt:
    """The run is to end."""


@dataclass(frozen=True)
class WorkerLost:
    """The worker of the body is gone."""


@dataclass(frozen=True)
class SchedulerLost:
    """The Dask scheduler is gone, or has forgotten the task."""


@dataclass(frozen=True)
class TaskEnded:
    """The Dask task has ended: with the text of an `Outcome`, with None when it must not begin, or with an error."""

    result: bytes | None = None
    error: BaseException | None = None


Message = FromWorker | Interrupt | WorkerLost | SchedulerLost | TaskEnded
