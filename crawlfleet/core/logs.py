"""What the program says while it works: one line format, one place that keeps secrets out of it."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from pathlib import Path
from types import TracebackType

from crawlfleet.core.errors import UsageError
from crawlfleet.core.printable import printable

LINE_FORMAT = "%(asctime)s [%(levelname)s] %(name)s - %(message)s"
PACKAGE_PREFIX = "crawlfleet."
CONTINUATION = "\n    "
FILE_BYTES = 5 * 1024 * 1024
FILE_BACKUPS = 3
HIDDEN = "***"
MAX_CHARACTERS = 32 * 1024  # of one line, its traceback included
MARGIN = 4096  # how far beyond a cut is looked for the rest of a secret

_AUTHORIZATION = re.compile(
    r"""(\bauthorization\b['"]?\s*[:=,]\s*)(?:b?(['"]).*?(?:\2|$)|(?:(?:bearer|basic|digest|token)\s+)?[^\s'",]+)""",
    re.IGNORECASE | re.MULTILINE,
)
_PARAMETER = re.compile(
    r"([?&;][\w.%-]{0,32}(?:passw(?:or)?d|passphrase|pwd|secret|token|api_?key|access_?key|credential|signature)"
    r"[\w.%-]{0,32}=)[^&\s'\"<>#]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"""(\bbearer\s+)[^\s'",;]+""", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"""([\s'"<>]+)""")
_USER = re.compile(r"://[^:/@]*")

_secrets: set[str] = set()
_secrets_lock = threading.Lock()

log = logging.getLogger(__name__)


def hide(secret: str) -> None:
    """Keep this text out of every later log line and error message; an empty text is ignored."""
    if secret:
        with _secrets_lock:
            _secrets.add(secret)


def redact(text: str, limit: int = MAX_CHARACTERS) -> str:
    """The text with *** for passwords and secret parameters of URLs, bearer tokens, Authorization and hidden secrets.

    The time is linear in the length, and a text of more than `limit` characters loses its middle before anything else:
    it may be a vendor's or an attacker's, and this runs under the interpreter's lock.
    """
    if len(text) <= limit:
        return _redact(text)
    # a secret that the cut goes through is seen whole, or hidden to its end, and then cut away
    head, tail = limit // 3, limit - limit // 3 - 1
    return _redact(text[: head + MARGIN], is_cut=True)[:head] + "…" + _redact(text[-tail - MARGIN :])[-tail:]


def _redact(text: str, is_cut: bool = False) -> str:
    with _secrets_lock:
        secrets = sorted(_secrets, key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        words = _BETWEEN_WORDS.split(text)
        last = len(words) - 1
        text = "".join(
            _without_password(word, is_cut and number == last) if "://" in word else word
            for number, word in enumerate(words)
        )
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    return _BEARER.sub(rf"\1{HIDDEN}", text)


def _without_password(word: str, is_cut: bool) -> str:
    """A password may hold "/", so everything up to the last "@" of the word is hidden: rather too much."""
    end = len(word) if is_cut else word.rfind("@")
    user = _USER.search(word)
    while user is not None and user.end() < end:
        if word[user.end()] == ":":
            return f"{word[: user.end()]}:{HIDDEN}{word[end:]}"
        user = _USER.search(word, user.end())
    return word


class LineFormatter(logging.Formatter):
    """`2025-08-11 15:01:34,453 [INFO] services.task_scheduler - text`, redacted after the traceback was added.

    Further lines are indented, so that no text from outside looks like a line of ours.
    """

    def __init__(self) -> None:
        super().__init__(LINE_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact(super().format(record)), keep="\n\t").replace("\n", CONTINUATION)

    def formatMessage(self, record: logging.LogRecord) -> str:
        name = record.name
        record.name = name.removeprefix(PACKAGE_PREFIX)
        try:
            return super().formatMessage(record)
        finally:
            record.name = name


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only in the stubs
    """Writes to stderr. When nobody reads stderr any more, the program goes on in silence."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            _point_to_nowhere(2)
        elif not isinstance(error, ValueError) or not getattr(self.stream, "closed", False):
            super().handleError(record)


def _point_to_nowhere(descriptor: int) -> None:
    """Replace a broken standard stream: Python would flush it at the end and turn the exit code into 120."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    except OSError:
        pass


def configure_logging(log_file: str | None = None, debug: bool = False, quiet: bool = False) -> None:
    """Log to stderr and, when named, to a rotated file (5 MB, 3 old ones); calling again replaces the earlier call.

    Our own loggers speak from INFO (`debug`: DEBUG, `quiet`: WARNING), everyone else's from WARNING.
    Raises UsageError when the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if sys.stderr is not None:
        make_stream_safe(sys.stderr)
        handlers.append(_StderrHandler(sys.stderr))
    if log_file:
        handlers.append(_file_handler(log_file))
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler.formatter, LineFormatter)]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        handler.setFormatter(LineFormatter())
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    for name in ("crawlfleet", "__main__"):
        logging.getLogger(name).setLevel(level)
    threading.excepthook = _log_thread_error


def make_stream_safe(stream: object) -> None:
    """Let a stream whose encoding lacks a character write an escape for it instead of failing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _file_handler(log_file: str) -> logging.Handler:
    from logging.handlers import RotatingFileHandler  # costs 10 ms

    class FollowingHandler(RotatingFileHandler):
        """Goes on in a new file when somebody else has moved or deleted this one, as logrotate does."""

        def emit(self, record: logging.LogRecord) -> None:
            if self.stream is not None and not _is_at(self.stream.fileno(), self.baseFilename):
                try:
                    stream = self._open()
                except OSError:  # its folder is gone, too: go on as before until it is back
                    pass
                else:
                    self.stream.close()
                    self.stream = stream
            super().emit(record)

    try:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        return FollowingHandler(
            log_file, maxBytes=FILE_BYTES, backupCount=FILE_BACKUPS, encoding="utf-8", errors="backslashreplace"
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"log_file {log_file} cannot be written: {reason}: name a file in a writable folder") from None


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is the one that has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _log_thread_error(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is None or isinstance(failure.exc_value, SystemExit):
        return
    cause: tuple[type[BaseException], BaseException, TracebackType | None]
    cause = (failure.exc_type, failure.exc_value, failure.exc_traceback)
    name = failure.thread.name if failure.thread is not None else "unknown"
    log.error("thread ended by an error: thread=%s", name, exc_info=cause)
