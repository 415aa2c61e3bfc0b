"""Whether one body holds up all others of an engine whose bodies share a thread: it blocks instead of awaiting."""

from __future__ import annotations

from crawlfleet.core.clock import Clock
from crawlfleet.engines.contract import Run, SharesThread
from crawlfleet.services import log_lines

LOOK_SECONDS = 1.0  # between two looks while bodies run
HELD_SECONDS = 5.0  # without an answer, after which what waits there goes back and nothing more is claimed


class LoopWatch:
    """Asked by the scheduler's thread at each of its looks. Without such an engine nothing is ever held."""

    def __init__(self, engine: SharesThread | None, clock: Clock) -> None:
        self.is_held = False
        self._engine = engine
        self._clock = clock
        self._silent_since: float | None = None

    @property
    def exists(self) -> bool:
        """Whether there is anything to look at."""
        return self._engine is not None

    @property
    def holder(self) -> Run | None:
        """The run whose body does not give way, None where the engine cannot tell."""
        return self._engine.holder() if self._engine is not None and self.is_held else None

    @property
    def obstacle(self) -> str | None:
        """What to say of it outside; any thread may ask."""
        if not self.is_held:
            return None
        seconds = self._clock.monotonic() - (self._silent_since or self._clock.monotonic())
        holder = self.holder
        which = "" if holder is None else f": task {holder.task.id} of type {holder.task.task_type}"
        return f"an async body blocks the event loop for {seconds:.0f} s{which}"

    def look(self) -> None:
        """Ask the engine, and say so when a body begins or ceases to hold the others up."""
        here = self._clock.monotonic()
        if self._engine is None:
            return
        if self._engine.responds():
            if self.is_held:
                log_lines.loop_free()
            self._silent_since, self.is_held = None, False
        elif self._silent_since is None:
            self._silent_since = here
        elif not self.is_held and here - self._silent_since >= HELD_SECONDS:
            self.is_held = True
            log_lines.loop_held(self.holder, here - self._silent_since)
