"""The sandbox as a vendor: read by our own source, and its quotas with a clock that tests move."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from crawlfleet.core.errors import (
    AuthError,
    NotPermitted,
    PermanentError,
    QuotaError,
    RangeTooLarge,
    TransientError,
    UsageError,
)
from crawlfleet.sandbox.appsflyer.invented_data import DAILY, GEO, MASTER, PARTNERS
from crawlfleet.sandbox.server import Sandbox, apps_of, expected_rows
from crawlfleet.sources.appsflyer.master import GROUPINGS, KPIS
from crawlfleet.sources.appsflyer.source import REPORTS, AppsFlyer
from crawlfleet.sources.contract import Account, SourceSettings

REPORT = PARTNERS
MASTER_CALL = f"/api/master-agg-data/v4/app/all?groupings={GROUPINGS}&kpis={KPIS}"
FIRST = date(2026, 3, 1)


class Clock:
    def __init__(self):
        self.now = 1_790_000_000.0 // 86_400 * 86_400 + 3600

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
    def run(app_id, end=FIRST, report=REPORT):
        return list(source.fetch_app_data(demo, app_id, report, FIRST, end, context))

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


@pytest.mark.parametrize("report", sorted(REPORTS))
def test_every_report_is_read_as_it_was_invented(sandbox, fetch, report):
    app_id, last = apps_of("demo_agency")[0].app_id, date(2026, 3, 31)
    rows = fetch(app_id, last, report)
    assert rows == sandbox.expected_rows("demo_agency", app_id, FIRST, last, report)
    keys = [(row.day, row.agency, row.media_source, row.campaign, row.country, *row.dimensions.items()) for row in rows]
    assert len(set(keys)) == len(keys) > 100


def test_rows_of_countries_and_ads_add_up_to_their_campaign():
    app_id, last = apps_of("demo_agency")[0].app_id, date(2026, 3, 31)
    sums = []
    for report in sorted(REPORTS):
        installs, clicks = Counter(), Counter()
        for row in expected_rows("demo_agency", app_id, FIRST, last, report):
            installs[row.day, row.media_source, row.campaign] += row.installs
            clicks[row.day, row.media_source, row.campaign] += row.clicks or 0
        sums.append((installs, clicks))
    assert sums == [sums[0]] * 4
    assert len(expected_rows("demo_agency", app_id, FIRST, last, GEO)) > len(sums[0][0])


def test_all_apps_come_in_one_master_report(sandbox, fetch):
    rows = fetch("all", report=MASTER)
    app_ids = [app.app_id for app in sandbox.apps_of("demo_agency")]
    assert rows == [row for each in app_ids for row in expected_rows("demo_agency", each, FIRST, FIRST, MASTER)]
    assert {row.dimensions["app_id"] for row in rows} <= set(app_ids)
    assert len({row.dimensions["app_id"] for row in rows}) > 1
    assert sandbox.stats()["endpoints"] == {
        "master_by_ad": {"calls": 1, "refused": 0},
        "master_last_update": {"calls": 1, "refused": 0},
    }


def test_master_data_are_ready_two_days_later(source, demo, context, clock):
    today = datetime.fromtimestamp(clock.now, UTC).date()
    ready, early = today - timedelta(2), today - timedelta(1)
    assert list(source.fetch_app_data(demo, "all", MASTER, ready, ready, context))
    with pytest.raises(TransientError, match=f"reach {ready}, not yet {early}"):
        list(source.fetch_app_data(demo, "all", MASTER, early, early, context))
    clock.now += 86_400
    assert list(source.fetch_app_data(demo, "all", MASTER, early, early, context))


def test_an_account_may_lack_reports(clock, demo, context):
    def permits(username, report):
        return report == REPORT

    app_id = apps_of("demo_agency")[0].app_id
    with Sandbox(clock=clock, permits=permits) as sandbox:
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
        assert list(source.fetch_app_data(demo, app_id, REPORT, FIRST, FIRST, context))
        for report in sorted({*REPORTS} - {REPORT}):
            with pytest.raises(NotPermitted):
                list(source.fetch_app_data(demo, app_id, report, FIRST, FIRST, context))
        source.close()


def test_a_plan_without_the_master_api_goes_with_the_name(source, context, monkeypatch):
    monkeypatch.setenv("DEMO_TOKEN", "sandbox-noplan_agency")
    account = Account("appsflyer", "noplan_agency", token_env="DEMO_TOKEN")
    with pytest.raises(NotPermitted, match="not part of the account's plan"):
        list(source.fetch_app_data(account, "all", MASTER, FIRST, FIRST, context))
    app_id = apps_of("noplan_agency")[0].app_id
    assert list(source.fetch_app_data(account, app_id, DAILY, FIRST, FIRST, context))


def test_a_report_beyond_the_row_cap_is_cut_silently_but_refused_by_the_master_api(clock, demo, context):
    app_id, last = apps_of("demo_agency")[0].app_id, date(2026, 3, 10)
    with Sandbox(clock=clock, row_cap=20) as sandbox:
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
        rows = list(source.fetch_app_data(demo, app_id, GEO, FIRST, last, context))
        assert rows == expected_rows("demo_agency", app_id, FIRST, last, GEO)[:20]
        with pytest.raises(RangeTooLarge, match="Other reason"):
            list(source.fetch_app_data(demo, app_id, MASTER, FIRST, last, context))
        source.close()


@pytest.mark.parametrize(("options", "message"), [({"cut_rate": 1}, None), ({"stall_rate": 1}, "no answer in time")])
@pytest.mark.parametrize("report", sorted(REPORTS))
def test_answers_that_are_cut_or_fall_silent_are_transient(clock, demo, context, options, message, report):
    with Sandbox(clock=clock, **options) as sandbox:
        patience = 0.2 if "stall_rate" in options else 10  # a busy machine takes its time for what is cut
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url, timeout_seconds=patience))
        app_id = apps_of("demo_agency")[0].app_id
        with pytest.raises(TransientError, match=message):
            list(source.fetch_app_data(demo, app_id, report, FIRST, FIRST, context))
        assert sandbox.stats()["refused"] == 1
        source.close()


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
        ("/api/master-agg-data/lastupdate", None, 401, "Supplied API token is invalid"),
        ("/api/master-agg-data/v4/app/all", None, 401, "Supplied API token is invalid"),
        ("/api/master-agg-data/v4/app/a,b", "sandbox-u", 403, "Not authorized app-ids: a,b"),
        ("/api/master-agg-data/v4/app/all", "sandbox-noplan", 404, "Not found"),
        ("/api/master-agg-data/v4/app/all", "sandbox-u", 403, "Unrecognized date format."),
        (f"{MASTER_CALL}&from=2026-03-02&to=2026-03-01", "sandbox-u", 403, "From date can't be after To date."),
        ("/api/master-agg-data/v4/app/all?from=2026-03-01&to=2026-03-01", "sandbox-u", 403, "No KPIs provided."),
        (f"{MASTER_CALL}&from=2026-03-01&to=2026-04-01", "sandbox-u", 416, "choose a narrower time range"),
        (f"{MASTER_CALL},uninstalls&from=2026-03-01&to=2026-03-31", "sandbox-u", 416, "Wrong API Fields"),
        (
            "/api/master-agg-data/v4/app/all?from=2026-03-01&to=2026-03-01&kpis=clicks",
            "sandbox-u",
            416,
            "No Groupings Selected",
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


@pytest.mark.parametrize(
    ("report", "name"), [(REPORT, "partners-daily-report"), (DAILY, "daily-report"), (GEO, "geo-daily-report")]
)
def test_each_report_has_a_minute_of_its_own_and_its_name_in_the_refusal(fetch, report, name):
    app_id = apps_of("demo_agency")[0].app_id
    for each in (REPORT, DAILY, GEO):
        fetch(app_id, report=each)
    with pytest.raises(QuotaError, match=f"Limit reached for {name}$"):
        fetch(app_id, report=report)


def test_long_ranges_of_all_reports_count_together(fetch):
    app_id, last = apps_of("demo_agency")[0].app_id, date(2026, 3, 3)
    for number in range(24):
        fetch(app_id, last, (REPORT, DAILY, GEO)[number % 3])
    with pytest.raises(QuotaError, match="daily-report"):
        fetch(app_id, last, DAILY)


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
        "over_quota": 1,
        "refused": 2,
        "moods": {"over-quota": 1},
        "token_leaks": 0,
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


@pytest.mark.parametrize(
    "options", [{"failure_rate": 1.5}, {"cut_rate": -1}, {"stall_rate": 2}, {"minute_seconds": 0}, {"day_seconds": -1}]
)
def test_impossible_options_are_wrong_usage(options):
    with pytest.raises(UsageError):
        Sandbox(**options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_how_to_use_it_and_ends_on_a_signal(number):
    program = "from crawlfleet.sandbox.server import serve; serve(port=0, say=lambda line: print(line, flush=True))"
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
    assert "export CRAWLFLEET_APPLE_BASE_URL=http://127.0.0.1:" in text
    assert "accounts add --source apple --username 9990002\n" in text


# Reports as files


@pytest.mark.parametrize("redirects", ["both", "port", "origin", "off"])
@pytest.mark.parametrize("report", sorted(REPORTS))
def test_reports_are_redirected_to_files_wherever_they_are(clock, demo, context, redirects, report):
    with Sandbox(clock=clock, redirects=redirects) as sandbox:
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
        for app in sandbox.apps_of("demo_agency")[:2]:
            rows = list(source.fetch_app_data(demo, app.app_id, report, FIRST, FIRST, context))
            assert rows == sandbox.expected_rows("demo_agency", app.app_id, FIRST, FIRST, report)
        source.close()
        assert sandbox.stats()["token_leaks"] == 0
        assert sandbox.stats()["endpoints"][report] == {"calls": 2, "refused": 0}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args):
        return None


def test_a_file_can_be_had_once_within_a_minute_and_never_with_a_token(clock):
    def address_of_file():
        request = urllib.request.Request(report, headers={"Authorization": "Bearer sandbox-u"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.build_opener(_NoRedirects).open(request)
        with caught.value as answer:
            assert answer.code == 302
            return answer.headers["Location"]

    with Sandbox(clock=clock, redirects="port") as sandbox:
        report = f"{sandbox.base_url}{MASTER_CALL}&from=2026-03-01&to=2026-03-01"
        first = address_of_file()
        assert not first.startswith(sandbox.base_url)
        assert get(first, "sandbox-u")[0] == 400
        assert sandbox.stats()["token_leaks"] == 1
        assert get(first)[0] == 200
        assert "Request has expired" in get(first)[1]
        second = address_of_file()
        clock.now += 60
        assert get(second)[0] == 403
