"""Sources by name: the built-in ones, then those that other packages offer as entry points."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points

from crawlfleet.core.errors import UsageError
from crawlfleet.sources.contract import Source, SourceSettings

ENTRY_POINT_GROUP = "crawlfleet.sources"


def _appsflyer(settings: SourceSettings) -> Source:
    from crawlfleet.sources.appsflyer.source import AppsFlyer

    return AppsFlyer(settings)


def _apple(settings: SourceSettings) -> Source:
    from crawlfleet.sources.apple.source import Apple

    return Apple(settings)


BUILT_IN: dict[str, Callable[[SourceSettings], Source]] = {"appsflyer": _appsflyer, "apple": _apple}


def make_source(name: str, settings: SourceSettings) -> Source:
    """The source of this name; an entry point is a callable that takes the settings.

    Raises UsageError that lists the known names, or that says why an entry point cannot be loaded.
    """
    factory = BUILT_IN.get(name)
    if factory is None:
        offered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
        if name not in offered:
            known = ", ".join(sorted({*BUILT_IN, *offered}))
            raise UsageError(f"unknown source {name!r:.80}: known are {known}")
        try:
            factory = offered[name].load()
        except (ImportError, AttributeError) as error:
            raise UsageError(f"source {name!r} ({offered[name].value}) cannot be loaded: {error}") from None
    return factory(settings)


@cache
def source_names() -> frozenset[str]:
    """Every source that is installed here."""
    return frozenset({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


@cache
def default_report(name: str) -> str | None:
    """The first report of a built-in source; None for any other, which is asked when the task runs."""
    return next(iter(built_in_reports(name)), None)


def built_in_reports(name: str) -> list[str]:
    """The reports of a built-in source, its first one first; none of any other."""
    factory = BUILT_IN.get(name)
    return [] if factory is None else list(factory(SourceSettings()).reports)
