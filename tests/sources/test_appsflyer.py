"""AppsFlyer against its documented answers and against answers that are none."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from werkzeug import Request, Response

from crawlfleet.core.errors import AuthError, PermanentError, QuotaError, TransientError
from crawlfleet.core.figures import App, Figures
from crawlfleet.sources.appsflyer import AppsFlyer
from crawlfleet.sources.base import AppListUnavailable, SourceSettings

FIXTURES = Path(__file__).parent.parent / "fixtures"
REPORT = "partners_by_date_report"
PATH = f"/api/agg-data/export/app/com.example.puzzlefarm/{REPORT}/v5"
DAY = date(2026, 11, 20)
HEADER = "Date,Agency/PMD (af_prt),Media Source (pid),Campaign (c),Impressions,Clicks,Installs,Total Revenue"
ROW = "2026-11-20,None,x_int,c1,10,2,1,0.5000"


@pytest.fixture
def source(httpserver):
    source = AppsFlyer(SourceSettings(base_url=httpserver.url_for("/")))
    yield source
    source.close()


@pytest.fixture
def fetch(source, account, context):
    def run(start=DAY, end=DAY, app_id="com.example.puzzlefarm", report=REPORT):
        return list(source.fetch_app_data(account, app_id, report, start, end, context))

    return run


@pytest.fixture
def fetch_text(httpserver, fetch):
    def run(text, **options):
        httpserver.expect_request(PATH).respond_with_data(text, content_type="text/csv")
        return fetch(**options)

    return run


def serve_pages(httpserver, *pages):
    """Each page links to the next; the query of a link is its number."""
    for number, page in enumerate(pages):
        query = {"page": str(number)} if number else {"limit": "1000"}
        httpserver.expect_request("/api/mng/apps", query_string=query).respond_with_json(page)


def page_of(httpserver, *app_ids, following=None, **more):
    link = {"next": httpserver.url_for(f"/api/mng/apps?page={following}")} if following else {}
    return {"data": [{"id": app_id, "type": "app"} for app_id in app_ids], "links": link, **more}


# The app list


def test_the_documented_app_list_is_read_over_its_pages(httpserver, source, account, context, token):
    pages = []
    for number in (1, 2):
        text = (FIXTURES / f"appsflyer_app_list_page{number}.json").read_text()
        pages.append(json.loads(text.replace("https://hq1.appsflyer.com", httpserver.url_for("").rstrip("/"))))
    httpserver.expect_request("/api/mng/apps", query_string={"limit": "1000"}).respond_with_json(pages[0])
    second = {"offset": "2", "limit": "2"}
    httpserver.expect_request("/api/mng/apps", query_string=second).respond_with_json(pages[1])
    assert source.list_apps(account, context) == [
        App("com.example.puzzlefarm", "Puzzle Farm", "android", "USD", "UTC", {"enable_retargetting": True}),
        App("id9990000001", "Puzzle Farm", "ios", "USD", "UTC"),
        App("com.example.budgetowl", "Budget Owl", "android", "EUR", "Europe/Paris"),
    ]
    assert [request.headers["Authorization"] for request, _ in httpserver.log] == [f"Bearer {token}"] * 2


def test_an_app_without_attributes_or_listed_twice_is_one_app(httpserver, source, account, context):
    records = [{"id": "a"}, {"id": "b", "attributes": None}, {"id": "a", "attributes": {"name": 7, "platform": None}}]
    httpserver.expect_request("/api/mng/apps").respond_with_json({"data": records})
    assert source.list_apps(account, context) == [App("a"), App("b")]


def test_an_app_name_that_no_database_takes_is_made_storable(httpserver, source, account, context):
    body = '{"data": [{"id": "a", "attributes": {"name": "x\\u0000y\\ud800z"}}]}'
    httpserver.expect_request("/api/mng/apps").respond_with_data(body)
    assert source.list_apps(account, context)[0].name == "x\ufffdy?z"


def test_an_account_without_apps_has_an_empty_list(httpserver, source, account, context):
    httpserver.expect_request("/api/mng/apps").respond_with_json({"data": [], "meta": {"total_items": 0}, "links": {}})
    assert source.list_apps(account, context) == []


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        "Unauthorized",
        None,
        {"data": {}},
        {"data": None},
        {"data": ["a"]},
        {"data": [{"name": "x"}]},
        {"data": [{"id": 7}]},
        {"data": [{"id": ""}]},
        {"data": [{"id": "a\x00b"}]},
        {"data": [{"id": "a"}], "links": {"next": 7}},
    ],
)
def test_an_answer_of_another_shape_is_no_app_list(httpserver, source, account, context, answer):
    httpserver.expect_request("/api/mng/apps").respond_with_json(answer)
    with pytest.raises(PermanentError):
        source.list_apps(account, context)


def test_a_page_that_links_to_itself_ends(httpserver, source, account, context):
    serve_pages(httpserver, page_of(httpserver, "a", following=1), page_of(httpserver, "b", following=1))
    with pytest.raises(PermanentError, match="no end"):
        source.list_apps(account, context)
    assert len(httpserver.log) == 2


def test_pages_without_new_apps_end_before_they_use_up_the_quota(httpserver, source, account, context):
    def endless(request: Request) -> Response:
        number = int(request.args.get("page", 0)) + 1
        return Response(json.dumps(page_of(httpserver, "a", following=number)))

    httpserver.expect_request("/api/mng/apps").respond_with_handler(endless)
    with pytest.raises(PermanentError, match="no end"):
        source.list_apps(account, context)
    assert len(httpserver.log) == 2


def test_pages_that_always_bring_new_apps_end_at_the_daily_quota(httpserver, source, account, context):
    def endless(request: Request) -> Response:
        number = int(request.args.get("page", 0)) + 1
        return Response(json.dumps(page_of(httpserver, f"a{number}", following=number)))

    httpserver.expect_request("/api/mng/apps").respond_with_handler(endless)
    with pytest.raises(PermanentError, match="no end"):
        source.list_apps(account, context)
    assert len(httpserver.log) == 100


def test_a_next_page_elsewhere_is_refused_and_sees_no_request(
    httpserver, source, account, context, raw_server, make_reply
):
    other = raw_server(make_reply(b"{}"))
    httpserver.expect_request("/api/mng/apps").respond_with_json(
        {"data": [{"id": "a"}], "links": {"next": f"{other.address}/api/mng/apps?offset=1"}}
    )
    with pytest.raises(PermanentError, match="not followed"):
        source.list_apps(account, context)
    assert other.requests == []


def test_fewer_apps_than_announced_are_not_taken_for_the_whole_list(httpserver, source, account, context):
    httpserver.expect_request("/api/mng/apps").respond_with_json({"data": [{"id": "a"}], "meta": {"total_items": 2}})
    with pytest.raises(TransientError, match="1 apps came, 2 were announced"):
        source.list_apps(account, context)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, (FIXTURES / "appsflyer_401_app_list.json").read_text(), AuthError),
        (403, '"Forbidden"', AppListUnavailable),
        (404, '"Not found"', AppListUnavailable),
        (403, "Account may be suspended", AuthError),
        (400, '"Bad request"', PermanentError),
        (503, "", TransientError),
    ],
)
def test_a_refused_app_list_is_a_typed_error(httpserver, source, account, context, status, body, kind):
    httpserver.expect_request("/api/mng/apps").respond_with_data(body, status=status)
    with pytest.raises(kind) as caught:
        source.list_apps(account, context)
    assert type(caught.value) is kind


def test_a_missing_token_is_an_auth_error_without_a_request(httpserver, source, account, context, monkeypatch):
    monkeypatch.delenv("TEST_TOKEN")
    with pytest.raises(AuthError, match="TEST_TOKEN"):
        source.list_apps(account, context)
    assert httpserver.log == []


# The report


def test_the_documented_report_is_read_with_what_is_missing_left_missing(httpserver, fetch):
    text = (FIXTURES / "appsflyer_partners_by_date_report.csv").read_text()
    httpserver.expect_request(PATH, query_string={"from": "2026-11-20", "to": "2026-11-21"}).respond_with_data(text)
    rows = fetch(end=date(2026, 11, 21))
    assert len(rows) == 10
    assert rows[0] == Figures(
        day=DAY,
        agency="exampleagency",
        media_source="samplenet_int",
        campaign="US_Prospecting_A",
        impressions=48210,
        clicks=1904,
        installs=212,
        sessions=1488,
        loyal_users=61,
        revenue=Decimal("318.5000"),
        cost=Decimal("424.0000"),
        extra={
            "CTR": "0.0395",
            "Conversion Rate": "0.1113",
            "Loyal Users/Installs": "0.2877",
            "ROI": "-0.2488",
            "ARPU": "1.5024",
            "Average eCPI": "2.0000",
            "af_purchase (Unique users)": 19,
            "af_purchase (Event counter)": 27,
            "af_purchase (Sales in USD)": "301.0000",
        },
    )
    assert rows[1].campaign == "DE, AT, CH Launch"
    assert (rows[3].media_source, rows[3].campaign, rows[3].clicks, rows[3].cost) == ("restricted", None, None, None)
    assert (rows[4].media_source, rows[4].sessions, rows[4].extra["CTR"]) == ("Organic", 0, None)
    assert rows[8].campaign == 'Sommer "Spezial" 2026'
    assert httpserver.log[0][0].headers["Accept"] == "text/csv"


def test_columns_are_found_by_name_in_any_order_with_bom_and_crlf(fetch_text):
    header = "New Column,Campaign (c),Installs,Media Source (pid),Date,weird (Event counter),New Column"
    (row,) = fetch_text(f'\ufeff{header}\r\n007,"a,\r\nb ""c""",3,x_int,2026-11-20,N/A,7.50\r\n\r\n')
    assert row == Figures(
        day=DAY,
        media_source="x_int",
        campaign='a,\r\nb "c"',
        installs=3,
        extra={"New Column": "007", "weird (Event counter)": None, "New Column #2": "7.50"},
    )
    assert row.clicks is None
    json.dumps(dict(row.extra))


