"""The moods of the simulated AppsFlyer, as a client meets them."""

from __future__ import annotations

import json
import urllib.request
from datetime import date, timedelta

import pytest

from crawlfleet.core.errors import NotPermitted, QuotaError, TransientError, UsageError
from crawlfleet.sandbox.appsflyer.invented_data import MASTER, PARTNERS
from crawlfleet.sandbox.moods import MOODS, Moods, parse_moods
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.sources.appsflyer.source import AppsFlyer
from crawlfleet.sources.contract import Account, SourceSettings

FIRST = date(2026, 3, 1)


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.setenv("DEMO_TOKEN", "sandbox-demo_agency")
    return Account("appsflyer", "demo_agency", kind="agency", token_env="DEMO_TOKEN")


def fetch(sandbox, demo, context, app_id, last=FIRST, report=PARTNERS):
    source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
    try:
        return list(source.fetch_app_data(demo, app_id, report, FIRST, last, context))
    finally:
        source.close()


@pytest.mark.parametrize("text", ["", "grumpy", "empty=2", "empty=-1", "empty=x", "empty=1.5", "pace=0.5", "empty=3"])
def test_a_mood_that_cannot_be_is_wrong_usage(text):
    with pytest.raises(UsageError, match="mood"):
        Sandbox(moods=[text])


def test_all_means_every_mood():
    assert parse_moods(["all=0.2"]).keys() == MOODS.keys()


def test_a_seed_strikes_the_same_calls_in_whatever_order_they_come():
    calls = [("u", PARTNERS, f"app{n}", "2026-01-01", "2026-01-01") for n in range(200)] * 2

    def struck(seed, order):
        moods = Moods(["cdn-page=0.3"], seed)
        found = [call for call in order if moods.strikes("cdn-page", call)]
        return sorted(found)

    assert struck(1, calls) == struck(1, calls[::-1]) != struck(2, calls)
    assert 80 < len(struck(1, calls)) < 160
    assert not Moods(["cdn-page=0.3"], 1).strikes("bare-403", calls[0])


@pytest.mark.parametrize(
    "mood", ["cdn-page", "bare-403", "spurious-404", "spurious-408", "spurious-416", "spurious-425"]
)
@pytest.mark.parametrize("report", [PARTNERS, MASTER])
def test_a_count_strikes_the_first_calls_before_any_quota(demo, context, mood, report):
    with Sandbox(moods=[f"{mood}=2x"]) as sandbox:
        app_id = sandbox.apps_of("demo_agency")[0].app_id
        for _ in range(2):
            with pytest.raises((TransientError, NotPermitted)) as caught:
                fetch(sandbox, demo, context, app_id, report=report)
            assert getattr(caught.value, "in_words", False) is False
        assert fetch(sandbox, demo, context, app_id, report=report)
        assert [call["mood"] for call in sandbox.calls()][:3] == [mood, mood, ""]


def test_an_expired_address_is_transient_and_spends_the_quota(demo, context):
    with Sandbox(moods=["expired=1x"]) as sandbox:
        app_id = sandbox.apps_of("demo_agency")[0].app_id
        with pytest.raises(TransientError, match="Request has expired"):
            fetch(sandbox, demo, context, app_id)
        with pytest.raises(QuotaError):
            fetch(sandbox, demo, context, app_id)


def test_only_days_that_were_answered_before_come_back_empty(demo, context):
    with Sandbox(moods=["empty=1"]) as sandbox:
        app_id, last = sandbox.apps_of("demo_agency")[0].app_id, FIRST + timedelta(3)
        assert fetch(sandbox, demo, context, app_id, last)
        assert fetch(sandbox, demo, context, app_id, last) == []
        assert fetch(sandbox, demo, context, app_id, last + timedelta(1))


def test_a_call_at_exactly_the_declared_pace_is_refused_but_none_too_many(demo, context):
    now = [1_790_000_000.0]
    with Sandbox(moods=["pace"], clock=lambda: now[0]) as sandbox:
        app_id = sandbox.apps_of("demo_agency")[0].app_id
        fetch(sandbox, demo, context, app_id)
        for seconds, over_quota in ((60.5, 0), (-1, 1)):
            now[0] += seconds
            with pytest.raises(QuotaError):
                fetch(sandbox, demo, context, app_id)
            assert sandbox.stats()["over_quota"] == over_quota
        now[0] += 3.6
        fetch(sandbox, demo, context, app_id)


def test_apps_with_odd_ids_are_listed_and_fetched(demo, context):
    with Sandbox(apps=9, moods=["odd-ids"]) as sandbox:
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
        ids = [app.app_id for app in source.list_apps(demo, context)]
        source.close()
        assert len(set(ids)) == 9
        assert any(" " in each for each in ids)
        assert any("/" in each for each in ids)
        assert any(each.isdigit() for each in ids)
        assert not all(map(str.isascii, ids))
        for app_id in ids:
            rows = sandbox.expected_rows("demo_agency", app_id, FIRST, FIRST)
            assert fetch(sandbox, demo, context, app_id) == rows


def test_amounts_of_events_are_in_the_currency_of_the_app(demo, context):
    with Sandbox(apps=12) as sandbox:
        apps = sandbox.apps_of("demo_agency")
        assert len({app.currency for app in apps}) > 1
        assert len({app.time_zone for app in apps}) > 1
        for app in apps[:4]:
            rows = fetch(sandbox, demo, context, app.app_id)
            assert rows == sandbox.expected_rows("demo_agency", app.app_id, FIRST, FIRST)
            assert all(f"af_purchase (Sales in {app.currency})" in row.extra for row in rows)


def test_every_call_is_noted_with_what_it_asked_for(demo, context):
    with Sandbox(moods=["cdn-page=1x"], clock=lambda: 1_790_000_000.0) as sandbox:
        app_id = sandbox.apps_of("demo_agency")[0].app_id
        with pytest.raises(TransientError):
            fetch(sandbox, demo, context, app_id)
        fetch(sandbox, demo, context, app_id)
        with urllib.request.urlopen(f"{sandbox.base_url}/__calls__") as answer:
            told = json.load(answer)
        assert told == sandbox.calls()
        assert sandbox.stats()["moods"] == {"cdn-page": 1}
    asked = {"at": 1_790_000_000.0, "account": "demo_agency", "endpoint": PARTNERS, "app_id": app_id}
    asked |= {"from": "2026-03-01", "to": "2026-03-01"}
    assert told == [{**asked, "status": 403, "mood": "cdn-page"}, {**asked, "status": 200, "mood": ""}]
