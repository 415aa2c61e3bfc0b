from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from crawlfleet.core.db import Database
from crawlfleet.core.sql import sql
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange, Row, Scope
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.model.range_store import replace_range
from tests.cli.console import Console

KEYS = ["source", "username", "app_id", "report", "date", "agency", "media_source", "campaign", "country"]
KEYS += ["impressions", "clicks", "installs", "sessions", "loyal_users", "revenue", "cost", "currency", "extra"]
DAY, NEXT = date(2026, 1, 1), date(2026, 1, 2)


def store(console: Console, scope: Scope, rows: Iterable[Row]) -> None:
    """What a task that fetched these rows would store."""
    now = datetime(2026, 1, 3, tzinfo=UTC)

    def work(db: Database) -> None:
        db.write(lambda connection: replace_range(connection, scope, rows, now))

    console.on_database(work)


def figures_of(app_id: str, username: str = "u", source: str = "appsflyer", report: str = "r") -> ReportRange:
    return ReportRange(source, username, app_id, report, DAY, NEXT)


def test_rows_have_exactly_the_promised_keys(any_console: Console) -> None:
    assert any_console("data", "rows", "--json").json == []
    row = Figures(
        DAY,
        media_source="渠道",
        clicks=3,
        revenue=Decimal("12345678.123456"),
        cost=Decimal("0.1"),
        dimensions={"adset": "x"},
        extra={"ROI": "1.5"},
    )
    store(any_console, figures_of("id1"), [row])
    [found] = any_console("data", "rows", "--json").json
    assert list(found) == KEYS
    assert found == {
        "source": "appsflyer",
        "username": "u",
        "app_id": "id1",
        "report": "r",
        "date": "2026-01-01",
        "agency": None,
        "media_source": "渠道",
        "campaign": None,
        "country": None,
        "impressions": None,
        "clicks": 3,
        "installs": None,
        "sessions": None,
        "loyal_users": None,
        "revenue": 12345678.123456,
        "cost": 0.1,
        "currency": "unknown",
        "extra": {"adset": "x", "ROI": "1.5"},
    }
    numbers = json.loads(any_console("data", "rows", "--json").out, parse_float=Decimal)[0]
    assert (numbers["revenue"], numbers["cost"]) == (Decimal("12345678.123456"), Decimal("0.1"))


def test_amounts_of_several_currencies_are_told_apart_wherever_they_are_read(any_console: Console) -> None:
    """Amounts of dollars, euros and yuan were added up by the sample SQL, and no row said what its amounts were in."""
    listed = [App("id1", currency="USD"), App("id2", currency="EUR"), App("id3")]
    store(any_console, AppList("appsflyer", "u"), listed)
    for app_id in ("id1", "id2", "id3", "id4"):
        store(any_console, figures_of(app_id), [Figures(DAY, media_source="m", cost=Decimal("1.5"))])
    expected = {"id1": "USD", "id2": "EUR", "id3": "unknown", "id4": "unknown"}
    found = any_console("data", "rows", "--json").json
    assert {row["app_id"]: row["currency"] for row in found} == expected
    exported = any_console("data", "export", "--format", "jsonl").out.splitlines()
    assert {row["app_id"]: row["currency"] for row in map(json.loads, exported)} == expected
    table = any_console("data", "rows").out
    assert "currency" in table.splitlines()[0]
    assert "EUR" in table

    def sample(db: Database) -> list[tuple[object, ...]]:
        query = "SELECT currency, SUM(cost) FROM v_app_data WHERE username = 'u' GROUP BY currency ORDER BY currency"
        with db.read() as reader:
            return [(currency, float(cost)) for currency, cost in reader.execute(sql(query))]

    assert sorted(any_console.on_database(sample)) == [("EUR", 1.5), ("USD", 1.5), ("unknown", 3.0)]