def test_an_event_named_like_a_quota_error_is_no_quota_error(fetch_text):
    (row,) = fetch_text(f"{HEADER},reached your maximum number of lives (Event counter)\n{ROW},4\n")
    assert row.extra == {"reached your maximum number of lives (Event counter)": 4}


def test_a_report_without_rows_is_a_day_without_figures(fetch_text):
    assert fetch_text(HEADER + "\n") == []


def test_a_campaign_holding_nul_is_made_storable(fetch_text):
    assert fetch_text(f"{HEADER}\n2026-11-20,None,x,a\0b,1,1,1,1\n")[0].campaign == "a\ufffdb"


@pytest.mark.parametrize(
    "text", ["", "\n", "\ufeff", HEADER[:40], f'{HEADER}\n{ROW}\n2026-11-20,None,x_int,"c1', f"{HEADER}\n{ROW[:20]}"]
)
def test_an_empty_or_cut_report_is_a_transient_error(fetch_text, text):
    with pytest.raises(TransientError, match=r"empty|breaks off"):
        fetch_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Something went wrong, please try again", "this is no report.*Something went wrong"),
        ("<html>\n<body>Maintenance</body>\n</html>", "this is no report"),
        ("Date,Campaign (c)\n2026-11-20,c\n", "column 'Media Source .pid.' is missing"),
        ("Media Source (pid),Installs\nx,1\n", "column 'Date' is missing"),
        (f"{HEADER},Clicks\n{ROW},1\n", "column 'Clicks' occurs twice"),
        (f"{HEADER}\n2026-11-20,None\n{ROW}\n", "line 2 has 2 cells, the header has 8"),
        (f"{HEADER}\n{ROW},9\n", "line 2 has 9 cells"),
        (f"{HEADER}\n{ROW.replace('11-20', '11-21')}\n", "line 2, column 'Date' must be a day from 2026-11-20 to"),
        (f"{HEADER}\n{ROW.replace('2026-11-20', 'None')}\n", "line 2, column 'Date' must be a date.*None"),
        (f"{HEADER}\n{ROW}\n{ROW.replace(',10,', ',many,')}\n", "line 3, column 'Impressions' must be a whole.*many"),
        (f"{HEADER}\n{ROW.replace(',10,', ',1.5,')}\n", "column 'Impressions'.*1.5"),
        (f"{HEADER}\n{ROW.replace(',10,', f',{10**19},')}\n", "column 'Impressions'"),
        (f"{HEADER}\n{ROW.replace('0.5000', 'NaN')}\n", "line 2, column 'Total Revenue' must be a decimal.*NaN"),
        (f"{HEADER}\n{ROW.replace('0.5000', '1e999999')}\n", "column 'Total Revenue'"),
        (f"{HEADER}\n{ROW.replace('c1', chr(34) + 'a' + chr(34) + 'b')}\n", "line 2 is no CSV"),
        (f"{HEADER}\n{ROW.replace('c1', 'c' * 200_000)}\n", "line 2 is no CSV"),
    ],
)
def test_a_200_that_is_no_report_of_these_days_never_counts_as_one(fetch_text, text, message):
    with pytest.raises(PermanentError, match=message):
        fetch_text(text)


