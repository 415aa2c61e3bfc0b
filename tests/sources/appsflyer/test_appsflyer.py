"""AppsFlyer against its documented answers and against answers that are none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote

import pytest
from werkzeug import Request, Response

from crawlfleet.core.errors import (
    AuthError,
    NotPermitted,
    PermanentError,
    ProxyError,
    QuotaError,
    RangeTooLarge,
    TaskError,
    TokenUnavailable,
    TransientError,
    UsageError,
)
from crawlfleet.core.vendor_data import App, Figures
from crawlfleet.sources.appsflyer.errors import Quota, quota_of
from crawlfleet.sources.appsflyer.report import GEO_CAPTIONS, MASTER_CAPTIONS
from crawlfleet.sources.appsflyer.source import MASTER, REPORTS, AppsFlyer
from crawlfleet.sources.contract import AppListUnavailable, SourceSettings

FIXTURES = Path(__file__).parents[2] / "fixtures"
REPORT = "partners_by_date_report"
APP = "com.example.puzzlefarm"
DAY = date(2026, 11, 20)
HEADER = "Date,Agency/PMD (af_prt),Media Source (pid),Campaign (c),Impressions,Clicks,Installs,Total Revenue"
ROW = "2026-11-20,None,x_int,c1,10,2,1,0.5000"
MUST_HAVE = {"geo_by_date_report": GEO_CAPTIONS, MASTER: MASTER_CAPTIONS}
LAST_UPDATE = "/api/master-agg-data/lastupdate"


def path_of(report):
    return f"/api/master-agg-data/v4/app/{APP}" if report == MASTER else f"/api/agg-data/export/app/{APP}/{report}/v5"


PATH = path_of(REPORT)
# A header and a row of each report; the row's campaign is c1 and its clicks are 2.
SAMPLES = {
    REPORT: (HEADER, ROW),
    "daily_report": (HEADER.replace("Total Revenue", "Total Cost"), ROW),
    "geo_by_date_report": (HEADER.replace("Date,", "Date,Country,"), ROW.replace("20,None", "20,DE,None")),
    MASTER: (
        "App ID,Install Time,Media Source (pid),Campaign (c),Adset ID (af_adset_id),Adset (af_adset),Ad (af_ad),"
        "Ad ID (af_ad_id),Clicks,Installs",
        f"{APP},2026-11-20,x_int,c1,1001,offer,None,None,2,1",
    ),
}
every_report = pytest.mark.parametrize("report", SAMPLES)


@pytest.fixture
def source(httpserver):
    source = AppsFlyer(SourceSettings(base_url=httpserver.url_for("/")))
    yield source
    source.close()


@pytest.fixture
def fetch(source, account, context):
    def run(start=DAY, end=DAY, app_id=APP, report=REPORT):
        return list(source.fetch_app_data(account, app_id, report, start, end, context))

    return run


@pytest.fixture
def fetch_text(httpserver, fetch):
    def run(text, report=REPORT, **options):
        httpserver.clear_all_handlers()
        httpserver.expect_request(LAST_UPDATE).respond_with_data("2026-11-30")
        httpserver.expect_request(path_of(report)).respond_with_data(text, content_type="text/csv")
        return fetch(report=report, **options)

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
        {"data": ["a"]},
        {"data": [{"name": "x"}]},
        {"data": [{"id": 7}]},
        {"data": [{"id": ""}]},
        {"data": [{"id": "a\x00b"}]},
        {"data": [{"id": "a"}], "links": {"next": 7}},
    ],
)
def test_a_list_of_another_shape_is_no_app_list(httpserver, source, account, context, answer):
    httpserver.expect_request("/api/mng/apps").respond_with_json(answer)
    with pytest.raises(PermanentError):
        source.list_apps(account, context)


@pytest.mark.parametrize(
    "body", ["Service temporarily unavailable", '{"error":"internal"}', "[]", "{}", '"Unauthorized"', "null"]
)
def test_an_answer_that_is_no_app_list_at_all_may_pass(httpserver, source, account, context, body):
    """A vendor's trouble that came with status 200 failed the task for good."""
    httpserver.expect_request("/api/mng/apps").respond_with_data(body)
    with pytest.raises(TransientError):
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


