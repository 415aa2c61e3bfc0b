"""The sources of this process: each is made once, since its open connections serve all tasks and threads."""

from __future__ import annotations

import threading

from crawlfleet.sources.contract import Source, SourceSettings
from crawlfleet.sources.registry import make_source

_made: dict[tuple[str, str], Source] = {}
_lock = threading.Lock()


def shared_source(name: str, settings: SourceSettings) -> Source:
    """The source of this name with these settings; raises UsageError as `make_source` does."""
    key = (name, repr(settings))
    with _lock:
        if key not in _made:
            _made[key] = make_source(name, settings)
        return _made[key]