def test_counts_with_a_zero_fraction_are_whole_numbers(fetch_text):
    assert fetch_text(f"{HEADER}\n{ROW.replace(',10,', ',10.0000,')}\n")[0].impressions == 10


@pytest.mark.parametrize("place", ["header", "cell"])
def test_a_token_in_a_report_is_in_no_message(fetch_text, token, place):
    text = token if place == "header" else f"{HEADER}\n{ROW.replace(',10,', f',{token},')}\n"
    with pytest.raises(PermanentError, match="redacted") as caught:
        fetch_text(text)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("broken", ["length", "chunks"])
def test_a_report_that_breaks_off_raises_after_the_rows_that_came(raw_server, account, context, broken):
    text = f"{HEADER}\n{ROW}\n".encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\n"
    framed = b"Content-Length: 9999\r\n\r\n" + text
    if broken == "chunks":
        framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(text), text)
    source = AppsFlyer(SourceSettings(base_url=raw_server(head + framed).address))
    rows = iter(source.fetch_app_data(account, "com.example.puzzlefarm", REPORT, DAY, DAY, context))
    assert next(rows).installs == 1
    with pytest.raises(TransientError):
        next(rows)
    source.close()


AGGREGATE_403 = (FIXTURES / "appsflyer_quota_aggregate_403.txt").read_text()
DOCUMENTED_400 = (FIXTURES / "appsflyer_quota_documented_400.json").read_text()
RAW_400 = (FIXTURES / "appsflyer_quota_raw_400.txt").read_text()


