"""Engines by name: the built-in ones, then those that packages offer as entry points. `dask` is offered by this one.

An entry point of the group is a function from an `EngineRequest` to the `Engines` of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import NamedTuple

from crawlfleet.core.errors import UsageError
from crawlfleet.engines.contract import Engine, Reports, Slots
from crawlfleet.settings.definitions import ENGINE_GROUP


@dataclass(frozen=True)
class EngineRequest:
    """What a node asks of an engine.

    `threads` is how many bodies run at once in this process, `processes` how many worker processes there may be.
    `modules` are those with executors of the user's own, which other processes must import, too. `has_coroutines`: some
    bodies are `async def`. `address` is where a cluster is, for an engine that uses one.
    """

    slots: Slots
    reports: Reports
    threads: int
    processes: int
    modules: Sequence[str]
    has_coroutines: bool
    address: str | None = None


class Engines(NamedTuple):
    """Which engine runs bodies that are plain functions, and which those that are `async def`; it may be the same."""

    plain: Engine
    coroutines: Engine


def make_engines(name: str, request: EngineRequest) -> Engines:
    """The engines of this name.

    Raises UsageError that lists the known names, or that says why an entry point cannot be loaded.
    """
    factory = BUILT_IN.get(name)
    if factory is None:
        offered = {point.name: point for point in entry_points(group=ENGINE_GROUP)}
        if name not in offered:
            known = ", ".join(sorted({*BUILT_IN, *offered}))
            raise UsageError(f"unknown engine {name!r:.80}: known are {known}")
        try:
            factory = offered[name].load()
        except (ImportError, AttributeError) as error:
            raise UsageError(f"engine {name!r} ({offered[name].value}) cannot be loaded: {error}") from None
    return factory(request)


def _threads(request: EngineRequest) -> Engines:
    from crawlfleet.engines.threads import ThreadsEngine

    plain: Engine = ThreadsEngine(request.slots, request.reports, request.threads)
    if not request.has_coroutines:
        return Engines(plain, plain)
    from crawlfleet.engines.asyncio_loop import AsyncioEngine

    return Engines(plain, AsyncioEngine(request.slots, request.reports))


def _processes(request: EngineRequest) -> Engines:
    from crawlfleet.engines.processes import ProcessesEngine

    engine = ProcessesEngine(request.slots, request.reports, request.processes, request.modules)
    return Engines(engine, engine)


BUILT_IN: dict[str, Callable[[EngineRequest], Engines]] = {"threads": _threads, "processes": _processes}
