"""What is measured: each function takes a contestant on a fresh store, and is the same for crawlfleet and its peers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import quantiles
from typing import Literal

from benchmarks.frame import Size
from benchmarks.peers.contestants import PATIENCE_SECONDS, Contestant
from benchmarks.peers.stamps import Stamp, read_stamps

ENQUEUE, DRAIN, CPU = "enqueue, tasks/s", "drain, tasks/s", "CPU, s of 1,000 tasks"
CONCURRENCY = 5
SETTLE_SECONDS = 2.0  # after its start a worker is busy for a moment
IDLE_SECONDS = 10
CRASH_SECONDS = 0.05  # of each task
CRASH_BOUND_SECONDS = 60  # who has not run by then is said never to run
IO_CONCURRENCIES = (5, 50, 500)
IO_SECONDS = (0.01, 0.1)
IO_AT_BEST_SECONDS = 3  # what the tasks take at least, unless so many would be too many
FAR_CONCURRENCIES = (5, 50)
ROUND_TRIP_SECONDS = 0.1
WINDOW_SECONDS = 10  # who is slower is measured no longer


def drain(contestant: Contestant, tasks: int) -> dict[str, float]:
    """Tasks that do nothing: how fast they are queued, then worked off."""
    enqueued = contestant.enqueue(tasks)
    with contestant.worker(CONCURRENCY) as worker:
        cpu = worker.watch(contestant.stamps, tasks)
        seconds = contestant.drain_seconds()
    return {ENQUEUE: tasks / enqueued, DRAIN: tasks / seconds, CPU: cpu / tasks * 1000}


def latency(contestant: Contestant, tasks: int) -> dict[str, float]:
    """A worker with nothing to do: what it takes, and from the call that queues a task to the beginning of its body."""
    contestant.enqueue(1)  # makes tables, and tells when the worker is ready
    with contestant.worker(CONCURRENCY) as worker:
        worker.watch(contestant.stamps, 1)
        time.sleep(SETTLE_SECONDS)
        began, before = time.monotonic(), worker.cpu_seconds()
        time.sleep(min(tasks, IDLE_SECONDS))
        idle = (worker.cpu_seconds() - before) / (time.monotonic() - began)
        memory = worker.memory_mb()
        asked = contestant.enqueue_apart(1 + tasks)
        worker.watch(contestant.stamps, 1 + 2 * len(asked))
    begun = {each.number: each.moment for each in read_stamps(contestant.stamps) if not each.ended}
    waits = [begun[number] - asked[number] for number in range(1, 1 + tasks)]  # the first one opens connections
    cuts = quantiles(waits, n=20, method="inclusive")
    return {
        "half within, ms": cuts[9] * 1000,
        "95 % within, ms": cuts[18] * 1000,
        "idle CPU, % of a core": idle * 100,
        "idle memory, MB": memory,
    }


def crash(contestant: Contestant, tasks: int) -> dict[str, float]:
    """`kill -9` when half of the tasks have ended, and a start at once.

    The figure of seconds is missing where a task never ran within the bound.
    """
    contestant.enqueue(tasks, CRASH_SECONDS)
    with contestant.worker(CONCURRENCY) as worker:
        worker.stays_until(lambda: len(first_ends(read_stamps(contestant.stamps))) >= tasks // 2, PATIENCE_SECONDS)
        killed = time.time()
        worker.kill()
    left = tasks - len(first_ends(read_stamps(contestant.stamps)))
    with contestant.worker(CONCURRENCY) as worker:
        worker.stays_until(lambda: len(first_ends(read_stamps(contestant.stamps))) == tasks, CRASH_BOUND_SECONDS)
        time.sleep(SETTLE_SECONDS)  # for what runs twice
    return recovery(read_stamps(contestant.stamps), tasks, killed, left * CRASH_SECONDS / CONCURRENCY)


def first_ends(stamps: Sequence[Stamp]) -> dict[int, float]:
    """When each task that has run to its end did so for the first time, by its number."""
    return {each.number: each.moment for each in sorted(stamps, reverse=True) if each.ended}


def recovery(stamps: Sequence[Stamp], tasks: int, killed: float, work_seconds: float) -> dict[str, float]:
    """What a crash cost: time beyond the work that was left; tasks that ran to their end never, and more than once."""
    ended = first_ends(stamps)
    never = tasks - len(ended)
    figures = {} if never else {"all ran, s beyond the work": max(ended.values()) - killed - work_seconds}
    repeated = Counter(each.number for each in stamps if each.ended)
    return {**figures, "never ran, tasks": never, "ran twice, tasks": sum(times > 1 for times in repeated.values())}


def io(contestant: Contestant, most_tasks: int, concurrency: int, seconds: float) -> dict[str, float]:
    """Tasks that wait: how many end in a second, from the beginning of the first one."""
    tasks = min(most_tasks, round(IO_AT_BEST_SECONDS * concurrency / seconds))
    contestant.enqueue(tasks, seconds)
    with contestant.worker(concurrency) as worker:
        worker.watch(contestant.stamps, 2 * tasks, WINDOW_SECONDS)
    stamps = read_stamps(contestant.stamps)
    began = min(each.moment for each in stamps)
    return {io_figure(concurrency, seconds): rate([each.moment for each in stamps if each.ended], tasks, began)}


def io_figure(concurrency: int, seconds: float) -> str:
    return f"{concurrency} x {seconds * 1000:.0f} ms, tasks/s"


def rate(moments: Sequence[float], tasks: int, began: float | None = None) -> float:
    """How many of these moments are in a second: until the last one of so many tasks, or in the window."""
    first = min(moments) if began is None else began
    within = [each for each in moments if each - first <= WINDOW_SECONDS]
    return len(within) / (max(within) - first if len(within) == tasks else WINDOW_SECONDS)


def far(contestant: Contestant, tasks: int, concurrency: int) -> dict[str, float]:
    """Tasks that do nothing, queued from nearby, the worker far from its store: how many begin in a second."""
    contestant.enqueue(tasks)
    with contestant.worker(concurrency, ROUND_TRIP_SECONDS) as worker:
        worker.watch(contestant.stamps, tasks, WINDOW_SECONDS)
    return {far_figure(concurrency): rate([each.moment for each in read_stamps(contestant.stamps)], tasks)}


def far_figure(concurrency: int) -> str:
    return f"{concurrency} at once, tasks/s"


@dataclass(frozen=True)
class Scenario:
    """`cases` measure one after another, each on a fresh store, and give figures by name, the unit part of the name.

    A size's count is tasks, in `io` the most of a case. Crawlfleet is `compared` with each peer by that figure, if any;
    what the table tells of each peer is in that `column`. One that `needs_server` measures nothing on a file.
    """

    title: str
    cases: tuple[Callable[[Contestant, int], dict[str, float]], ...]
    sizes: Mapping[str, Size]
    compared: str | None = None
    column: Literal["keeps", "learns"] = "keeps"
    needs_server: bool = False


SCENARIOS = {
    "drain": Scenario(
        f"tasks that do nothing, {CONCURRENCY} at once",
        (drain,),
        {"tiny": Size(50, 1), "small": Size(5_000, 1), "full": Size(5_000, 3)},
        DRAIN,
    ),
    "latency": Scenario(
        "tasks that come one at a time",
        (latency,),
        {"tiny": Size(3, 1), "small": Size(50, 1), "full": Size(100, 3)},
        column="learns",
    ),
    "crash": Scenario(
        f"tasks of {CRASH_SECONDS * 1000:.0f} ms, {CONCURRENCY} at once, the worker killed halfway",
        (crash,),
        {"tiny": Size(20, 1), "small": Size(200, 1), "full": Size(200, 3)},
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
    "far": Scenario(
        f"tasks that do nothing, the store {ROUND_TRIP_SECONDS * 1000:.0f} ms away",
        tuple(partial(far, concurrency=concurrency) for concurrency in FAR_CONCURRENCIES),
        {"tiny": Size(50, 1), "small": Size(10_000, 1), "full": Size(10_000, 3)},
        far_figure(FAR_CONCURRENCIES[0]),
        needs_server=True,
    ),
}