@pytest.mark.parametrize("base", ["", "/gateway"])
def test_of_a_link_to_the_next_page_only_the_query_counts(
    httpserver, account, context, raw_server, make_reply, base, token
):
    """Behind a gateway the vendor's links name the vendor itself: its second page could not be had."""
    vendor = raw_server(make_reply(b"{}"))
    pages = [page_of(httpserver, "a"), page_of(httpserver, "b")]
    pages[0]["links"] = {"next": f"{vendor.address}/api/mng/apps?offset=1&limit=1"}
    for query, page in zip(({"limit": "1000"}, {"offset": "1", "limit": "1"}), pages, strict=True):
        httpserver.expect_request(f"{base}/api/mng/apps", query_string=query).respond_with_json(page)
    source = AppsFlyer(SourceSettings(base_url=httpserver.url_for(base or "/")))
    assert [app.app_id for app in source.list_apps(account, context)] == ["a", "b"]
    source.close()
    assert vendor.requests == []


@pytest.mark.parametrize("link", ["/api/mng/apps", "?", "https://[::1", "{vendor}/login?offset=1", "{vendor}"])
def test_a_link_that_is_no_next_page_is_refused(httpserver, source, account, context, raw_server, make_reply, link):
    vendor = raw_server(make_reply(b"{}"))
    link = link.format(vendor=vendor.address)
    httpserver.expect_request("/api/mng/apps").respond_with_json({"data": [{"id": "a"}], "links": {"next": link}})
    with pytest.raises(PermanentError, match=r"links\.next must be"):
        source.list_apps(account, context)
    assert len(httpserver.log) == 1
    assert vendor.requests == []


def test_redirect_hosts_are_a_list_of_hosts():
    for value in ("files.example.com", ["https://files.example.com"]):
        with pytest.raises(UsageError, match="redirect_hosts must be"):
            AppsFlyer(SourceSettings(options={"redirect_hosts": value}))
    AppsFlyer(SourceSettings(options={"redirect_hosts": ["files.example.com"]})).close()


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


def test_a_missing_token_is_told_without_a_request(httpserver, source, account, context, monkeypatch):
    monkeypatch.delenv("TEST_TOKEN")
    with pytest.raises(TokenUnavailable, match="TEST_TOKEN"):
        source.list_apps(account, context)
    assert httpserver.log == []


@pytest.mark.parametrize("report", [None, *REPORTS])
def test_every_call_goes_through_the_proxy_of_its_account(httpserver, source, account, context, report):
    far = replace(account, proxy="http://127.0.0.1:1")  # where nobody listens
    day = date(2026, 11, 20)
    with pytest.raises(ProxyError, match=r"proxy http://127\.0\.0\.1:1 failed"):
        list(source.fetch_app_data(far, APP, report, day, day, context) if report else source.list_apps(far, context))
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


@every_report
def test_a_report_without_rows_is_a_day_without_figures(fetch_text, report):
    assert fetch_text(SAMPLES[report][0] + "\n", report) == []


@every_report
def test_columns_of_any_report_may_come_in_another_order_with_others_between(fetch_text, report):
    header, row = SAMPLES[report]
    (plain,) = fetch_text(f"{header}\n{row}\n", report)
    captions, cells = header.split(",")[::-1], row.split(",")[::-1]
    turned = f"\ufeffNew,{','.join(captions)}\r\nx,{','.join(cells)}\r\n".replace("c1", '"a,\r\nb ""c"""')
    (read,) = fetch_text(turned, report)
    assert read == replace(plain, campaign='a,\r\nb "c"', extra={"New": "x"})
    assert (plain.day, plain.campaign, plain.clicks, plain.extra) == (DAY, "c1", 2, {})


