"""What is measured: each function takes a contestant on a fresh store, and is the same for crawlfleet and its peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.frame import Size
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.stamps import Stamp, read_stamps

ENQUEUE, DRAIN, CPU = "enqueue, tasks/s", "drain, tasks/s", "CPU, s of 1,000 tasks"
DRAIN_CONCURRENCY = 5
IO_CONCURRENCIES = (5, 50, 500)
IO_SECONDS = (0.01, 0.1)
IO_AT_BEST_SECONDS = 3  # what the tasks take at least, unless so many would be too many
WINDOW_SECONDS = 10  # who is slower is measured no longer


def drain(contestant: Contestant, tasks: int) -> dict[str, float]:
    """Tasks that do nothing: how fast they are queued, then worked off."""
    enqueued = contestant.enqueue(tasks)
    with contestant.worker(DRAIN_CONCURRENCY) as worker:
        cpu = worker.watch(contestant.stamps, tasks)
        seconds = contestant.drain_seconds()
    return {ENQUEUE: tasks / enqueued, DRAIN: tasks / seconds, CPU: cpu / tasks * 1000}


def io(contestant: Contestant, most_tasks: int, concurrency: int, seconds: float) -> dict[str, float]:
    """Tasks that wait: how many end in a second, from the beginning of the first one."""
    tasks = min(most_tasks, round(IO_AT_BEST_SECONDS * concurrency / seconds))
    contestant.enqueue(tasks, seconds)
    with contestant.worker(concurrency) as worker:
        worker.watch(contestant.stamps, 2 * tasks, WINDOW_SECONDS)
    return {io_figure(concurrency, seconds): rate(read_stamps(contestant.stamps), tasks)}


def io_figure(concurrency: int, seconds: float) -> str:
    return f"{concurrency} x {seconds * 1000:.0f} ms, tasks/s"


def rate(stamps: Sequence[Stamp], tasks: int) -> float:
    """How many of these tasks, which wait, ended in a second: until the last one, or in the window."""
    began = min(each.moment for each in stamps)
    ends = [each.moment for each in stamps if each.ended and each.moment - began <= WINDOW_SECONDS]
    return len(ends) / (max(ends) - began if len(ends) == tasks else WINDOW_SECONDS)


@dataclass(frozen=True)
class Scenario:
    """`cases` measure one after another, each on a fresh store, and give figures by name, the unit part of the name.

    A size's count is tasks, in `io` the most of a case. Crawlfleet is `compared` with each peer by that figure,
    if any.
    """

    title: str
    cases: tuple[Callable[[Contestant, int], dict[str, float]], ...]
    sizes: Mapping[str, Size]
    compared: str | None = None


SCENARIOS = {
    "drain": Scenario(
        f"tasks that do nothing, {DRAIN_CONCURRENCY} at once",
        (drain,),
        {"tiny": Size(50, 1), "small": Size(5_000, 1), "full": Size(5_000, 3)},
        DRAIN,
    ),
    "io": Scenario(
        "tasks that wait, so many at once for so long",
        tuple(
            partial(io, concurrency=concurrency, seconds=seconds)
            for seconds in IO_SECONDS
            for concurrency in IO_CONCURRENCIES
        ),
        {"tiny": Size(50, 1), "small": Size(10_000, 1), "full": Size(10_000, 3)},
        io_figure(IO_CONCURRENCIES[-1], IO_SECONDS[0]),
    ),
}
