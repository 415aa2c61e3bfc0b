"""The sandbox's App Store, read by our own source, and its limit with a clock that tests move."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import UTC, date, datetime, timedelta

import pytest

from crawlfleet.core.errors import PermanentError, QuotaError
from crawlfleet.sandbox.apple.invented_data import (
    DEVELOPERS,
    STOREFRONTS,
    app_of,
    apps_of,
    expected_apps,
    expected_details,
    expected_rank,
    expected_reviews,
    newest_reviews,
)
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.sources.apple.source import CHARTS, Apple
from crawlfleet.sources.contract import Account, SourceSettings

ACCOUNT = Account("apple", DEVELOPERS[0])
BUSY = next(app for developer in range(10) for app in apps_of(str(developer)) if app.index == 3)


def today():
    return datetime.now(UTC).date()


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(minute_seconds=0.001) as sandbox:  # a limit that nobody meets
        yield sandbox


@pytest.fixture
def make_source(sandbox):
    made = []

    def make(base_url=sandbox.base_url, **options):
        made.append(Apple(SourceSettings(base_url=base_url, options=options)))
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture
def fetch(make_source, context):
    def run(app, report, start=None, end=None, **options):
        source = make_source(**options)
        start = start or today()
        return list(source.fetch_app_data(ACCOUNT, f"id{app.number}", report, start, end or start, context))

    return run


def get(url):
    try:
        with urllib.request.urlopen(url) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def test_every_developer_has_apps_and_the_source_reads_them(make_source, context):
    for developer in (*DEVELOPERS, "1", "123456"):
        apps = make_source().list_apps(Account("apple", developer), context)
        assert apps == expected_apps(developer)
        assert 3 <= len(apps) <= 5
        named = Account("apple", "by hand", app_ids=tuple(app.app_id for app in apps))
        assert make_source().list_apps(named, context) == apps


def test_an_apps_number_is_no_developers():
    assert not any(app_of(developer) for developer in DEVELOPERS)
    for app in apps_of(DEVELOPERS[0]):
        assert app_of(app.number) == app
    assert app_of(f"{DEVELOPERS[0]}779") is None


def test_the_source_reads_the_details_of_every_storefront(fetch):
    apps = apps_of(DEVELOPERS[0])
    assert not apps[1].is_sold_in("jp")
    for app in apps:
        rows = fetch(app, "app_details", countries=list(STOREFRONTS))
        sold = [country for country in STOREFRONTS if app.is_sold_in(country)]
        assert rows == [expected_details(app, country, today()) for country in sold]


def test_the_source_reads_every_review(fetch):
    end = today() - timedelta(1)
    rated = 0
    for app in (*apps_of(DEVELOPERS[0])[:3], BUSY):
        start = end - timedelta(20 if app == BUSY else 200)
        rows = fetch(app, "reviews", start, end, countries=["us", "jp"])
        assert rows == [row for country in ("us", "jp") for row in expected_reviews(app, country, start, end)]
        keys = [(row.country, row.dimensions["review_id"]) for row in rows]
        assert len(set(keys)) == len(keys)
        rated += bool(rows)
    assert rated == 3, "the Mac app has none"


def test_reviews_beyond_the_newest_500_are_refused_with_the_first_day_that_can_be_had(fetch):
    end = today()
    with pytest.raises(PermanentError, match="ask for days from") as caught:
        fetch(BUSY, "reviews", end - timedelta(90), end)
    first = date.fromisoformat(str(caught.value).partition("days from ")[2][:10])
    rows = fetch(BUSY, "reviews", first, end)
    assert 450 <= len(rows) <= 500
    assert [row for row in rows if row.day < end] == expected_reviews(BUSY, "us", first, end - timedelta(1))


def test_reviews_of_today_are_those_that_are_out():
    now = datetime(2026, 5, 5, 12, tzinfo=UTC)
    moments = [review.moment for review in newest_reviews(BUSY, "us", now)]
    assert moments == sorted(moments, reverse=True)
    assert moments[0] <= now
    assert moments[0].date() == now.date()
    assert BUSY.released <= moments[-1].date()


@pytest.mark.parametrize("report", CHARTS)
def test_the_source_reads_the_ranks(fetch, report):
    countries = list(STOREFRONTS)
    apps = [app for developer in DEVELOPERS for app in apps_of(developer)]
    found = 0
    for app in apps:
        rows = fetch(app, report, countries=countries)
        assert rows == [row for each in countries for row in expected_rank(app, each, CHARTS[report], today())]
        found += len(rows)
    assert 0 < found < len(apps) * len(countries)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/lookup?id=1&country=xx", 400),
        ("/lookup?id=a", 400),
        ("/lookup", 400),
        ("/lookup?id=" + ",".join(map(str, range(201))), 502),
        ("/us/rss/customerreviews/page=11/id=1/sortby=mostrecent/json", 400),
        ("/us/rss/customerreviews/page=0/id=1/sortby=mostrecent/json", 400),
        ("/xx/rss/customerreviews/page=1/id=1/sortby=mostrecent/json", 400),
        ("/us/rss/customerreviews/page=1/id=1/sortby=other/json", 404),
        ("/api/v2/us/apps/top-free/101/apps.json", 500),
        ("/api/v2/xx/apps/top-free/100/apps.json", 404),
        ("/api/v2/us/apps/top-grossing/100/apps.json", 404),
    ],
)
def test_impossible_requests_get_the_vendors_refusal(sandbox, path, status):
    assert get(sandbox.base_url + path)[0] == status


def test_a_developer_without_entity_is_only_the_developer(sandbox):
    answer = json.loads(get(f"{sandbox.base_url}/lookup?id={DEVELOPERS[0]}")[1])
    assert [each["wrapperType"] for each in answer["results"]] == ["artist"]


@pytest.mark.parametrize(("minute_seconds", "told"), [(60.0, None), (30.0, 30.0)])
def test_the_21st_call_of_a_minute_is_refused_without_a_body(minute_seconds, told):
    now = [1_700_000_000.0]
    with Sandbox(minute_seconds=minute_seconds, clock=lambda: now[0]) as sandbox:
        for number in range(20):
            path = ("/lookup?id=1", "/api/v2/us/apps/top-free/1/apps.json")[number % 2]
            assert get(sandbox.base_url + path)[0] == 200
        status, body, headers = get(f"{sandbox.base_url}/lookup?id=1")
        assert (status, body) == (403, "")
        assert (headers["Retry-After"] and float(headers["Retry-After"])) == pytest.approx(told, abs=0.01)
        now[0] += minute_seconds
        assert get(f"{sandbox.base_url}/lookup?id=1")[0] == 200
        assert sandbox.stats()["endpoints"] == {
            "apple_charts": {"calls": 10, "refused": 0},
            "apple_lookup": {"calls": 12, "refused": 1},
        }


def test_the_source_meets_the_limit_as_a_quota(make_source, context):
    with Sandbox() as sandbox:
        source = make_source(sandbox.base_url)
        for _ in range(20):
            source.list_apps(ACCOUNT, context)
        with pytest.raises(QuotaError) as caught:
            source.list_apps(ACCOUNT, context)
    assert (caught.value.scope, caught.value.retry_after) == ("store_calls", None)


def test_failures_come_in_place_of_answers():
    with Sandbox(failure_rate=1.0) as sandbox:
        assert get(f"{sandbox.base_url}/lookup?id=1")[0] in (500, 503)
