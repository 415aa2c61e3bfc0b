"""The accounts whose token this node cannot have: it takes none of their tasks, and the fleet is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import DatabaseUnreachable, TaskError, TokenUnavailable
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.claims import AccountKey, Registration
from crawlfleet.model.device import DeviceDAO
from crawlfleet.services import log_lines
from crawlfleet.services.uncommitted import Writes

MAX_REASON = 300  # characters that are stored with the device


class MissingTokens:
    """Found when a run ends for want of the token, and looked for again with each beat: a file may have come.

    `usable` gives an account with this node's keys. Only the scheduler's thread changes it; any thread may read
    `accounts`.
    """

    def __init__(self, db: Database, usable: Callable[[Account], Account]) -> None:
        self.accounts: tuple[AccountKey, ...] = ()
        self._reasons: dict[AccountKey, str] = {}
        self._db = db
        self._usable = usable
        self._told: tuple[Registration, dict[AccountKey, str]] | None = None

    def note(self, owner: Registration, found: Mapping[AccountKey, str]) -> None:
        """Runs of these accounts ended so, for these reasons."""
        for key, reason in found.items():
            if key not in self._reasons:
                log_lines.token_missing(owner.device_id, key, reason)
        self._reasons |= found
        self._tell(owner)

    def look_again(self, owner: Registration) -> None:
        """Take tasks again of accounts whose token is there by now; raises DatabaseUnreachable."""
        for key in list(self._reasons):
            account = AccountDAO(self._db).get(*key)
            try:
                if account is not None:
                    self._usable(account).token()
            except TokenUnavailable as error:
                self._reasons[key] = str(error)[:MAX_REASON]
                continue
            except TaskError:
                pass  # another reason than this node: its next run tells
            del self._reasons[key]
            log_lines.token_found(owner.device_id, key)
        self._tell(owner)

    def _tell(self, owner: Registration) -> None:
        """Store it with the device; what cannot be stored now is with the next beat."""
        self.accounts = tuple(sorted(self._reasons))
        now = (owner, dict(self._reasons))
        if now == self._told or (self._told is None and not self._reasons):
            return
        facts = [{"source": source, "username": name, "reason": why} for (source, name), why in sorted(now[1].items())]
        try:
            DeviceDAO(self._db).set_lacking(owner.device_id, owner.epoch, facts)
        except DatabaseUnreachable:
            return
        self._told = now


def lacks_of(writes: Writes) -> dict[AccountKey, str]:
    """The accounts for want of whose token runs ended, and what their bodies said."""
    return {
        (each.run.task.source, each.run.task.username): (each.outcome.message or "this node lacks it")[:MAX_REASON]
        for each in writes.endings
        if each.outcome.kind == EndingKind.TOKEN and each.run.task.source and each.run.task.username
    }
