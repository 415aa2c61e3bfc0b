"""What sources yield and the model stores: apps, figures, and the range a fetch replaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

DIMENSIONS = ("agency", "media_source", "campaign", "country")  # that have a column of their own
COUNTS = ("impressions", "clicks", "installs", "sessions", "loyal_users")
AMOUNTS = ("revenue", "cost")
CURRENCY = "currency"  # of the amounts of a row; they are never added to those of another
UNKNOWN_CURRENCY = "unknown"
ALL_APPS = "all"  # in place of an app id, where one call covers all apps of an account


@dataclass(frozen=True, slots=True)
class App:
    """One app that an account sees, in the vendor's own spelling."""

    app_id: str
    name: str | None = None
    platform: str | None = None
    currency: str | None = None
    time_zone: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of a report: a day, its dimensions and its figures.

    None means that the vendor gave no value, which is not 0. `dimensions` holds further dimensions
    (adset, ad, ...) by name; with day, agency, media_source, campaign and country they identify the row.
    `extra` holds every column that has no field of its own, by the vendor's caption.
    """

    day: date
    agency: str | None = None
    media_source: str | None = None
    campaign: str | None = None
    country: str | None = None
    impressions: int | None = None
    clicks: int | None = None
    installs: int | None = None
    sessions: int | None = None
    loyal_users: int | None = None
    revenue: Decimal | None = None
    cost: Decimal | None = None
    dimensions: Mapping[str, str | None] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppList:
    """Scope of a `user_apps` result: the rows are all the apps that the account sees now.

    `by_hand`: a person named the apps, so it is no wonder when most of those known before are not among them.
    """

    source: str
    username: str
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class ReportRange:
    """Scope of an `app_data` result: the rows are all the figures of these days, both ends included.

    A day's figures are final once it is fetched `settle_days` after its end (UTC). Days that had rows and have none now
    keep them and become suspect, unless `believe_empty`.
    """

    source: str
    username: str
    app_id: str
    report: str
    start: date
    end: date
    settle_days: int = 2
    believe_empty: bool = False


Scope = AppList | ReportRange
Row = App | Figures