@pytest.mark.parametrize(
    ("status", "body", "days", "scope", "daily"),
    [
        (403, AGGREGATE_403, 1, "aggregate_short_range", False),
        (403, "Limit reached for daily-report", 2, "aggregate_short_range", False),
        (403, AGGREGATE_403, 3, "aggregate_long_range_app", False),
        (400, DOCUMENTED_400, 1, None, True),
        (400, RAW_400, 1, None, True),
        (400, "Your API calls limit has been reached for report type", 5, None, True),
        (200, AGGREGATE_403, 1, "aggregate_short_range", False),
    ],
)
def test_a_quota_error_says_which_limit_it_was_and_whether_for_the_day(
    httpserver, fetch, status, body, days, scope, daily
):
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises(QuotaError) as caught:
        fetch(end=date(2026, 11, 19 + days))
    assert (caught.value.scope, caught.value.daily, caught.value.retry_after) == (scope, daily, None)


def test_too_many_app_lists_are_a_quota_error(httpserver, source, account, context):
    httpserver.expect_request("/api/mng/apps").respond_with_json("Too many requests", status=429)
    with pytest.raises(QuotaError) as caught:
        source.list_apps(account, context)
    assert caught.value.scope == "app_list_minute"


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, (FIXTURES / "appsflyer_401_pull.json").read_text(), AuthError, "token is invalid"),
        (403, "Account may be suspended", AuthError, "suspended"),
        (403, "Not in your plan", PermanentError, "Not in your plan"),
        (400, "Invalid limit type", PermanentError, "Invalid limit type"),
        (404, "<html>Page not found</html>", PermanentError, "'id' prefix.*another account"),
        (429, "slow down", TransientError, "429"),
        (500, "oops", TransientError, "500"),
    ],
)
def test_a_refused_report_is_a_typed_error(httpserver, fetch, status, body, kind, message):
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises(kind, match=message) as caught:
        fetch()
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("app_id", "message"),
    [
        ("1234567890", "id1234567890"),
        ("../mng/apps", "app_id must be"),
        ("..", "app_id must be"),
        ("a/b", "app_id must be"),
        ("a%2Fb", "app_id must be"),
        ("a?b", "app_id must be"),
        ("", "app_id must be"),
    ],
)
def test_an_app_id_that_cannot_be_is_refused_without_a_request(httpserver, fetch, app_id, message):
    with pytest.raises(PermanentError, match=message):
        fetch(app_id=app_id)
    assert httpserver.log == []


def test_an_unknown_report_is_refused_with_the_known_ones(fetch):
    with pytest.raises(PermanentError, match=f"must be one of {REPORT} .got 'geo_report'"):
        fetch(report="geo_report")


def test_the_limits_are_those_of_the_vendor():
    assert {(limit.name, limit.calls, limit.seconds, limit.scope) for limit in AppsFlyer.limits} == {
        ("aggregate_short_range", 1, 60, ("account", "app", "report")),
        ("aggregate_long_range_app", 24, 86_400, ("account", "app")),
        ("aggregate_long_range_account", 120, 86_400, ("account",)),
        ("app_list_minute", 20, 60, ("account",)),
        ("app_list_day", 100, 86_400, ("account",)),
    }
