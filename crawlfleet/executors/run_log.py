"""`context.log`: the logger of one run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from crawlfleet.core.logs import HIDDEN

Keep = Callable[[logging.LogRecord], None]

_formatter = logging.Formatter()


class RunLogger(logging.Logger):
    """Speaks through the logger of its name, after it took the run's secrets out of the line.

    `keep` gets each record that is loud enough for the node's log, from whatever thread it came. A logger
    of its own for each run tells whose line it is without a look at threads; `logging` does not know it by name.
    """

    def __init__(self, name: str, secrets: Callable[[], Sequence[str]], keep: Keep | None = None) -> None:
        super().__init__(name)
        self.parent = logging.getLogger(name)
        self._secrets = secrets
        self._keep = keep

    def callHandlers(self, record: logging.LogRecord) -> None:
        """As every logger, but what a handler gets is text: nothing of it can fail or hold a secret."""
        text, trace = _text_of(record), record.exc_text
        if record.exc_info and not trace:
            trace = _formatter.formatException(record.exc_info)
        for secret in self._secrets():
            text = text.replace(secret, HIDDEN)
            trace = trace and trace.replace(secret, HIDDEN)
        record.msg, record.args, record.exc_text = text, None, trace
        if self._keep is not None:
            self._keep(record)
        if not is_note(record):
            super().callHandlers(record)

    def note(self, text: str) -> None:
        """A line that is kept and does not go to the node's log, whatever the levels are."""
        record = self.makeRecord(self.name, logging.DEBUG, "", 0, text, (), None)
        record.is_note = True
        self.handle(record)


def is_note(record: logging.LogRecord) -> bool:
    """Whether the record is for the task's log alone."""
    return getattr(record, "is_note", False)


def _text_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # whatever a body's own objects raise
        return f"{record.msg!s:.200} (its arguments do not fit: {type(error).__name__})"
