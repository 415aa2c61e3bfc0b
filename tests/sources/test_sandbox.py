"""The sandbox as a vendor: read by our own source, and its quotas with a clock that tests move."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import date

import pytest

from crawlfleet.core.errors import AuthError, PermanentError, QuotaError, TransientError, UsageError
from crawlfleet.sources.appsflyer import AppsFlyer
from crawlfleet.sources.base import Account, SourceSettings
from crawlfleet.sources.sandbox import Sandbox, apps_of, expected_rows

REPORT = "partners_by_date_report"
FIRST = date(2026, 3, 1)


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0 // 86_400 * 86_400 + 3600

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sandbox(clock):
    with Sandbox(clock=clock) as sandbox:
        yield sandbox


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.setenv("DEMO_TOKEN", "sandbox-demo_agency")
    return Account("appsflyer", "demo_agency", kind="agency", token_env="DEMO_TOKEN")


@pytest.fixture
def source(sandbox):
    source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
    yield source
    source.close()


@pytest.fixture
def fetch(source, demo, context):
    def run(app_id, end=FIRST):
        return list(source.fetch_app_data(demo, app_id, REPORT, FIRST, end, context))

    return run


def get(url, token=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_source_reads_every_app_and_every_row_of_the_sandbox(sandbox, source, demo, context, fetch):
    apps = source.list_apps(demo, context)
    assert apps == apps_of("demo_agency") == sandbox.apps_of("demo_agency")
    assert 3 <= len(apps) <= 8
    assert len({app.app_id for app in apps}) == len(apps)
    last = date(2026, 5, 31)
    rows = fetch(apps[0].app_id, last)
    assert rows == expected_rows("demo_agency", apps[0].app_id, FIRST, last)
    keys = [(row.day, row.agency, row.media_source, row.campaign) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {"Organic", "restricted"} <= {row.media_source for row in rows}
    campaigns = "".join(row.campaign or "" for row in rows)
    assert all(character in campaigns for character in ',"\n')
    assert any(row.campaign is None and row.clicks is None for row in rows)
    assert len({row.day for row in rows}) < 92, "some days have no rows"


def test_a_day_is_the_same_in_any_range(sandbox):
    app_id = apps_of("u")[0].app_id
    days = [date(2026, 3, day) for day in (1, 2, 3)]
    assert expected_rows("u", app_id, days[0], days[2]) == [
        row for day in days for row in expected_rows("u", app_id, day, day)
    ]
    assert expected_rows("u", app_id, days[0], days[0]) != expected_rows("v", app_id, days[0], days[0])


def test_pages_of_the_app_list_link_to_each_other():
    with Sandbox(apps=5) as sandbox:
        url, seen = f"{sandbox.base_url}/api/mng/apps?limit=2", []
        while url:
            page = json.loads(get(url, "sandbox-x")[1])
            assert page["meta"]["total_items"] == 5
            seen += [record["id"] for record in page["data"]]
            url = page["links"].get("next")
        assert seen == [app.app_id for app in apps_of("x", 5)]
        assert "prev" in page["links"]


@pytest.mark.parametrize(
    ("path", "token", "status", "body"),
    [
        ("/api/mng/apps", None, 401, '"Unauthorized"'),
        ("/api/mng/apps", "other", 401, '"Unauthorized"'),
        ("/api/mng/apps?limit=0", "sandbox-u", 400, '"Bad request"'),
        ("/api/mng/apps?offset=x", "sandbox-u", 400, '"Bad request"'),
        ("/nothing", "sandbox-u", 404, "<html>"),
        (f"/api/agg-data/export/app/a/{REPORT}/v5", None, 401, "Supplied API token is invalid"),
        (f"/api/agg-data/export/app/a/{REPORT}/v5", "sandbox-u", 404, "<html>"),
        (f"/api/agg-data/export/app/{apps_of('v')[0].app_id}/{REPORT}/v5", "sandbox-u", 404, "<html>"),
        (f"/api/agg-data/export/app/{apps_of('u')[0].app_id}/{REPORT}/v5", "sandbox-u", 400, "dates"),
        (
            f"/api/agg-data/export/app/{apps_of('u')[0].app_id}/{REPORT}/v5?from=2026-01-02&to=2026-01-01",
            "sandbox-u",
            400,
            "after",
        ),
    ],
)
def test_the_sandbox_refuses_what_the_vendor_refuses(sandbox, path, token, status, body):
    answer = get(sandbox.base_url + path, token)
    assert answer[0] == status
    assert body in answer[1]


def test_a_wrong_token_is_an_auth_error(source, context, account):
    with pytest.raises(AuthError):
        source.list_apps(account, context)


def test_an_app_of_another_account_is_a_permanent_error(fetch):
    with pytest.raises(PermanentError, match="another account"):
        fetch(apps_of("demo_advertiser")[0].app_id)


def test_a_short_range_is_allowed_once_a_minute_for_each_app(fetch, clock):
    first, second = (app.app_id for app in apps_of("demo_agency")[:2])
    fetch(first)
    fetch(second, date(2026, 3, 2))
    clock.now += 59.9
    with pytest.raises(QuotaError, match="Limit reached for partners-daily-report"):
        fetch(first, date(2026, 3, 2))
    clock.now += 0.1
    fetch(first)


def test_long_ranges_are_allowed_24_times_a_day_for_an_app_and_120_times_for_an_account(
    clock, demo, context, monkeypatch
):
    last = date(2026, 3, 3)
    with Sandbox(apps=6, clock=clock) as sandbox:
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
        apps = [app.app_id for app in sandbox.apps_of("demo_agency")]

        def fetch(app_id):
            return list(source.fetch_app_data(demo, app_id, REPORT, FIRST, last, context))

        for _ in range(24):
            fetch(apps[0])
        with pytest.raises(QuotaError):
            fetch(apps[0])
        for app_id in apps[1:5]:
            for _ in range(24):
                fetch(app_id)
        with pytest.raises(QuotaError):
            fetch(apps[5])
        clock.now += 23 * 3600 - 1
        with pytest.raises(QuotaError):
            fetch(apps[5])
        clock.now += 1  # the UTC day is over
        fetch(apps[5])
        fetch(apps[0])
        source.close()


def test_the_app_list_is_allowed_20_times_a_minute_and_100_times_a_day(source, demo, context, clock):
    for _ in range(5):
        for _ in range(20):
            source.list_apps(demo, context)
        with pytest.raises(QuotaError, match="Too many requests") as caught:
            source.list_apps(demo, context)
        clock.now += 60
    assert caught.value.retry_after == pytest.approx(60, abs=0.1)
    with pytest.raises(QuotaError) as caught:
        source.list_apps(demo, context)
    assert caught.value.retry_after == pytest.approx(23 * 3600 - 300, abs=0.1)


def test_a_shorter_minute_and_day_are_told_with_retry_after(clock, demo, context):
    with Sandbox(minute_seconds=2, day_seconds=50, clock=clock) as sandbox:
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
        app_id = apps_of("demo_agency")[0].app_id
        list(source.fetch_app_data(demo, app_id, REPORT, FIRST, FIRST, context))
        with pytest.raises(QuotaError) as caught:
            list(source.fetch_app_data(demo, app_id, REPORT, FIRST, FIRST, context))
        assert caught.value.retry_after == pytest.approx(2, abs=0.01)
        clock.now += 10
        for _ in range(24):
            list(source.fetch_app_data(demo, app_id, REPORT, FIRST, date(2026, 3, 5), context))
        with pytest.raises(QuotaError) as caught:
            list(source.fetch_app_data(demo, app_id, REPORT, FIRST, date(2026, 3, 5), context))
        assert caught.value.retry_after == pytest.approx(40, abs=0.01)
        source.close()


def test_calls_are_counted_by_endpoint_and_account(sandbox, source, demo, context, fetch):
    source.list_apps(demo, context)
    app_id = apps_of("demo_agency")[0].app_id
    fetch(app_id)
    with pytest.raises(QuotaError):
        fetch(app_id)
    get(f"{sandbox.base_url}/api/mng/apps")
    stats = json.loads(get(f"{sandbox.base_url}/__stats__")[1])
    assert stats == sandbox.stats()
    assert stats == {
        "calls": 4,
        "refused": 2,
        "endpoints": {"app_list": {"calls": 2, "refused": 1}, REPORT: {"calls": 2, "refused": 1}},
        "accounts": {
            "(wrong token)": {"app_list": {"calls": 1, "refused": 1}},
            "demo_agency": {"app_list": {"calls": 1, "refused": 0}, REPORT: {"calls": 2, "refused": 1}},
        },
    }


def test_simulated_failures_are_transient_repeatable_and_cost_no_quota(demo, context):
    def outcomes(seed):
        with Sandbox(failure_rate=0.5, seed=seed) as sandbox:
            return [get(f"{sandbox.base_url}/api/mng/apps", "sandbox-u")[0] for _ in range(20)]

    assert outcomes(1) == outcomes(1) != outcomes(2)
    assert set(outcomes(1)) == {200, 500, 503}
    with Sandbox(failure_rate=1) as sandbox:
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
        with pytest.raises(TransientError, match="simulated failure"):
            source.list_apps(demo, context)
        source.close()


def test_starting_and_stopping_twice_is_fine_and_a_taken_port_is_wrong_usage():
    sandbox = Sandbox()
    sandbox.stop()
    sandbox.start()
    sandbox.start()
    port = int(sandbox.base_url.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
        Sandbox(port=port).start()
    sandbox.stop()
    sandbox.stop()
    with pytest.raises(UsageError):
        _ = sandbox.base_url


def test_a_stopped_sandbox_answers_no_connection_that_was_kept_alive(demo, context):
    sandbox = Sandbox()
    sandbox.start()
    source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
    source.list_apps(demo, context)
    sandbox.stop()
    with pytest.raises(TransientError):
        list(source.fetch_app_data(demo, apps_of("demo_agency")[0].app_id, REPORT, FIRST, FIRST, context))
    assert sandbox.stats()["calls"] == 1
    source.close()


@pytest.mark.parametrize("options", [{"failure_rate": 1.5}, {"minute_seconds": 0}, {"day_seconds": -1}])
def test_impossible_options_are_wrong_usage(options):
    with pytest.raises(UsageError):
        Sandbox(**options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_how_to_use_it_and_ends_on_a_signal(number):
    program = "from crawlfleet.sources.sandbox import serve; serve(port=0, say=lambda line: print(line, flush=True))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "__stats__" in line:
            break
    address = lines[1].partition("=")[2].strip()
    assert get(f"{address}/api/mng/apps", "sandbox-demo_agency")[0] == 200
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 0
    text = "".join(lines)
    assert "export CRAWLFLEET_APPSFLYER_BASE_URL=http://127.0.0.1:" in text
    assert "export SANDBOX_TOKEN_DEMO_AGENCY=sandbox-demo_agency" in text
    assert "accounts add --source appsflyer --username demo_advertiser" in text