@every_report
def test_a_report_without_a_column_that_tells_its_rows_apart_is_none(fetch_text, report):
    header, row = (text.split(",") for text in SAMPLES[report])
    for caption in {"Date", "Media Source (pid)", *MUST_HAVE.get(report, ())} & set(header):
        index = header.index(caption)
        short = [",".join(cells[:index] + cells[index + 1 :]) for cells in (header, row)]
        with pytest.raises(PermanentError, match=f"column {re.escape(repr(caption))} is missing"):
            fetch_text("\n".join(short), report)


@every_report
def test_a_campaign_holding_nul_is_made_storable(fetch_text, report):
    header, row = SAMPLES[report]
    assert fetch_text(f"{header}\n{row}\n".replace("c1", "a\0b"), report)[0].campaign == "a\ufffdb"


@every_report
@pytest.mark.parametrize(
    "text", ["", "\n", "\ufeff", "{cut_header}", "{header}\n{row}\n{row}\n{open_quotes}", "{header}\n{cut_row}"]
)
def test_an_empty_or_cut_report_is_a_transient_error(fetch_text, report, text):
    header, row = SAMPLES[report]
    before, _, _ = row.partition("c1")
    text = text.format(header=header, row=row, cut_header=header[:40], cut_row=row[:20], open_quotes=before + '"c1')
    with pytest.raises(TransientError, match=r"empty|breaks off"):
        fetch_text(text, report)


@every_report
@pytest.mark.parametrize(
    "text",
    [
        "Service temporarily unavailable",
        "\r\nSomething went wrong, please try again\n",
        '"Something" went wrong',
        '{"error":"internal"}',
        '{"a": [1,2]}',
        "Indisponible, d\u00e9sol\u00e9.".encode("latin-1"),
    ],
)
def test_a_200_that_is_no_report_at_all_may_pass(fetch_text, report, text):
    """It says nothing of what was asked, and failed the task for good."""
    with pytest.raises(TransientError, match="this is no report: it may pass"):
        fetch_text(text, report)


@every_report
def test_a_page_in_the_place_of_a_report_may_pass(fetch_text, report):
    """A company's proxy answers with a page of its own, for a while; the range failed for good."""
    with pytest.raises(TransientError, match="a page, not the vendor's words"):
        fetch_text("<html>\n<body>Maintenance</body>\n</html>", report)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Date,New Name\n2026-11-20,x\n", r"column 'Media Source \(pid\)' is missing: Date,New Name"),
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


def test_figures_in_scientific_notation_are_read(fetch_text):
    """An exponent of two digits lost the whole range for good."""
    [row] = fetch_text(f"{HEADER}\n{ROW.replace(',10,', ',1.2345678E7,').replace('0.5000', '1.2E10')}\n")
    assert (row.impressions, row.revenue) == (12345678, Decimal(12_000_000_000))


