"""How budgets are shown to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crawlfleet.cli.moments import screen
from crawlfleet.cli.output import print_table, say

MOST_ROWS = 20
REASON_CHARS = 200  # of a vendor's refusal
COLUMNS = ("limit", "used", "opens", "waiting", "account", "app", "report", "source", "reason")


def calls_text(budget: Mapping[str, Any]) -> str:
    """Return `24 of 24`; `*` marks a number that a refusal taught."""
    allowed = "any" if budget["allowed"] is None else budget["allowed"]
    return f"{budget['used']} of {allowed}" + ("*" if _is_learned(budget) else "")


def _is_learned(budget: Mapping[str, Any]) -> bool:
    return budget["learned_calls"] is not None or budget["learned_seconds"] is not None


def print_budgets(budgets: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of the first 20 budgets, and say how many more there are."""
    print_table(COLUMNS, map(_line, budgets[:MOST_ROWS]), prose=("reason",))
    if any(map(_is_learned, budgets)):
        say("* learned from a refusal, fewer than the vendor documents, or in a longer window")
    if len(budgets) > MOST_ROWS:
        say(f"{len(budgets) - MOST_ROWS} more budgets; --json shows all")


def _line(budget: Mapping[str, Any]) -> tuple[Any, ...]:
    names = (budget[name] for name in ("username", "app_id", "report", "source"))
    reason = budget["reason"] or ""
    reason = reason if len(reason) <= REASON_CHARS else f"{reason[: REASON_CHARS - 1]}…"
    opens = screen.ago(budget["opens_at"]) or "when a run ends"
    return (budget["limit"], calls_text(budget), opens, budget["waiting"], *names, reason)
