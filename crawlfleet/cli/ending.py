"""The end of the process: it waits for no thread and no child that somebody else left behind."""

from __future__ import annotations

import logging
import os
import sys
import threading

PATIENCE_SECONDS = 2.0  # for threads that end by themselves once nobody has work for them
NAMED = 5

log = logging.getLogger(__name__)


def end_in_time(code: int) -> None:
    """See that the process ends soon with this exit code, and say what it would have waited for."""
    threading.Thread(target=_end, args=(code,), name="end-in-time", daemon=True).start()


def _end(code: int) -> None:
    threading.Event().wait(PATIENCE_SECONDS)  # meanwhile Python ends, and this thread with it, unless it is held up
    left = [*map(_describe, _waited_for()), *_children()]
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    named = ", ".join(left[:NAMED]) or "something that Python runs at its end"
    log.warning("ends without waiting for what task bodies left behind: %s%s", named, more)
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


def _children() -> list[str]:
    """The processes that Python waits for at its end."""
    if "multiprocessing.process" not in sys.modules:
        return []
    from multiprocessing import active_children

    return [f"process {each.pid} ({each.name[:80]})" for each in active_children() if not each.daemon]


def _describe(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    where = "" if frame is None else f" in {frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return f"thread {thread.name[:80]}{where[-200:]}"
