"""Who changed what, read-only."""

from __future__ import annotations

from crawlfleet.core.db import Database
from crawlfleet.insights.pages import Page, newest_first
from crawlfleet.model import schema


def audit_page(db: Database, limit: int, before: int | None = None) -> Page:
    """Changes, newest first."""
    return newest_first(db, schema.audit, {}, (), limit, before)
