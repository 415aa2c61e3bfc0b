"""Every error type of crawlfleet.

    CrawlfleetError                 somebody has to read the message
    +-- UsageError                  wrong option, setting, id, date or JSON          -> exit 2
    +-- NotFound                    there is no such task, device or account         -> exit 1
    +-- DatabaseError               the database cannot be used
    |   +-- DatabaseUnreachable     no connection                                    -> exit 3
    |   +-- DatabaseRefused         too old, too new, or it lacks what we need       -> exit 3
    |   +-- StatementTooLarge       a ValueError, too: what is to be stored does not fit into one statement
    +-- ClusterUnreachable          the scheduler of engine dask does not answer       -> exit 3
    +-- DeviceRefused               the device id is alive elsewhere                 -> exit 1
    +-- LeaseLost                   this process no longer is its device; the node registers again
    +-- TaskError                   raised by an executor's body; caught by executors/outcome.py
        +-- PermanentError          no retry: a parameter is wrong, the vendor says never
        |   +-- NotPermitted        the vendor says that this account may not have this app or report
        |   +-- RangeTooLarge       more rows than the vendor gives at once; executors/app_data.py asks for the halves
        +-- TransientError          retry with growing delay
        +-- QuotaError              the vendor's quota is used up: wait, no attempt is spent
        +-- AuthError               the token is refused: the account is parked, no attempt is spent
        +-- CallRefused             the run holds no budget for a call: the task waits for it, no attempt is spent
        +-- WaitError               what lies between this node and the vendor fails: wait, no attempt is spent
            +-- TokenUnavailable    this node cannot have the account's token; another node may
            +-- ProxyError          the proxy fails, before the vendor saw anything

Anything else that a body raises counts as transient: an unknown failure may pass. Only what is an error of the program
itself, as a KeyError, is permanent, unless the executor names it as `transient`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawlfleet.core.endings import EndingKind

if TYPE_CHECKING:
    from crawlfleet.core.database_errors import Trouble


def cause_of(error: Exception) -> str:
    """What an error says, in the words of the driver where it has one: one line of at most 300 characters, no SQL."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300]


class CrawlfleetError(Exception):
    """A failure with a message for a person: what is wrong, which value, what to do."""

    exit_code = 1


class UsageError(CrawlfleetError):
    """The caller asked for something that cannot be: a bad option, setting, id, date or JSON."""

    exit_code = 2


class NotFound(CrawlfleetError):
    """There is nothing of this id or name."""


class DatabaseError(CrawlfleetError):
    """The database cannot be used."""

    exit_code = 3


class DatabaseUnreachable(DatabaseError):
    """No connection; carries the cause, never the password.

    `maybe_committed`: the connection broke while COMMIT was on its way, so the work may have been done. `trouble` is
    what the work met on a connection that was there, None without one.
    """

    maybe_committed = False
    trouble: Trouble | None = None


class DatabaseRefused(DatabaseError):
    """Connected, but it is newer than the program, too old, or lacks what crawlfleet needs."""


class StatementTooLarge(DatabaseError, ValueError):
    """What is to be stored cannot be sent to the database."""

    def __init__(self, size: int, limit: int, limit_name: str) -> None:
        super().__init__(
            f"it takes {size} bytes at once and the database takes {limit} ({limit_name}):"
            " raise that limit at the server, or store less at a time"
        )


class ClusterUnreachable(CrawlfleetError):
    """The scheduler of the Dask cluster does not answer."""

    exit_code = 3


class DeviceRefused(CrawlfleetError):
    """The device id is in use by a living process, or it is unknown."""


class LeaseLost(CrawlfleetError):
    """(device_id, epoch) is no longer this process: another registration or a caretaker ended it."""

    def __init__(self, device_id: str, epoch: int) -> None:
        super().__init__(f"device {device_id} is no longer this process (epoch {epoch})")
        self.epoch = epoch


class TaskError(CrawlfleetError):
    """What an executor's body raises to say how its task ends."""

    kind: EndingKind = EndingKind.TRANSIENT


class PermanentError(TaskError):
    """No retry will help."""

    kind = EndingKind.PERMANENT


class NotPermitted(PermanentError):
    """The account lacks this app or report: not granted, not in its plan. A new grant or plan may change it.

    `feed` is the (app id, report) that was asked for, where the executor says so: it is then asked for more rarely.
    Without `in_words` the vendor did not say so, its answer only looks like it. What worked before, or was not refused
    in words, is tried again first, and denied when the answer persists.
    """

    feed: tuple[str, str] | None = None

    def __init__(self, message: str, in_words: bool = True) -> None:
        super().__init__(message)
        self.in_words = in_words


class RangeTooLarge(PermanentError):
    """These days have more rows than the vendor gives in one answer; fewer days may be had."""


class TransientError(TaskError):
    """Worth a retry; `retry_after` seconds is the earliest, when the vendor named one."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaError(TaskError):
    """The vendor's quota is used up; costs no attempt. The budget closes, and learns.

    `retry_after` seconds is what the vendor named. `scope` names the limit of the source that was hit, when it is
    known; `daily` says that it holds until the UTC day ends.
    """

    kind = EndingKind.QUOTA

    def __init__(
        self, message: str, retry_after: float | None = None, scope: str | None = None, daily: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.scope = scope
        self.daily = daily


class CallRefused(TaskError):
    """Nothing was sent, since the run holds no (further) call of its budgets; costs no attempt.

    `calls_wanted` is how many its task should hold next time; None: as many as before, and no earlier than after
    `retry_after` seconds.
    """

    kind = EndingKind.UNPAID

    def __init__(self, message: str, calls_wanted: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.calls_wanted = calls_wanted
        self.retry_after = retry_after


class AuthError(TaskError):
    """The vendor refuses the token: the account is parked until a person resumes it."""

    kind = EndingKind.AUTH


class WaitError(TaskError):
    """Neither the task nor the vendor is to blame, but this node or its way to the vendor.

    The task goes back for `retry_after` seconds and costs no attempt; the account is not parked, since other nodes
    may do better.
    """

    kind = EndingKind.WAIT

    def __init__(self, message: str, retry_after: float = 60.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TokenUnavailable(WaitError):
    """This node lacks the account's token, or the key that opens it; the message names variable or file."""

    kind = EndingKind.TOKEN


class ProxyError(WaitError):
    """The proxy is down, refuses us or the way to the vendor, or says nothing; the message names it, no credentials."""

    kind = EndingKind.PROXY