DAMAGED = {
    "byte": (
        ROW.replace("c1", "caf\u00e9").encode("latin-1"),
        "column 'Campaign (c)', holds the byte 0xe9",
        "caf\ufffd",
    ),
    "return": (ROW.replace("c1", "a\rb").encode(), r"column 'Campaign \(c\)', holds a carriage return", "a b"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_text_is_named_with_its_place_and_the_way_on(fetch_text, damage):
    """One byte of another encoding lost a whole range, and the message did not say where it was or what to do."""
    body, where, _ = DAMAGED[damage]
    with pytest.raises(PermanentError, match=f'line 3, about {where.replace("(c)", ".c.")}.*bad_text = "replace"'):
        fetch_text(f"{HEADER}\n{ROW}\n".encode() + body + b"\r\n")


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_text_may_be_mended_and_is_told_of(raw_server, make_reply, account, context, damage):
    body, _where, mended = DAMAGED[damage]
    server = raw_server(make_reply(f"{HEADER}\n{ROW}\n".encode() + body + b"\r\n"))
    source = AppsFlyer(SourceSettings(base_url=server.address, options={"bad_text": "replace"}))
    rows = list(source.fetch_app_data(account, APP, REPORT, DAY, DAY, context))
    source.close()
    assert [row.campaign for row in rows] == ["c1", mended]
    [(name, text)] = context.remarks
    assert name == "mended_lines"
    assert "line 3" in text


def test_text_of_another_encoding_is_not_mended_and_a_cut_character_breaks_off(
    raw_server, make_reply, account, context
):
    rows = [ROW.replace("c1", "caf\u00e9").encode("latin-1")] * 102
    for body, error, message in (
        (b"\n".join([HEADER.encode(), *rows]), PermanentError, "as did 100 lines before: this is another encoding"),
        (f"{HEADER}\n{ROW}".encode() + "\u00e9".encode()[:1], TransientError, "breaks off inside a character"),
    ):
        server = raw_server(make_reply(body))
        source = AppsFlyer(SourceSettings(base_url=server.address, options={"bad_text": "replace"}))
        with pytest.raises(error, match=message):
            list(source.fetch_app_data(account, APP, REPORT, DAY, DAY, context))
        source.close()
    with pytest.raises(UsageError, match="bad_text must be one of fail, replace"):
        AppsFlyer(SourceSettings(options={"bad_text": "ignore"}))


def test_an_app_without_an_id_is_left_out_of_the_list_and_told_of(httpserver, source, account, context):
    """One bad record made the whole list fail for good."""
    page = page_of(httpserver, "com.a", "com.b")
    page["data"].insert(1, {"id": None, "attributes": {}})
    serve_pages(httpserver, page)
    assert [app.app_id for app in source.list_apps(account, context)] == ["com.a", "com.b"]
    [(name, text)] = context.remarks
    assert (name, "None" in text) == ("left_out_records", True)


def test_counts_with_a_zero_fraction_are_whole_numbers(fetch_text):
    assert fetch_text(f"{HEADER}\n{ROW.replace(',10,', ',10.0000,')}\n")[0].impressions == 10


@pytest.mark.parametrize("place", ["header", "cell"])
def test_a_token_in_a_report_is_in_no_message(fetch_text, token, place):
    text = token if place == "header" else f"{HEADER}\n{ROW.replace(',10,', f',{token},')}\n"
    with pytest.raises(TaskError, match="redacted") as caught:
        fetch_text(text)
    assert "SECRET" not in str(caught.value)


@every_report
@pytest.mark.parametrize("broken", ["length", "chunks", "stall", "encoding", "redirect", "unavailable"])
def test_hostile_bytes_raise_and_never_look_like_a_short_report(
    raw_server, make_reply, account, context, report, broken
):
    header, row = SAMPLES[report]
    text = f"{header}\n{row}\n".encode()
    elsewhere = "https://elsewhere.invalid"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\n"
    cut = head + b"Content-Length: 9999\r\n\r\n" + text
    bodies = {
        "length": cut,
        "chunks": head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(text), text),
        "stall": cut,
        "encoding": make_reply(text + row.replace("c1", "ü").encode("latin-1") + b"\n"),
        "redirect": make_reply(b"", "302 Found", f"Location: {elsewhere}/\r\n"),
        "unavailable": make_reply(b"oops", "503 Service Unavailable", "Retry-After: 7\r\n"),
    }

    def answer(request):
        return make_reply(b"2026-11-30") if LAST_UPDATE in request else bodies[broken]

    server = raw_server(answer, stall=broken == "stall")
    source = AppsFlyer(SourceSettings(base_url=server.address, timeout_seconds=0.2 if broken == "stall" else 10))
    rows = iter(source.fetch_app_data(account, APP, report, DAY, DAY, context))
    if broken in ("length", "chunks", "stall"):
        assert next(rows).installs == 1
    with pytest.raises(PermanentError if broken == "encoding" else TransientError) as caught:
        list(rows)
    source.close()
    if broken == "unavailable":
        assert caught.value.retry_after == 7


AGGREGATE_403 = (FIXTURES / "appsflyer_quota_aggregate_403.txt").read_text()
DOCUMENTED_400 = (FIXTURES / "appsflyer_quota_documented_400.json").read_text()
RAW_400 = (FIXTURES / "appsflyer_quota_raw_400.txt").read_text()


@pytest.mark.parametrize(
    ("status", "body", "days", "scope", "daily"),
    [
        (403, AGGREGATE_403, 1, "aggregate_short_range", False),
        (403, "Limit reached for daily-report", 2, "aggregate_short_range", False),
        (403, "Limit reached for geo-by-date-report", 2, "aggregate_short_range", False),
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


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("Limit reached for partners-daily-report", Quota.OF_RANGE),
        ('{"message": "Limit reached for daily-report"}', Quota.OF_RANGE),
        ('{"message":"Your API call limit has been reached for the given report type"}', Quota.DAY),
        ("You've reached your maximum number of in-app event reports that can be downloaded today", Quota.DAY),
        ("Bad Request: the limit of calls. Max requests 24 per day", Quota.DAY),
        ("Maximum number of requests is 1 per minute", Quota.MINUTE),
        ("Too many requests", Quota.MINUTE),
        ("API rate limit exceeded", Quota.OF_RANGE),
        ("Daily quota exhausted", Quota.DAY),
        ("You have exceeded the limit of 24 API calls a day", Quota.DAY),
        ("Report request quota has been exceeded", Quota.OF_RANGE),
        ("Invalid limit type", None),
        ("Raw reports historical lookback is limited to 90 days", None),
        ("The report exceeded the maximum number of rows", None),
        ("Your current subscription package doesn't include raw data reports", None),
        ("Something went wrong. Please re-try to download in a minute", None),
        ("Not in your plan", None),
    ],
)
def test_a_text_is_a_quota_by_its_meaning(text, quota):
    """`Max requests 24 per day` was no text that we knew: its task failed for good instead of waiting."""
    assert quota_of(text) is quota


@pytest.mark.parametrize("end", [1, 3])
def test_a_quota_in_words_that_nobody_met_before_waits_for_the_day(httpserver, fetch, end):
    httpserver.expect_request(PATH).respond_with_data("Bad Request ... Max requests 24 per day", status=400)
    with pytest.raises(QuotaError) as caught:
        fetch(end=date(2026, 11, 19 + end))
    assert (caught.value.scope, caught.value.daily) == (None, True)


CDN_PAGE = "<!DOCTYPE html><html><body><h1>Request blocked. Try again later</h1></body></html>"


@pytest.mark.parametrize(
    ("status", "body"),
    [(403, CDN_PAGE), (403, ""), (404, ""), (408, CDN_PAGE), (408, ""), (416, CDN_PAGE), (416, "oops"), (425, "")],
)
@pytest.mark.parametrize("days", [1, 3])
def test_a_refusal_without_a_word_of_the_vendor_may_pass(httpserver, fetch, status, body, days):
    """A page of a CDN failed the task for good, and denied the app for a day."""
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises(TransientError, match=f"answered {status}"):
        fetch(end=date(2026, 11, 19 + days))


@pytest.mark.parametrize(
    ("status", "body", "in_words"),
    [
        (403, "Your current subscription package does not include this report", True),
        (400, '{"message": "Your current subscription package doesn\'t include raw data reports"}', True),
        (403, "Forbidden", False),
        (403, "not permitted by policy", False),
        (403, '{"Message": "User: anonymous is not authorized to perform: execute-api with an explicit deny"}', False),
        (403, "Your plan of the gateway does not include this package", False),
        (404, "<html>Page not found</html>", False),
    ],
)
def test_only_the_vendors_words_deny_at_once(httpserver, fetch, status, body, in_words):
    """A gateway's text that held a word like `permitted` denied the app for a day."""
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises(NotPermitted) as caught:
        fetch()
    assert caught.value.in_words is in_words


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, '{"message": "Supplied API token is invalid"}', TransientError),
        (403, "<Error><Code>AccessDenied</Code></Error>", TransientError),
        (403, "Forbidden", TransientError),
        (404, "<html>Page not found</html>", TransientError),
        (410, "Gone", TransientError),
        (403, "The token is not authorized", TransientError),
        (403, "Your current subscription package does not include this report", NotPermitted),
        (403, "Limit reached for partners-daily-report", QuotaError),
    ],
)
def test_what_a_file_says_neither_parks_the_account_nor_denies_the_app_at_once(
    raw_server, make_reply, account, context, status, body, kind
):
    files = raw_server(make_reply(body.encode(), f"{status} No"))
    server = raw_server(make_reply(b"", "302 Found", f"Location: {files.address}/export/token/0123456789\r\n"))
    source = AppsFlyer(SourceSettings(base_url=server.address))
    with pytest.raises(kind) as caught:
        list(source.fetch_app_data(account, APP, REPORT, DAY, DAY, context))
    source.close()
    assert type(caught.value) is kind
    assert getattr(caught.value, "in_words", False) is False
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize("body", [CDN_PAGE, ""])
@pytest.mark.parametrize("status", [403, 404, 416])
def test_a_list_of_apps_refused_without_a_word_may_pass(httpserver, source, account, context, status, body):
    httpserver.expect_request("/api/mng/apps").respond_with_data(body, status=status)
    with pytest.raises(TransientError):
        source.list_apps(account, context)


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
        (403, "Not in your plan", NotPermitted, "Not in your plan"),
        (400, "Invalid limit type", PermanentError, "Invalid limit type"),
        (404, "<html>Page not found</html>", NotPermitted, "'id' prefix.*another account"),
        (400, "Your current subscription package doesn't include raw data reports", NotPermitted, "subscription"),
        (429, "slow down", QuotaError, "429"),
        (429, "<html>slow down</html>", TransientError, "429"),
        (401, "<html>company login</html>", TransientError, "a page"),
        (500, "oops", TransientError, "500"),
    ],
)
def test_a_refused_report_is_a_typed_error(httpserver, fetch, status, body, kind, message):
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises(kind, match=message) as caught:
        fetch()
    assert type(caught.value) is kind


