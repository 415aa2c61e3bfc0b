"""How an exception that a body raised becomes its outcome."""

from __future__ import annotations

import asyncio
import logging
import math
import traceback

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import CallRefused, NotPermitted, QuotaError, TaskError, UsageError
from crawlfleet.core.logs import HIDDEN, redact
from crawlfleet.core.printable import printable
from crawlfleet.executors.contract import Cancelled, TaskContext
from crawlfleet.model.ending import Outcome
from crawlfleet.model.lifecycle import ENDINGS

SPOOL_ROWS = 1000  # more rows than this go to a temporary file and are committed apart from the pump
MAX_MESSAGE = 2000  # characters of an error that are kept
RAISED_KINDS = {kind for kind, rule in ENDINGS.items() if rule.may_be_raised}


def failed(error: BaseException, context: TaskContext) -> Outcome:
    """The outcome of a body that raised `error`.

    The traceback goes to the run's log at DEBUG. When nobody foresaw the error, the task's log always gets it.
    """
    is_foreseen = isinstance(error, (TaskError, UsageError, Cancelled, asyncio.CancelledError))
    log_shows_it = context.log.isEnabledFor(logging.DEBUG)
    if log_shows_it or not is_foreseen:
        trace = _without_secrets("".join(traceback.format_exception(error)), context)
        write = context.log.debug if log_shows_it else context.log.note
        write(f"body raised: task={context.task.id}\n{trace.rstrip()}")
    if isinstance(error, (Cancelled, asyncio.CancelledError)):
        return Outcome(EndingKind.CANCELLED, "the run was cancelled")
    name, text = type(error).__name__, _text_of(error)
    if isinstance(error, TaskError):
        kind = EndingKind(error.kind) if error.kind in RAISED_KINDS else TaskError.kind
        message = text or name
    else:
        kind = EndingKind.PERMANENT if isinstance(error, UsageError) else EndingKind.TRANSIENT
        message = f"{name}: {text}" if text else name
    return Outcome(
        kind,
        clean(message, context),
        retry_after=_seconds(getattr(error, "retry_after", None)),
        quota_scope=error.scope if isinstance(error, QuotaError) else None,
        quota_daily=isinstance(error, QuotaError) and error.daily,
        calls_wanted=error.calls_wanted if isinstance(error, CallRefused) else None,
        denied=error.feed if isinstance(error, NotPermitted) else None,
        denied_in_words=not isinstance(error, NotPermitted) or error.in_words,
    )


def clean(message: str, context: TaskContext) -> str:
    """The message as it may be stored and shown: no secrets, one line, printable, at most 2,000 characters."""
    message = printable(_without_secrets(" ".join(message[: 10 * MAX_MESSAGE].split()), context))
    return message.encode("utf-8", "replace").decode()[:MAX_MESSAGE]


def _without_secrets(text: str, context: TaskContext) -> str:
    for secret in context.secrets():
        text = text.replace(secret, HIDDEN)
    return redact(text)


def _text_of(error: BaseException) -> str:
    try:
        return str(error).strip()
    except Exception as broken:  # a body's own exception class may be wrong itself
        return f"its message cannot be read ({type(broken).__name__})"


def _seconds(value: object) -> float | None:
    if isinstance(value, (int, float)) and math.isfinite(value):
        return max(0.0, float(value))
    return None
