"""`context.log`: the logger of one run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from crawlfleet.core.logs import HIDDEN

WriteRecord = Callable[[logging.LogRecord], None]

_formatter = logging.Formatter()


class RunLogger(logging.Logger):
    """Passes lines to the logger of its name, after it took the run's secrets out of them.

    `write_record` gets each record that the node's log shows, and each note, from any thread. Since each run has a
    logger of its own, nobody needs to look at threads to know whose line it is. `logging` does not know it by name.
    """

    def __init__(
        self, name: str, secrets: Callable[[], Sequence[str]], write_record: WriteRecord | None = None
    ) -> None:
        super().__init__(name)
        self.parent = logging.getLogger(name)
        self._secrets = secrets
        self._write_record = write_record

    def callHandlers(self, record: logging.LogRecord) -> None:
        """Turn the record into plain text first, so that no handler can fail at it or show a secret."""
        text, trace = _text_of(record), record.exc_text
        if record.exc_info and not trace:
            trace = _formatter.formatException(record.exc_info)
        for secret in self._secrets():
            text = text.replace(secret, HIDDEN)
            trace = trace and trace.replace(secret, HIDDEN)
        record.msg, record.args, record.exc_text = text, None, trace
        if self._write_record is not None:
            self._write_record(record)
        if not is_note(record):
            super().callHandlers(record)

    def note(self, text: str, level: int = logging.DEBUG) -> None:
        """Write a line to the task's log alone, whatever the levels are."""
        record = self.makeRecord(self.name, level, "", 0, text, (), None)
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