@pytest.mark.parametrize("page_rows", [1, 2, 3, 100])
def test_rows_are_read_in_pages_without_losing_one(
    any_console: Console, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    monkeypatch.setattr(stored_rows, "PAGE_ROWS", page_rows)
    names = [f"m{n}" for n in range(3)]
    for app_id in ("b", "a", "empty"):
        days = [] if app_id == "empty" else [DAY, NEXT]
        store(any_console, figures_of(app_id), [Figures(day, media_source=name) for day in days for name in names])
    found = any_console("data", "rows", "--json").json
    places = [(row["app_id"], row["date"]) for row in found]
    assert places == sorted(places)
    assert sorted((*place, row["media_source"]) for place, row in zip(places, found, strict=True)) == sorted(
        (app_id, str(day), name) for app_id in "ab" for day in (DAY, NEXT) for name in names
    )
    assert any_console("data", "rows", "--json", "--limit", "4").json == found[:4]


def test_rows_are_filtered(any_console: Console) -> None:
    store(any_console, figures_of("x", username="李"), [Figures(DAY), Figures(NEXT)])
    store(any_console, figures_of("y", report="geo"), [Figures(DAY)])
    store(any_console, figures_of("z", source="other"), [Figures(NEXT)])
    for options, expected in (
        (["--username", "李"], ["x", "x"]),
        (["--app-id", "y"], ["y"]),
        (["--report", "geo"], ["y"]),
        (["--source", "other"], ["z"]),
        (["--start-date", "2026-01-02"], ["x", "z"]),
        (["--end-date", "2026-01-01"], ["x", "y"]),
        (["--start-date", "2026-01-02", "--end-date", "2026-01-02", "--username", "u"], ["z"]),
        (["--start-date", "2026-02-01"], []),
        (["--limit", "1"], ["y"]),
    ):
        assert sorted(row["app_id"] for row in any_console("data", "rows", "--json", *options).json) == expected


def test_the_table_of_rows_is_cut_and_says_so(ready: Console) -> None:
    store(ready, figures_of("应用"), [Figures(DAY, media_source=f"m{n:03}") for n in range(60)])
    said = ready("data", "rows")
    assert len(said.out.splitlines()) == 51
    assert "应用" in said.out
    assert "first 50" in said.err
    assert len(ready("data", "rows", "--limit", "55").out.splitlines()) == 56
    said = ready("data", "rows", "--limit", "61")
    assert (len(said.out.splitlines()), said.err) == (61, "")
    assert len(ready("data", "rows", "--json").json) == 60


def test_figures_are_read_no_earlier_than_they_are_needed(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    store(ready, figures_of("a"), [Figures(DAY, media_source=f"m{n}") for n in range(10)])
    monkeypatch.setattr(stored_rows, "PAGE_ROWS", 4)
    pages = []
    read_page = stored_rows._page
    monkeypatch.setattr(stored_rows, "_page", lambda db, query: pages.append(1) or read_page(db, query))

    def pages_read(db: Database) -> list[int]:
        rows = stored_rows.data_rows(db, FeedFilter())
        return [len(pages) for _ in rows]

    assert ready.on_database(pages_read) == [1] * 4 + [2] * 4 + [3] * 2


def test_apps_are_shown(any_console: Console) -> None:
    app = App("id1", "苹果 游戏", "ios", "USD", "Asia/Shanghai", {"k": "v"})
    store(any_console, AppList("appsflyer", "u"), [app])
    store(any_console, AppList("appsflyer", "李"), [App("id2")])
    found = any_console("data", "apps", "--json").json
    assert [(row["username"], row["app_id"], row["app_status"]) for row in found] == [
        ("u", "id1", "active"),
        ("李", "id2", "active"),
    ]
    assert (found[0]["app_name"], found[0]["extra"], found[1]["app_name"]) == ("苹果 游戏", {"k": "v"}, None)
    assert found[0]["fetched_at"] == "2026-01-03T00:00:00Z"
    assert [row["app_id"] for row in any_console("data", "apps", "--json", "--username", "李").json] == ["id2"]
    assert any_console("data", "apps", "--json", "--source", "apple").json == []
    assert "苹果 游戏" in any_console("data", "apps").out


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--start-date", "2026-02-30"], ["--start-date", "'2026-02-30'"]),
        (["--start-date", "20260101"], ["--start-date", "'20260101'"]),
        (["--end-date", "today"], ["--end-date", "'today'"]),
        (["--start-date", "2026-02-02", "--end-date", "2026-02-01"], ["2026-02-02", "2026-02-01"]),
        (["--limit", "0"], ["--limit", "'0'"]),
        (["--limit", "many"], ["--limit", "'many'"]),
        (["--app", "x"], ["--app", "did you mean --app-id?"]),
    ],
)
def test_wrong_usage_is_explained(ready: Console, options: list[str], parts: list[str]) -> None:
    error = ready.refuses(2, "data", "rows", *options)
    assert [part for part in parts if part not in error] == [], error


def test_the_table_leaves_out_what_is_empty_and_shows_what_a_row_without_figures_tells(ready: Console) -> None:
    store(ready, figures_of("x"), [Figures(DAY, media_source="m", installs=0)])
    assert ready("data", "rows").out.splitlines()[0].split() == [
        "username",
        "app_id",
        "date",
        "media_source",
        "installs",
    ]
    store(ready, figures_of("y"), [Figures(DAY, country="de", extra={"评分": 4.5, "text": "t" * 100})])
    out = ready("data", "rows").out
    assert out.splitlines()[0].split()[3:] == ["media_source", "country", "installs", "extra"]
    assert '{"评分": 4.5, "text": "ttt' in out
    assert "t..." in out
    assert "t" * 100 not in out
