"""A re-pull with other figures leaves a restatement, the same figures none; on every database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import Figures, ReportRange
from crawlfleet.insights import restatements as restatements_module
from crawlfleet.insights.feeds import FeedFilter, FeedName
from crawlfleet.insights.restatements import restatements
from tests.conftest import Backend
from tests.fleets import fresh
from tests.stored_figures import add_days, store

DAY, NEXT = date(2026, 3, 10), date(2026, 3, 11)
FIRST, SECOND = datetime(2026, 3, 12, 8, tzinfo=UTC), datetime(2026, 3, 12, 9, tzinfo=UTC)
SCOPE = ReportRange("appsflyer", "u", "a", "r", DAY, NEXT)
FEED = FeedName("appsflyer", "u", "r", "a")
ROW = Figures(DAY, media_source="渠道", clicks=7, installs=1, cost=Decimal("0.1"), extra={"k": "v"})
OTHER = Figures(DAY, media_source="m", clicks=5, cost=Decimal("0.2"))
TOMORROW = Figures(NEXT, media_source="m", clicks=1)


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    database = fresh(backend.url)
    yield database
    database.close()


def after(db: Database, before: list[Figures], now: list[Figures]) -> list[tuple[object, ...]]:
    """(day, figure, before, after, difference) of what the second fetch changed."""
    store(db, SCOPE, before, FIRST)
    assert list(restatements(db, FeedFilter(), DAY, NEXT)) == []
    store(db, SCOPE, now, SECOND)
    found = list(restatements(db, FeedFilter(), DAY, NEXT))
    assert {(each.feed, each.fetched_before, each.fetched_at) for each in found} <= {(FEED, FIRST, SECOND)}
    return [(each.day, each.figure, each.before, each.after, each.difference) for each in found]


def test_other_figures_write_a_restatement_of_their_day(db: Database) -> None:
    changed = Figures(DAY, media_source="m", clicks=9, cost=Decimal("0.3"))
    assert after(db, [ROW, OTHER, TOMORROW], [ROW, changed, TOMORROW]) == [
        (DAY, "clicks", 12, 16, 4),
        (DAY, "cost", Decimal("0.3"), Decimal("0.4"), Decimal("0.1")),
    ]


def test_the_same_figures_in_another_order_write_none(db: Database) -> None:
    assert after(db, [ROW, OTHER, TOMORROW], [TOMORROW, OTHER, ROW]) == []


def test_rows_that_vanish_and_days_that_fill_are_told_from_0(db: Database) -> None:
    assert after(db, [ROW, OTHER], [OTHER, TOMORROW]) == [
        (DAY, "rows", 2, 1, -1),
        (DAY, "clicks", 12, 5, -7),
        (DAY, "installs", 1, None, None),
        (DAY, "cost", Decimal("0.3"), Decimal("0.2"), Decimal("-0.1")),
        (NEXT, "rows", 0, 1, 1),
        (NEXT, "clicks", 0, 1, 1),
    ]


def test_what_no_sum_shows_is_called_details(db: Database) -> None:
    renamed = Figures(DAY, media_source="渠道", clicks=7, installs=1, cost=Decimal("0.1"), extra={"k": "w"})
    assert after(db, [ROW], [renamed]) == [(DAY, "details", None, None, None)]


def test_each_change_is_kept(db: Database) -> None:
    for hour, clicks in enumerate((3, 1, 2)):
        store(db, SCOPE, [Figures(DAY, clicks=clicks)], FIRST + timedelta(hours=hour))
    found = restatements(db, FeedFilter(), DAY, DAY)
    assert [(each.before, each.after) for each in found] == [(3, 1), (1, 2)]


def test_an_older_fetch_that_ends_later_changes_nothing(db: Database) -> None:
    assert after(db, [ROW], [ROW]) == []
    store(db, SCOPE, [OTHER], FIRST)
    assert list(restatements(db, FeedFilter(), DAY, DAY)) == []


@pytest.mark.parametrize("page_feeds", [1, 2, 3])
def test_they_come_by_feed_and_day_and_are_filtered(
    db: Database, monkeypatch: pytest.MonkeyPatch, page_feeds: int
) -> None:
    monkeypatch.setattr(restatements_module, "PAGE_FEEDS", page_feeds)
    for app_id in ("b", "a", "李"):
        for row_counts, moment in (([1, 1], FIRST), ([2, 3], SECOND)):
            add_days(db, app_id, DAY, row_counts, moment)

    def places(wanted: FeedFilter, start: date, end: date) -> list[tuple[str, date]]:
        found = restatements(db, wanted, start, end)
        return [(each.feed.app_id, each.day) for each in found if each.figure == "rows"]

    assert places(FeedFilter(), DAY, NEXT) == [(app_id, day) for app_id in ("a", "b", "李") for day in (DAY, NEXT)]
    assert places(FeedFilter(app_id="b"), NEXT, NEXT) == [("b", NEXT)]
    assert places(FeedFilter(username="nobody"), DAY, NEXT) == []
