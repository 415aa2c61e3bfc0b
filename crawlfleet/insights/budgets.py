"""What the vendors' quotas leave: budgets as facts for people and programs, and the health of accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from crawlfleet.core.db import Database
from crawlfleet.core.transaction import Reader
from crawlfleet.model import queue_depth
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.budget import DAY_SECONDS, NEVER, Budget, midnight_after
from crawlfleet.model.feed import denied_feeds
from crawlfleet.model.lane_budgets import LaneBudgetReader
from crawlfleet.model.lifecycle import AccountStatus


class Health(StrEnum):
    """How an account stands, derived from its status and its budgets."""

    HEALTHY = AccountStatus.HEALTHY.value
    THROTTLED = "throttled"  # a budget of a window is used up, or closed for less than the rest of the UTC day
    QUOTA_OUT = "quota_out"  # a budget of a day is used up, or one is closed until the UTC day ends
    TOKEN_EXPIRED = AccountStatus.TOKEN_EXPIRED.value
    PARKED = AccountStatus.PARKED.value


def budget_facts(budget: Budget, now: datetime, opens_at: datetime | None = None) -> dict[str, Any]:
    """One budget: whose (`app_id` and `report` null where its limit does not count by them), `used` of `allowed` calls
    (null: no number is known) in `seconds` (86,400: the UTC day), and from when one more call is allowed.

    `opens_at` null: only the end of a run can tell. `closed_until` and `reason` while a refusal closes it;
    `learned_calls` when refusals taught fewer than the vendor documents, `learned_seconds` when they taught a longer
    window; `allowed` and `seconds` are what holds now.
    """
    opens_at = opens_at or budget.next_opening(now)
    closed = budget.closed_until is not None and budget.closed_until > now
    learned, seconds = budget.has_learned(now), budget.window_seconds(now)
    return {
        "source": budget.source,
        "limit": budget.limit_name,
        "username": budget.username or None,
        "app_id": budget.app_id or None,
        "report": budget.report or None,
        "used": len(budget.busy),
        "allowed": budget.allowed(now),
        "seconds": seconds,
        "opens_at": None if opens_at >= NEVER else opens_at,
        "closed_until": budget.closed_until if closed else None,
        "reason": budget.closed_reason if closed else None,
        "learned_calls": budget.learned_calls if learned else None,
        "learned_seconds": seconds if seconds > budget.seconds else None,
        "last_call_at": max((call.called_at for call in budget.busy if call.called_at is not None), default=None),
    }


def budget_name(facts: Mapping[str, Any]) -> str:
    """The budget as a sentence names it."""
    of = ", ".join(str(facts[name]) for name in ("username", "app_id", "report") if facts[name])
    return f"the budget {facts['limit']} of {facts['source']}" + (f" ({of})" if of else "")


def calls_used(facts: Mapping[str, Any]) -> str:
    """How much of the budget is used, as a sentence says it."""
    allowed = "" if facts["allowed"] is None else f" of {facts['allowed']}"
    span = "a UTC day" if facts["seconds"] == DAY_SECONDS else f"{facts['seconds']:g} s"
    learned = ", learned from a refusal" if facts["learned_calls"] or facts["learned_seconds"] else ""
    return f"{facts['used']}{allowed} calls in {span} are used{learned}"


def budgets(
    db: Database,
    source: str | None = None,
    username: str | None = None,
    blocked_only: bool = False,
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """`budget_facts` with `waiting` (due tasks that need it), most waiting first; shared budgets of a source belong to
    each of its accounts. `blocked_only`: those that allow no call now."""
    with db.read(now) as reader:
        moment = reader.now
        ids = queue_depth.budget_ids(reader, moment, source, username, blocked_only)
        facts = _facts(reader, ids, blocked_only, moment)
    return sorted(facts, key=lambda each: -each["waiting"])


def budget_page(
    db: Database,
    source: str | None,
    username: str | None,
    blocked_only: bool,
    limit: int,
    after: int | None = None,
) -> tuple[list[dict[str, Any]], int | None]:
    """Budgets as `budgets` gives them, but in the order of their ids and from behind the id `after` on, at most
    `limit`; and the id behind which the next page begins, None on the last one."""
    with db.read() as reader:
        now = reader.now
        ids = queue_depth.budget_ids(reader, now, source, username, blocked_only, after, limit + 1)
        following = ids[limit - 1] if len(ids) > limit else None
        return _facts(reader, ids[:limit], blocked_only, now), following


def _facts(reader: Reader, ids: Sequence[int], blocked_only: bool, now: datetime) -> list[dict[str, Any]]:
    lane_budgets = LaneBudgetReader(reader).budgets(ids)
    if blocked_only:
        lane_budgets = [budget for budget in lane_budgets if budget.next_opening(now) > now]
    waiting = queue_depth.waiting_for(reader, [budget.id for budget in lane_budgets])
    return [{**budget_facts(budget, now), "waiting": waiting.get(budget.id, 0)} for budget in lane_budgets]


def accounts(db: Database, username: str | None = None, source: str | None = None) -> list[dict[str, Any]]:
    """Accounts as dicts of their columns, with `health`: `state`, `since`, `until`, `reason`."""
    rows = AccountDAO(db).find(username, source)
    with db.read() as reader:
        now = reader.now
    blocked = budgets(db, source, username, blocked_only=True, now=now)
    for account in rows:
        own = [
            budget
            for budget in blocked
            if budget["source"] == account["source"] and budget["username"] in (None, account["username"])
        ]
        account["health"] = health(account, own, now)
    return rows


def account_detail(db: Database, account: Mapping[str, Any]) -> dict[str, Any]:
    """An account's row with its `health`, its `budgets` that are in use or taught fewer calls, and what its vendor
    `denied` it (see `denied_feeds`)."""
    with db.read() as reader:
        now = reader.now
    own = budgets(db, account["source"], account["username"], now=now)
    return {
        **account,
        "health": health(
            account, [budget for budget in own if budget["opens_at"] is None or budget["opens_at"] > now], now
        ),
        "budgets": [
            budget
            for budget in own
            if budget["used"] or budget["closed_until"] or budget["learned_calls"] or budget["learned_seconds"]
        ],
        "denied": denied_feeds(db, account["source"], account["username"]),
    }


def health(account: Mapping[str, Any], blocked: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
    """`state` (a `Health`), `since` and `until` (null: nobody knows) and `reason` of an account, from its row and those
    of its budgets that allow no call now."""
    if account["status"] != AccountStatus.HEALTHY:
        return _health(Health(account["status"]), account["status_since"], None, account["status_reason"])
    days = [budget for budget in blocked if _until_day_ends(budget, now)]
    if not blocked:
        return _health(Health.HEALTHY, account["status_since"], None, None)
    worst = days or list(blocked)
    openings = [budget["opens_at"] for budget in worst]
    calls = [budget["last_call_at"] for budget in worst if budget["last_call_at"] is not None]
    return _health(
        Health.QUOTA_OUT if days else Health.THROTTLED,
        max(calls, default=None),
        None if None in openings else max(openings),
        _why(worst),
    )


def _until_day_ends(budget: Mapping[str, Any], now: datetime) -> bool:
    if budget["opens_at"] is None:  # used up, and some of it by runs that go on
        return bool(budget["seconds"] == DAY_SECONDS)
    return bool(budget["opens_at"] >= midnight_after(now))


def _why(blocked: Sequence[Mapping[str, Any]]) -> str:
    first = blocked[0]
    of = " of ".join(part for part in (first["report"], first["app_id"]) if part)
    text = f"{first['limit']}{f' ({of})' if of else ''}: "
    text += first["reason"] or f"{first['used']} of {first['allowed']} calls used"
    return text + (f"; {len(blocked) - 1} more budgets" if len(blocked) > 1 else "")


def _health(state: Health, since: datetime | None, until: datetime | None, reason: str | None) -> dict[str, Any]:
    return {"state": state.value, "since": since, "until": until, "reason": reason}
