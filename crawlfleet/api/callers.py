"""Who asks, and which accounts it may ask about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.datastructures import QueryParams

from crawlfleet.model.api_token import Role

PREFIX = "/api/distribution"
NARROWED = frozenset(
    PREFIX + path for path in ("/tasks", "/data/rows", "/data/coverage", "/data/gaps", "/budgets", "/apps")
)
OWN_ACCOUNT = ("", "/park", "/resume")  # behind the path of an account
WHOAMI = f"{PREFIX}/whoami"


@dataclass(frozen=True)
class Caller:
    """Who asks; `actor` is the name in the audit. With `accounts` it may ask about those only."""

    actor: str
    role: Role
    accounts: tuple[str, ...] | None = None
    expires_at: datetime | None = None

    def out_of_scope(self, scope: Mapping[str, Any]) -> str | None:
        """Why the request is none of its own; None when it may be made.

        Closed for every path that is not known to tell of the accounts only that the request names.
        """
        if self.accounts is None or scope["path"] == WHOAMI:
            return None
        if scope["path"] in NARROWED and scope["method"] in {"GET", "HEAD"}:
            query = QueryParams(scope["query_string"])
            source, username = query.getlist("source"), query.getlist("username")
            if len(source) == len(username) == 1 and f"{source[0]}/{username[0]}" in self.accounts:
                return None
        own = {f"{PREFIX}/accounts/{account}{end}" for account in self.accounts for end in OWN_ACCOUNT}
        if scope["path"] in own:
            return None
        accounts = ", ".join(self.accounts)
        return (
            f"{self.actor} is for the accounts {accounts:.300} only: ask for tasks, data, budgets, apps or the account"
            " itself, with source and username of one of them"
        )


class TokenExpired(Exception):
    """The token was right until it expired."""
