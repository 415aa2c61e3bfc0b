"""Working off a queue of tasks that wait, as most real ones do."""

from __future__ import annotations

from benchmarks.drain import drain
from benchmarks.place import Place

BODIES = {"wait_10ms": 0.01, "wait_100ms": 0.1}  # seconds that each waits
SLOTS = (5, 50, 500)
LONGEST_SECONDS = 4  # of what the waiting alone takes: so few slots need fewer tasks


def drain_io(place: Place, tasks: int) -> dict[str, float]:
    """How fast one node drains coroutines that wait 10 or 100 ms, 5, 50 and 500 at once.

    Size: tasks at most; fewer where their waiting alone would take more than 4 s. `of the possible` is the share of
    what that waiting allows (slots / seconds of a body): all but the first and the last wave, as long as the node and
    its database have the CPU that `drain-5` tells. 500 at once of 10 ms would be 50,000/s, which they have not.
    """
    figures: dict[str, float] = {}
    for body, seconds in BODIES.items():
        for slots in SLOTS:
            possible = slots / seconds
            found = drain(place, min(tasks, round(possible * LONGEST_SECONDS)), body, slots)
            name = f"{slots} at once of {seconds * 1000:.0f} ms"
            figures[f"{name}: tasks/s"] = found["tasks/s"]
            figures[f"{name}: of the possible, %"] = found["tasks/s"] / possible * 100
            figures[f"{name}: CPU of the node, µs/task"] = found["CPU of the node, µs/task"]
    return figures