@pytest.mark.parametrize("app_id", ["", ".", "..", "a\nb", "a\x00b", "x" * 191])
def test_an_app_id_that_cannot_be_is_refused_without_a_request(httpserver, fetch, app_id):
    with pytest.raises(PermanentError, match="app_id must be"):
        fetch(app_id=app_id)
    assert httpserver.log == []


ODD_IDS = [
    "com.example.two words",
    "com.example/channel",
    "应用.例",
    "1234567890",
    "a%2Fb?c#d",
    "../mng/apps",
    "a;b,c",
    "é",
]


@pytest.mark.parametrize("app_id", ODD_IDS)
@pytest.mark.parametrize("report", [REPORT, MASTER])
def test_every_id_that_the_vendor_lists_is_fetched_as_one_part_of_the_path(
    raw_server, make_reply, account, context, app_id, report
):
    """Ids with a blank, a slash, letters of other scripts or of digits only were listed, and refused by ourselves."""
    listed = json.dumps({"data": [{"id": app_id}]}).encode()
    header, row = SAMPLES[report]

    def answer(request):
        if "/api/mng/apps" in request.split()[1]:
            return make_reply(listed)
        return make_reply(b"2026-11-30" if LAST_UPDATE in request else f"{header}\n{row}\n".encode())

    server = raw_server(answer)
    source = AppsFlyer(SourceSettings(base_url=server.address))
    [app] = source.list_apps(account, context)
    assert [row.clicks for row in source.fetch_app_data(account, app.app_id, report, DAY, DAY, context)] == [2]
    source.close()
    path = server.requests[-1].split()[1].partition("?")[0]
    before, after = path_of(report).split(APP)
    assert (path[: len(before)], path[len(path) - len(after) :]) == (before, after)
    part = path[len(before) : len(path) - len(after)]
    assert "/" not in part
    assert unquote(part) == app_id


