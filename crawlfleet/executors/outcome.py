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
from crawlfleet.executors.contract import Cancelled, Executor, TaskContext
from crawlfleet.model.ending import Outcome
from crawlfleet.model.lifecycle import ENDINGS
from crawlfleet.model.task_spec import MAX_TEXT, NAME_PATTERN

SPOOL_BYTES = 4 * 1024 * 1024  # and more bytes, by the first row of every few hundred
SPOOL_ROWS = 1000  # more rows than this go to a temporary file and are committed apart from the pump
MAX_MESSAGE = 2000  # characters of an error that are kept
MAX_RETRY_AFTER = 31 * 86_400.0  # seconds; what names a longer delay is a mistake of whoever names it
PROGRAM_ERRORS = (  # of the program itself: the next attempt would end the same way
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ZeroDivisionError,
)
RAISED_KINDS = {kind for kind, rule in ENDINGS.items() if rule.may_be_raised}
_ENDLESS = (math.inf, -math.inf)


def failed(error: BaseException, context: TaskContext, executor: Executor | None = None) -> Outcome:
    """The outcome of a body that raised `error`; never raises, whatever that is.

    The traceback goes to the run's log at DEBUG. When nobody foresaw the error, the task's log always gets it. With
    the `executor` whose body raised it, an error of its program fails the task at once.
    """
    try:
        return _failed(error, context, executor)
    except BaseException as broken:  # a body's own exception class may be wrong itself, in each of its parts
        text = f"the body raised a {type(error).__name__} that cannot be read ({type(broken).__name__})"
        return Outcome(EndingKind.PERMANENT, printable(text)[:MAX_MESSAGE])


def _failed(error: BaseException, context: TaskContext, executor: Executor | None) -> Outcome:
    is_foreseen = isinstance(error, (TaskError, UsageError, Cancelled, asyncio.CancelledError))
    is_bug = isinstance(error, PROGRAM_ERRORS) and executor is not None and not isinstance(error, executor.transient)
    log_shows_it = context.log.isEnabledFor(logging.DEBUG)
    if log_shows_it or not is_foreseen:
        trace = _without_secrets("".join(traceback.format_exception(error)), context)
        level = logging.ERROR if is_bug else logging.DEBUG
        text = f"body raised: task={context.task.id}\n{trace.rstrip()}"
        if log_shows_it:
            context.log.log(level, "%s", text)
        else:
            context.log.note(text, level)
    if isinstance(error, (Cancelled, asyncio.CancelledError)):
        return Outcome(EndingKind.CANCELLED, "the run was cancelled")
    name, text = type(error).__name__, _text_of(error)
    if isinstance(error, TaskError):
        kind, message = _kind_of(error), text or name
    else:
        kind = EndingKind.PERMANENT if is_bug or isinstance(error, UsageError) else EndingKind.TRANSIENT
        message = f"{name}: {text}" if text else name
    return Outcome(
        kind,
        clean(message, context),
        retry_after=_seconds(getattr(error, "retry_after", None)),
        quota_scope=_name(error.scope) if isinstance(error, QuotaError) else None,
        quota_daily=isinstance(error, QuotaError) and error.daily is True,
        calls_wanted=_count(error.calls_wanted) if isinstance(error, CallRefused) else None,
        denied=_feed(error.feed) if isinstance(error, NotPermitted) else None,
        denied_in_words=not isinstance(error, NotPermitted) or error.in_words is True,
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


def _kind_of(error: TaskError) -> EndingKind:
    """The kind that a body may raise, or the usual one."""
    return next((kind for kind in RAISED_KINDS if kind == error.kind), TaskError.kind)


def _seconds(value: object) -> float | None:
    """A delay as it may be reckoned with: finite, and not longer than MAX_RETRY_AFTER; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value in _ENDLESS:
        return None
    return float(max(0, min(value, MAX_RETRY_AFTER)))  # cut first: 10**400 is no float


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and NAME_PATTERN.fullmatch(value) else None


def _feed(value: object) -> tuple[str, str] | None:
    """(app id, report) as they can be stored; None for anything else."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return None
    app_id, report = value
    is_text = isinstance(app_id, str) and 1 <= len(app_id) <= MAX_TEXT and app_id.isprintable()
    return (app_id, report) if is_text and _name(report) else None
