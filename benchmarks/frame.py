"""What a benchmark is, and how it is repeated: a function of a fresh place and a size, which gives figures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

from benchmarks.place import Place

SIZES = ("tiny", "small", "full")


@dataclass(frozen=True)
class Size:
    """`count` is what the benchmark's docstring calls its size: tasks, rows or seconds."""

    count: int
    repetitions: int


@dataclass(frozen=True)
class Benchmark:
    """`run(place, count)` measures once; its figures by name, the unit being part of the name.

    One that `needs_server` measures nothing on a file.
    """

    name: str
    run: Callable[[Place, int], dict[str, float]]
    sizes: Mapping[str, Size]
    needs_server: bool = False

    @property
    def says(self) -> str:
        """What it measures, and its caveats."""
        return inspect.cleandoc(self.run.__doc__ or "")


@dataclass(frozen=True)
class Measured:
    """One figure on one database: every repetition, in the order measured."""

    benchmark: str
    figure: str
    database: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)


def measure(
    benchmark: Benchmark, size: str, database: str, fresh: Callable[[], AbstractContextManager[Place]]
) -> Iterator[Measured]:
    """Run the benchmark as often as its size says, each time in a fresh place."""
    chosen = benchmark.sizes[size]
    runs = []
    for _ in range(chosen.repetitions):
        with fresh() as place:
            runs.append(benchmark.run(place, chosen.count))
    for figure in runs[0]:
        yield Measured(benchmark.name, figure, database, tuple(run[figure] for run in runs))
