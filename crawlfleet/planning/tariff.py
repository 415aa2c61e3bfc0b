"""What tasks cost: the limits of all sources, as their vendors document them or the settings replace them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crawlfleet.core.errors import PermanentError, UsageError
from crawlfleet.executors.contract import Executor
from crawlfleet.executors.registry import executors
from crawlfleet.executors.shared_sources import shared_source
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.settings.definitions import SOURCE_KEYS, Settings
from crawlfleet.sources.contract import Limit, Report, Shape, Source, SourceSettings

UNNAMED = Limit("calls", None, 60)  # of a source that declares no limit: closed by its refusals alone


class Tariff:
    """The costs that one process reckons with. `sources` holds the settings of sources by name.

    `executors` is asked once, when a task of a source first comes up: loading them takes time.
    """

    def __init__(self, sources: Mapping[str, SourceSettings], executors: Callable[[], Mapping[str, Executor]]) -> None:
        self._settings = sources
        self._load_executors = executors
        self._executors: Mapping[str, Executor] | None = None
        self._reports: dict[str, Mapping[str, Report]] = {}

    def source(self, name: str) -> Source:
        """The source of this name; raises UsageError that lists those that are known."""
        return shared_source(name, self._settings.get(name, SourceSettings()))

    def reports_of(self, name: str) -> Mapping[str, Report]:
        """The reports of a source; none of one that is not known here."""
        if name not in self._reports:  # finding out that there is no such source takes milliseconds
            try:
                self._reports[name] = self.source(name).reports
            except UsageError:  # another node has it
                self._reports[name] = {}
        return self._reports[name]

    def check(self) -> None:
        """Raise UsageError for settings that their source cannot use, rather than fail each of its tasks."""
        for name, settings in self._settings.items():
            try:
                declared = {limit.name for limit in self.source(name).limits}
            except UsageError as error:
                raise UsageError(f"sources.{name}: {error}") from None
            for limit, values in settings.limits.items():
                if limit not in declared:
                    raise UsageError(
                        f"sources.{name}.limits.{limit} is unknown: known are {', '.join(sorted(declared))}"
                    )
                _check_limit(f"sources.{name}.limits.{limit}", values)

    def limit_of(self, source: str, limit_name: str) -> tuple[int | None, float] | None:
        """(calls, seconds) of a limit; None for one that nobody here knows."""
        try:
            declared = self.source(source).limits
        except UsageError:  # another node has this source
            return None
        for limit in (*declared, UNNAMED):
            if limit.name == limit_name:
                given = self._settings.get(source, SourceSettings()).limits.get(limit_name, {})
                return given.get("calls", limit.calls), float(given.get("seconds", limit.seconds))
        return None

    def cost_of(self, spec: TaskSpec) -> Cost:
        """What this task costs; raises UsageError for a source that is not known here.

        A task of a type that is not known here, or that declares no cost, holds no call: the node that runs it knows.
        """
        if spec.source is None:
            return Cost()
        source = self.source(spec.source)
        if self._executors is None:
            self._executors = self._load_executors()
        executor = self._executors.get(spec.task_type)
        if executor is None or executor.cost is None:
            return Cost((self._charge(source, UNNAMED, spec),), 0)
        try:
            shape = executor.cost(spec, source)
        except PermanentError:  # its run will fail before it calls anybody
            shape = Shape()
        limits = {limit.name: limit for limit in source.limits}
        charged = [limits[name] for name in shape.limits] or [UNNAMED]
        return Cost(tuple(self._charge(source, limit, spec) for limit in charged), shape.calls)

    def _charge(self, source: Source, limit: Limit, spec: TaskSpec) -> Charge:
        calls, seconds = self.limit_of(source.name, limit.name) or (limit.calls, float(limit.seconds))
        return Charge(
            source.name,
            limit.name,
            calls,
            seconds,
            username=(spec.username or "") if "account" in limit.scope else "",
            app_id=(spec.app_id or "") if "app" in limit.scope else "",
            # the default has one budget, whether the task names it or not
            report=(spec.report or next(iter(source.reports), "")) if "report" in limit.scope else "",
        )


def _check_limit(name: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError for a limit that is no {calls = N, seconds = S}."""
    unknown = sorted(set(values) - {"calls", "seconds"})
    if unknown:
        raise UsageError(f"{name}.{unknown[0]} is unknown: a limit has calls and seconds")
    calls, seconds = values.get("calls", 1), values.get("seconds", 1)
    if isinstance(calls, bool) or not isinstance(calls, int) or not 1 <= calls <= 1_000_000:
        raise UsageError(f"{name}.calls must be a whole number from 1 to 1000000 (got {calls!r:.80})")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.01 <= seconds <= 86_400:
        raise UsageError(
            f"{name}.seconds must be a number from 0.01 to 86400, which means the UTC day (got {seconds!r:.80})"
        )


def all_source_settings(settings: Settings) -> dict[str, SourceSettings]:
    """The settings of every source that has a table, by its name."""
    return {name: source_settings(table, settings.use_proxy) for name, table in settings.sources.items()}


def tariff_of(settings: Settings) -> Tariff:
    """The tariff of somebody with these settings."""
    return Tariff(all_source_settings(settings), lambda: executors(settings.executors))


def task_defaults(settings: Settings) -> TaskDefaults:
    """What a task gets that is added by somebody with these settings."""
    return TaskDefaults(settings.execution_timeout, settings.max_retry, tariff_of(settings).cost_of)


def source_settings(table: Mapping[str, Any], use_proxy: bool) -> SourceSettings:
    """The `[sources.NAME]` table of the settings as its source reads it; its proxy only counts with `use_proxy`."""
    names = ("base_url", "timeout_seconds", "limits", *(["proxy"] if use_proxy else []))
    known = {name: table[name] for name in names if name in table}
    return SourceSettings(**known, options={name: table[name] for name in table if name not in SOURCE_KEYS})