def test_an_unknown_report_is_refused_with_the_known_ones(fetch):
    known = ", ".join(sorted(REPORTS))
    with pytest.raises(PermanentError, match=f"must be one of {known} .got 'geo_report'"):
        fetch(report="geo_report")


def test_the_limits_are_those_of_the_vendor():
    assert {(limit.name, limit.calls, limit.seconds, limit.scope) for limit in AppsFlyer.limits} == {
        ("aggregate_short_range", 1, 60, ("account", "app", "report")),
        ("aggregate_long_range_app", 24, 86_400, ("account", "app")),
        ("aggregate_long_range_account", 120, 86_400, ("account",)),
        ("master", None, 86_400, ("account",)),
        ("app_list_minute", 20, 60, ("account",)),
        ("app_list_day", 100, 86_400, ("account",)),
    }


@every_report
def test_a_report_costs_what_the_vendor_documents(report):
    declared = AppsFlyer.reports[report]
    assert (declared.row_cap, declared.settle_days, declared.lookback_days) == (200_000, 2, None)
    if report == MASTER:
        assert (declared.max_range_days, declared.shape_of(31).limits, declared.shape_of(1).calls) == (
            31,
            ("master",),
            2,
        )
        return
    assert {days: declared.shape_of(days).limits for days in (1, 2)} == dict.fromkeys(
        (1, 2), ("aggregate_short_range",)
    )
    assert declared.shape_of(3).limits == ("aggregate_long_range_app", "aggregate_long_range_account")


