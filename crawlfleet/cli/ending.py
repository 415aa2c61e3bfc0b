"""The end of the process: it waits for no thread that somebody else left behind."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

PATIENCE_SECONDS = 2.0  # for threads that end by themselves once nobody has work for them
NAMED_THREADS = 5

log = logging.getLogger(__name__)


def end_in_time(code: int) -> None:
    """See that the process ends soon with this exit code, and say what it would have waited for."""
    if threading.active_count() > 1:
        threading.Thread(target=_end, args=(code,), name="end-in-time", daemon=True).start()


def _end(code: int) -> None:
    time.sleep(PATIENCE_SECONDS)  # meanwhile Python ends, and this thread with it, unless it waits for something
    left = _waited_for()
    named = "".join(f"{', ' if number else ': '}{_describe(each)}" for number, each in enumerate(left[:NAMED_THREADS]))
    more = f" and {len(left) - NAMED_THREADS} more" if len(left) > NAMED_THREADS else ""
    log.warning("ends without waiting for %d threads that task bodies left behind%s%s", len(left), named, more)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(code)


def _waited_for() -> list[threading.Thread]:
    """The threads that Python waits for at its end: also daemon threads, when they are of a ThreadPoolExecutor."""
    pools = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {})
    return [
        each
        for each in threading.enumerate()
        if each is not threading.main_thread() and (not each.daemon or each in pools)
    ]


def _describe(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    where = "" if frame is None else f" in {frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return f"{thread.name[:80]}{where[-200:]}"