# The other aggregate reports


def test_the_country_of_a_geo_report_is_read(fetch_text):
    (row,) = fetch_text("\n".join(SAMPLES["geo_by_date_report"]), "geo_by_date_report")
    assert row.country == "DE"


def test_a_daily_report_has_no_revenue_rather_than_none_of_it(fetch_text):
    (row,) = fetch_text("\n".join(SAMPLES["daily_report"]), "daily_report")
    assert (row.revenue, row.cost) == (None, Decimal("0.5000"))


# The Master API


@pytest.fixture
def fetch_master(httpserver, fetch):
    """Serves one answer of the Master API; the data reach the day that is asked for."""

    def run(text="", status=200, last="2026-11-20", app_id="all", **options):
        httpserver.clear_all_handlers()
        httpserver.expect_request(LAST_UPDATE).respond_with_data(last, content_type="text/plain")
        path = f"/api/master-agg-data/v4/app/{app_id}"
        httpserver.expect_request(path).respond_with_data(text, status=status, content_type="text/csv")
        return fetch(report=MASTER, app_id=app_id, **options)

    return run


def test_the_documented_master_report_is_read_with_apps_adsets_and_ads_as_dimensions(httpserver, fetch_master):
    rows = fetch_master((FIXTURES / "appsflyer_master_by_adset.csv").read_text())
    assert rows[0] == Figures(
        day=DAY,
        media_source="samplenet_int",
        campaign="US_Prospecting_A",
        clicks=1204,
        installs=131,
        dimensions={"app_id": APP, "adset": "offer_1001", "adset_id": "1001", "ad": "aff_77", "ad_id": "77"},
    )
    assert rows[2].campaign == "DE, AT, CH Launch"
    assert (rows[2].dimensions["ad"], rows[2].dimensions["ad_id"]) == (None, None)
    [first, second] = [request for request, _ in httpserver.log]
    assert (first.path, first.headers["Accept"]) == (LAST_UPDATE, "text/plain")
    assert dict(second.args) == {
        "from": "2026-11-20",
        "to": "2026-11-20",
        "groupings": "app_id,install_time,pid,c,af_adset_id,af_adset,af_ad,af_ad_id",
        "kpis": "clicks,installs",
    }


def test_raw_names_in_the_header_of_the_master_report_mean_the_same_as_captions(fetch_master):
    captions, *rows = (FIXTURES / "appsflyer_master_by_adset.csv").read_text().splitlines(keepends=True)
    raw = "app_id,install_time,pid,c,af_adset,af_adset_id,af_ad,af_ad_id,clicks,installs\n"
    assert fetch_master(raw + "".join(rows)) == fetch_master(captions + "".join(rows))


@pytest.mark.parametrize(("last", "hours"), [("2026-11-19", 8), ("2026-11-18\n", 32), ('"2026-11-17"', 56)])
def test_a_range_that_the_data_do_not_reach_waits_and_makes_no_second_call(httpserver, fetch_master, last, hours):
    message = f"data reach {last.strip().strip(chr(34))}, not yet 2026-11-20: not ready yet"
    with pytest.raises(TransientError, match=message) as caught:
        fetch_master(last=last)
    assert caught.value.retry_after == hours * 3600
    assert len(httpserver.log) == 1


@pytest.mark.parametrize(
    ("last", "kind", "message"),
    [
        ("", TransientError, "empty"),
        ("\n", TransientError, "empty"),
        ("soon", TransientError, "no date"),
        ("<html>", TransientError, "a page"),
    ],
)
def test_a_last_update_that_is_no_date_raises(httpserver, fetch_master, last, kind, message):
    with pytest.raises(kind, match=message):
        fetch_master(last=last)
    assert len(httpserver.log) == 1


MASTER_REFUSALS = [
    (401, '{"message": "The supplied API token is invalid"}', AuthError),
    (401, "Account may be suspended.", AuthError),
    (403, "Unrecognized date format.", PermanentError),
    (403, "From date can't be after To date.", PermanentError),
    (403, "No KPIs provided.", PermanentError),
    (403, "No calculated KPI name provided.", PermanentError),
    (403, f"Not authorized app-ids: {APP}", NotPermitted),
    (403, "Your package does not include this", NotPermitted),
    (404, '"Not found"', NotPermitted),
    (404, "<html>Page not found</html>", TransientError),
    (403, "<html>Request blocked. Try again later</html>", TransientError),
    (416, "", TransientError),
    (403, "", TransientError),
    (416, "No Groupings Selected", PermanentError),
    (416, "Wrong API Fields", PermanentError),
    (416, "Please select authorized app-id", NotPermitted),
    (416, "The requested time range is in UTC only (prior to the timezone change)", PermanentError),
    (416, "Something went wrong. Please re-try to download in a minute, choose a narrower time range", TransientError),
    (416, "Other reason", RangeTooLarge),
    (400, "Your API calls limit has been reached for report type", QuotaError),
    (429, "slow down", TransientError),
    (500, "oops", TransientError),
    (200, "Something went wrong. Please re-try to download in a minute", TransientError),
]


@pytest.mark.parametrize(
    ("status", "body", "in_words"),
    [
        (403, f"Not authorized app-ids: {APP}", True),
        (416, "Please select authorized app-id", True),
        (404, '{"message": "Not found"}', True),
        (404, "404 page not found", False),
        (403, "not permitted by policy", False),
    ],
)
def test_only_the_vendors_words_deny_a_master_report_at_once(fetch_master, status, body, in_words):
    """What a gateway lacks or forbids was taken for the plan of the account."""
    with pytest.raises(NotPermitted) as caught:
        fetch_master(body, status)
    assert caught.value.in_words is in_words


@pytest.mark.parametrize(("status", "body", "kind"), MASTER_REFUSALS)
def test_a_refused_master_report_is_a_typed_error(fetch_master, status, body, kind):
    with pytest.raises(kind) as caught:
        fetch_master(body, status)
    assert type(caught.value) is kind


def test_a_plan_without_the_master_api_shows_at_the_first_call(httpserver, fetch):
    httpserver.expect_request(LAST_UPDATE).respond_with_data("Not found", status=404)
    with pytest.raises(NotPermitted, match="not part of the account's plan"):
        fetch(report=MASTER)


def test_a_master_report_takes_31_days_at_most_without_a_request(httpserver, fetch):
    with pytest.raises(PermanentError, match=r"master_by_ad takes at most 31 days at once .got 32"):
        fetch(report=MASTER, start=date(2026, 10, 20))
    assert httpserver.log == []


def test_only_the_master_report_takes_all_apps_at_once(httpserver, fetch):
    with pytest.raises(PermanentError, match="'all' is for report master_by_ad: daily_report needs"):
        fetch(report="daily_report", app_id="all")
    assert httpserver.log == []
