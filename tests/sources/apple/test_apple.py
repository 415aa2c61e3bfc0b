"""Apple against its public answers and against answers that are none."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from crawlfleet.core.errors import PermanentError, QuotaError, TransientError, UsageError
from crawlfleet.core.vendor_data import App, Figures
from crawlfleet.sources.apple.source import Apple
from crawlfleet.sources.contract import Account, AppListUnavailable, SourceSettings

FIXTURES = Path(__file__).parents[2] / "fixtures"
DEVELOPER = Account("apple", "9990000000")
APP = "id9990000001"
FIRST, LAST = date(2026, 11, 19), date(2026, 11, 22)


def fixture(name):
    return json.loads((FIXTURES / f"apple_{name}.json").read_text(encoding="utf-8"))


def today():
    return datetime.now(UTC).date()


@pytest.fixture
def make_source(httpserver):
    made = []

    def make(**options):
        made.append(Apple(SourceSettings(base_url=httpserver.url_for("/"), options=options)))
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture
def source(make_source):
    return make_source()


@pytest.fixture
def fetch(make_source, context):
    def run(report, start=None, end=None, app_id=APP, **options):
        start = start or today()
        return list(make_source(**options).fetch_app_data(DEVELOPER, app_id, report, start, end or start, context))

    return run


def lookup_of(*records, country="us", **asked):
    """What a request for a lookup looks like, and what it is answered."""
    query = {"country": country, **asked}
    return {"uri": "/lookup", "query_string": query}, {"resultCount": len(records), "results": list(records)}


def serve(httpserver, *lookups):
    for request, answer in lookups:
        httpserver.expect_request(**request).respond_with_data(json.dumps(answer), content_type="text/javascript")


def software(number, **more):
    return {"wrapperType": "software", "kind": "software", "trackId": number, **more}


def review(review_id, updated, rating="3", **labels):
    values = {"id": str(review_id), "updated": updated, "im:rating": rating, **labels}
    return {key: {"label": value} for key, value in values.items()}


def reviews_at(number, *moments):
    return [review(number + place, moment) for place, moment in enumerate(moments)]


def pages(httpserver, *entries, country="us", number="9990000001"):
    """One page for each list of entries; a page beyond them is empty."""
    for page in range(1, 11):
        found = entries[page - 1] if page <= len(entries) else []
        feed = {"entry": found} if found else {}
        path = f"/{country}/rss/customerreviews/page={page}/id={number}/sortby=mostrecent/json"
        httpserver.expect_request(path).respond_with_json({"feed": feed})


def asked(httpserver):
    """The paths that were asked for, the page's number in place of a review page."""
    paths = [request.path for request, _ in httpserver.log]
    return [int(path.partition("page=")[2].partition("/")[0]) if "page=" in path else path for path in paths]


# The app list


def test_a_developers_apps_are_listed_without_a_token(httpserver, source, context):
    asked_for = {"id": "9990000000", "entity": "software", "limit": "200"}
    request, _ = lookup_of(**asked_for)
    serve(httpserver, (request, fixture("lookup_developer")))
    apps = source.list_apps(DEVELOPER, context)
    assert [(app.app_id, app.name, app.platform, app.currency) for app in apps] == [
        (APP, "Puzzle Farm", "ios", "USD"),
        ("id9990000002", "Budget Owl", "ios", "USD"),
        ("id9990000003", "Owl Desk", "mac", "USD"),
    ]
    assert apps[1].extra == {
        "bundle_id": "com.example.budgetowl",
        "developer": "Example Studio",
        "developer_id": 9990000000,
        "seller": "Example Studio Ltd",
        "genre": "Finance",
        "url": "https://apps.apple.com/us/app/example/id9990000002?uo=4",
        "released_at": "2023-06-19T07:00:00Z",
    }
    [(request, _)] = httpserver.log
    assert "Authorization" not in request.headers


def test_apps_of_several_storefronts_are_listed_once(httpserver, make_source, context):
    asked_for = {"id": "9990000000", "entity": "software", "limit": "200"}
    serve(
        httpserver,
        lookup_of(software(1, trackName="one"), software(2), **asked_for),
        lookup_of(software(3), software(1, trackName="eins"), country="de", **asked_for),
    )
    apps = make_source(countries=["us", "de"]).list_apps(DEVELOPER, context)
    assert apps == [App("id1", "one", "ios"), App("id2", platform="ios"), App("id3", platform="ios")]


def test_a_developer_without_apps_has_an_empty_list(httpserver, source, context):
    serve(httpserver, lookup_of({"wrapperType": "artist"}, id="9990000000", entity="software", limit="200"))
    assert source.list_apps(DEVELOPER, context) == []


def test_an_unknown_developer_is_an_error_and_no_empty_list(httpserver, source, context):
    serve(httpserver, lookup_of(id="9990000000", entity="software", limit="200"))
    with pytest.raises(PermanentError, match="no developer 9990000000 in the storefronts us"):
        source.list_apps(DEVELOPER, context)


def test_an_apps_number_as_username_names_its_developer(httpserver, source, context):
    found = software(9990000000, artistId=77)
    serve(httpserver, lookup_of(found, id="9990000000", entity="software", limit="200"))
    with pytest.raises(PermanentError, match=r"is the id of an app.*its developer is 77"):
        source.list_apps(DEVELOPER, context)


def test_a_developer_with_more_apps_than_apple_lists_is_no_short_list(httpserver, source, context):
    records = [software(number) for number in range(1, 201)]
    serve(httpserver, lookup_of(*records, id="9990000000", entity="software", limit="200"))
    with pytest.raises(AppListUnavailable, match="200 apps or more"):
        source.list_apps(DEVELOPER, context)


def test_apps_named_by_hand_are_looked_up_two_hundred_at_a_time(httpserver, source, context, caplog):
    numbers = [str(number) for number in range(1, 252)]
    for chunk in (numbers[:200], numbers[200:]):
        records = [software(int(number)) for number in chunk if number != "7"]
        serve(httpserver, lookup_of(*records, id=",".join(chunk), limit="200"))
    account = Account("apple", "my apps", app_ids=("id1", *numbers))
    apps = source.list_apps(account, context)
    assert [app.app_id for app in apps] == [f"id{number}" for number in numbers if number != "7"]
    assert len(httpserver.log) == 2
    assert "do not have id7" in caplog.text


def test_apps_named_by_hand_stand_in_for_a_developers_list(httpserver, source, context):
    serve(httpserver, lookup_of(software(5), id="5", limit="200"))
    account = Account("apple", "9990000000", app_ids=("5",))
    assert [app.app_id for app in source.list_apps(account, context)] == ["id5"]


def test_apps_named_by_hand_that_no_storefront_has_are_an_error(httpserver, source, context):
    serve(httpserver, lookup_of(id="1,2", limit="200"))
    with pytest.raises(PermanentError, match="storefronts us have none of id1, id2"):
        source.list_apps(Account("apple", "mine", app_ids=("1", "id2")), context)


@pytest.mark.parametrize(
    ("app_ids", "message"), [((), "name apps with --app-id"), (("com.example.app",), "got 'com.example.app'")]
)
def test_an_account_that_names_no_number_is_told_what_to_do(source, context, app_ids, message):
    with pytest.raises(PermanentError, match=message):
        source.list_apps(Account("apple", "mine", app_ids=app_ids), context)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        None,
        "no",
        {"results": None},
        {"results": {}},
        {"results": ["a"]},
        {"results": [software("1")]},
        {"results": [software(True)]},
        {"results": [software(-1)]},
        {"results": [software(10**30)]},
        {"results": [{"wrapperType": "software"}]},
        {"results": [software(1, bundleId={"a": 1})]},
        {"results": [software(1, trackName=float("inf"))]},
    ],
)
def test_an_answer_of_another_shape_is_no_app_list(httpserver, source, context, answer):
    httpserver.expect_request("/lookup").respond_with_data(json.dumps(answer))
    with pytest.raises(PermanentError, match="GET /lookup"):
        source.list_apps(DEVELOPER, context)


def test_names_of_another_type_are_left_out_and_text_is_made_storable(httpserver, source, context):
    records = [software(1, trackName=7, currency=None, kind=["x"]), software(2, trackName="a\0b", artistName="\ud800")]
    httpserver.expect_request("/lookup").respond_with_json({"results": records})
    assert source.list_apps(DEVELOPER, context) == [
        App("id1"),
        App("id2", "a\ufffdb", "ios", extra={"developer": "?"}),
    ]


# Details of today


def test_details_are_one_row_of_today(httpserver, fetch):
    request, answer = lookup_of(*fixture("lookup_developer")["results"][1:2], id="9990000001")
    serve(httpserver, (request, answer))
    [row] = fetch("app_details")
    assert (row.day, row.country, row.installs) == (today(), "us", None)
    assert row.extra == {
        "name": "Puzzle Farm",
        "version": "3.4.1",
        "average_user_rating": 4.62,
        "user_rating_count": 18234,
        "average_user_rating_of_version": 4.62,
        "user_rating_count_of_version": 18234,
        "price": 0.0,
        "currency": "USD",
        "genre": "Games",
        "genres": ["Games"],
        "content_rating": "4+",
        "size_bytes": 104857600,
        "minimum_os": "16.0",
        "languages": ["EN", "DE"],
        "released_at": "2021-03-02T08:00:00Z",
        "version_released_at": "2026-11-12T10:22:31Z",
    }


def test_a_storefront_without_the_app_has_no_row(httpserver, fetch):
    serve(httpserver, lookup_of(id="9990000001"), lookup_of(software(9990000001), country="de", id="9990000001"))
    assert fetch("app_details", countries=["us", "de"]) == [Figures(today(), country="de")]


@pytest.mark.parametrize("report", ["app_details", "reviews"])
def test_an_app_that_no_storefront_has_is_an_error(httpserver, fetch, report):
    pages(httpserver)
    serve(httpserver, lookup_of(software(5), id="9990000001"))
    with pytest.raises(PermanentError, match="storefronts us do not have the app id9990000001"):
        fetch(report)


@pytest.mark.parametrize("report", ["app_details", "top_free_rank", "top_paid_rank"])
@pytest.mark.parametrize(("first", "last"), [(-1, -1), (-1, 0), (0, 1), (1, 1)])
def test_a_snapshot_of_another_day_is_refused_before_any_call(httpserver, fetch, report, first, last):
    with pytest.raises(PermanentError, match=f"{report} shows today only"):
        fetch(report, today() + timedelta(first), today() + timedelta(last))
    assert httpserver.log == []


# Reviews


def test_the_reviews_of_a_range_are_read_by_their_day_in_utc(httpserver, fetch):
    page = fixture("reviews_page1")["feed"]["entry"]
    pages(httpserver, page)
    rows = fetch("reviews", FIRST, LAST)
    assert [(row.day, row.dimensions["review_id"]) for row in rows] == [
        (date(2026, 11, 22), "9000000105"),
        (date(2026, 11, 22), "9000000104"),  # 22:40 the day before in Apple's zone
        (date(2026, 11, 21), "9000000103"),
        (date(2026, 11, 20), "9000000102"),
    ]
    assert {row.country for row in rows} == {"us"}
    assert rows[1].extra == {
        "rating": 1,
        "title": "Crash on start",
        "content": "Since 3.4.1 it closes at once.\nPlease fix.",
        "author": "sample_user_2",
        "version": "3.4.1",
        "vote_sum": 7,
        "vote_count": 9,
    }
    assert [row.extra["rating"] for row in rows] == [5, 1, 4, 3]
    assert asked(httpserver) == [1, 2], "the first page ends before the range does, so the second is asked for"


def test_pages_are_read_until_one_begins_before_the_range(httpserver, fetch):
    pages(
        httpserver,
        reviews_at(0, *["2026-11-22T10:00:00Z"] * 50),
        reviews_at(48, "2026-11-22T09:00:00Z", "2026-11-22T08:00:00Z", "2026-11-20T08:00:00Z", "2026-11-18T08:00:00Z"),
        reviews_at(90, "2026-11-18T07:00:00Z"),
    )
    rows = fetch("reviews", date(2026, 11, 20), date(2026, 11, 21))
    assert [row.dimensions["review_id"] for row in rows] == ["50"]
    httpserver.clear_log()
    rows = fetch("reviews", date(2026, 11, 20), LAST)
    assert [row.dimensions["review_id"] for row in rows] == [str(number) for number in range(51)], "each once"
    assert asked(httpserver) == [1, 2]


def test_a_single_review_is_an_object_and_no_list(httpserver, fetch):
    pages(httpserver, fixture("reviews_single_entry")["feed"]["entry"])
    assert [row.extra["rating"] for row in fetch("reviews", FIRST, LAST)] == [5]


def test_an_entry_without_a_rating_is_the_app_itself(httpserver, fetch):
    app = {"im:name": {"label": "Puzzle Farm"}, "id": {"label": "https://example.invalid"}}
    pages(httpserver, [app, *reviews_at(1, "2026-11-22T10:00:00Z")])
    assert len(fetch("reviews", FIRST, LAST)) == 1


def test_a_review_of_which_little_is_known_is_kept(httpserver, fetch):
    entry = {**review(1, "2026-11-22T10:00:00Z"), "author": "x", "title": {"label": 5}, "content": {"label": "a\0"}}
    pages(httpserver, [entry])
    [row] = fetch("reviews", FIRST, LAST)
    assert row.extra == {"rating": 3, "vote_sum": None, "vote_count": None, "content": "a\ufffd"}


def full_pages(days):
    """Ten full pages that reach back so many days from 2026-11-22."""
    last = datetime(2026, 11, 22, 12, tzinfo=UTC)
    moments = [last - timedelta(days=days) * place / 499 for place in range(500)]
    return [reviews_at(at, *(each.isoformat() for each in moments[at : at + 50])) for at in range(0, 500, 50)]


def test_a_range_older_than_the_newest_500_is_refused_with_the_first_day_that_can_be_had(httpserver, fetch):
    pages(httpserver, *full_pages(days=10))  # back to the noon of the 12th
    with pytest.raises(PermanentError, match=r"begin on 2026-11-12: ask for days from 2026-11-13 on \(got"):
        fetch("reviews", date(2026, 11, 12), LAST)
    assert asked(httpserver) == list(range(1, 11))
    assert len(fetch("reviews", date(2026, 11, 13), LAST)) == 475


def test_fewer_than_500_reviews_are_all_there_are(httpserver, fetch):
    found = full_pages(days=10)
    pages(httpserver, *found[:9], found[9][:49])
    assert len(fetch("reviews", date(2026, 1, 1), LAST)) == 499


def test_an_empty_page_after_a_full_one_is_asked_for_again(httpserver, fetch):
    first, second = full_pages(days=10)[:2]
    path = "/us/rss/customerreviews/page=2/id=9990000001/sortby=mostrecent/json"
    httpserver.expect_ordered_request(path.replace("=2", "=1")).respond_with_json({"feed": {"entry": first}})
    httpserver.expect_ordered_request(path).respond_with_json({"feed": {}})
    httpserver.expect_ordered_request(path).respond_with_json({"feed": {"entry": second[:9]}})
    httpserver.expect_ordered_request(path.replace("=2", "=3")).respond_with_json({"feed": {}})
    assert len(fetch("reviews", date(2026, 1, 1), LAST)) == 59


def test_no_reviews_of_an_app_that_many_rated_are_not_believed(httpserver, fetch):
    path = "/us/rss/customerreviews/page=1/id=9990000001/sortby=mostrecent/json"
    httpserver.expect_request(path).respond_with_json(fixture("reviews_empty"))
    serve(httpserver, lookup_of(software(9990000001, userRatingCount=18234), id="9990000001"))
    with pytest.raises(TransientError, match="18234 people rated: not believed") as caught:
        fetch("reviews", FIRST, LAST)
    assert caught.value.retry_after == 1800


@pytest.mark.parametrize("ratings", [{"userRatingCount": 49}, {}, {"userRatingCount": "many"}])
def test_no_reviews_of_an_app_that_few_rated_are_believed_the_second_time(httpserver, fetch, ratings):
    pages(httpserver)
    serve(httpserver, lookup_of(software(9990000001, **ratings), id="9990000001"))
    assert fetch("reviews", FIRST, LAST) == []
    assert asked(httpserver) == [1, "/lookup", 1]


def test_an_app_without_ratings_has_no_reviews(httpserver, fetch):
    pages(httpserver)
    serve(httpserver, lookup_of(software(9990000001, userRatingCount=0), id="9990000001"))
    assert fetch("reviews", FIRST, LAST) == []
    assert asked(httpserver) == [1, "/lookup"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (review(1, "2026-11-22"), "updated of a review must be"),
        (review(1, "2026-11-22T10:00:00"), "updated of a review must be"),
        (review(1, "0001-01-01T00:00:00+14:00"), "updated of a review must be"),
        (review(1, 5), "updated of a review must be"),
        (review("", "2026-11-22T10:00:00Z"), "id of a review must be"),
        (review("x" * 191, "2026-11-22T10:00:00Z"), "id of a review must be"),
        (review("a\nb", "2026-11-22T10:00:00Z"), "id of a review must be"),
        (review(1, "2026-11-22T10:00:00Z", "five"), "im:rating of a review must be a whole number"),
        (review(1, "2026-11-22T10:00:00Z", "--5"), "im:rating of a review must be a whole number"),
        (review(1, "2026-11-22T10:00:00Z", None), "im:rating of a review must be a whole number"),
        (review(1, "2026-11-22T10:00:00Z", "9" * 19), "im:rating of a review must be a whole number"),
        (review(1, "2026-11-22T10:00:00Z", **{"im:voteSum": "²"}), "im:voteSum of a review must be a whole number"),
        (review(1, "2026-11-22T10:00:00Z", **{"im:voteSum": "5-"}), "im:voteSum of a review must be a whole number"),
        ("text", "has no list feed.entry"),
        (None, "has no list feed.entry"),
    ],
)
def test_an_entry_that_cannot_be_read_is_an_error_that_names_it(httpserver, fetch, entry, message):
    pages(httpserver, [entry])
    with pytest.raises(PermanentError, match=message):
        fetch("reviews", FIRST, LAST)


def test_a_review_that_cannot_be_read_is_left_out_and_told_of(httpserver, fetch, context):
    """One review without its moment lost all reviews of the app, for good."""
    at = f"{FIRST}T08:00:00+00:00"
    pages(httpserver, [review(1, at), review(2, None), "text", review(3, at)])
    assert [row.dimensions["review_id"] for row in fetch("reviews", FIRST, LAST)] == ["1", "3"]
    assert [name for name, _ in context.remarks] == ["left_out_records"] * 2
    assert "updated of a review must be a moment" in context.remarks[1][1]


def test_an_app_that_cannot_be_read_is_left_out_of_the_list_and_told_of(httpserver, source, context):
    records = software(1), software(None), software(2, bundleId={"a": 1}), software(3)
    serve(httpserver, lookup_of(*records, id=DEVELOPER.username, entity="software", limit="200"))
    assert [app.app_id for app in source.list_apps(DEVELOPER, context)] == ["id1", "id3"]
    assert [name for name, _ in context.remarks] == ["left_out_records"] * 2


@pytest.mark.parametrize("answer", [[], {}, None, {"feed": None}, {"feed": []}, {"feed": {"entry": 5}}])
def test_an_answer_without_a_feed_is_no_empty_feed(httpserver, fetch, answer):
    path = "/us/rss/customerreviews/page=1/id=9990000001/sortby=mostrecent/json"
    httpserver.expect_request(path).respond_with_json(answer)
    with pytest.raises(PermanentError, match=r"has no list feed\.entry"):
        fetch("reviews", FIRST, LAST)


def test_reviews_of_several_storefronts_are_told_apart(httpserver, fetch):
    pages(httpserver, reviews_at(1, "2026-11-22T10:00:00Z"))
    pages(httpserver, reviews_at(1, "2026-11-22T11:00:00Z"), country="de")
    rows = fetch("reviews", FIRST, LAST, countries=["de", "us"])
    assert [(row.country, row.dimensions) for row in rows] == [("de", {"review_id": "1"}), ("us", {"review_id": "1"})]


# Charts


@pytest.mark.parametrize(("app_id", "rows"), [(APP, [1]), ("id9990000099", [2]), ("id5", [])])
def test_a_rank_is_a_row_and_no_rank_is_none(httpserver, fetch, app_id, rows):
    httpserver.expect_request("/api/v2/us/apps/top-free/100/apps.json").respond_with_json(fixture("charts_top_free"))
    assert fetch("top_free_rank", app_id=app_id) == [
        Figures(today(), country="us", extra={"rank": rank}) for rank in rows
    ]


def test_each_chart_has_its_path_and_each_storefront_its_rank(httpserver, fetch):
    for country, numbers in (("us", ["1", "9990000001"]), ("de", ["9990000001"])):
        chart = {"feed": {"results": [{"id": number} for number in numbers]}}
        httpserver.expect_request(f"/api/v2/{country}/apps/top-paid/100/apps.json").respond_with_json(chart)
    rows = fetch("top_paid_rank", countries=["us", "de"])
    assert [(row.country, row.extra["rank"]) for row in rows] == [("us", 2), ("de", 1)]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"feed": {"results": []}}, TransientError),
        ({"feed": {"results": None}}, PermanentError),
        ({"feed": {"results": [5]}}, PermanentError),
        ({"results": []}, PermanentError),
        ([], PermanentError),
    ],
)
def test_a_chart_without_apps_is_an_error(httpserver, fetch, answer, kind):
    httpserver.expect_request("/api/v2/us/apps/top-free/100/apps.json").respond_with_json(answer)
    with pytest.raises(kind):
        fetch("top_free_rank")


# Refusals, addresses, settings


@pytest.mark.parametrize("report", ["app_details", "reviews", "top_free_rank"])
@pytest.mark.parametrize(
    ("status", "body", "headers", "wait"),
    [("403 Forbidden", b"", "", None), ("429 Slow", b"no", "", None), ("403 No", b"", "Retry-After: 7\r\n", 7)],
)
def test_a_throttled_call_waits_for_the_limit(raw_server, make_reply, context, report, status, body, headers, wait):
    server = raw_server(make_reply(body, status, headers))
    source = Apple(SourceSettings(base_url=server.address))
    with pytest.raises(QuotaError) as caught:
        list(source.fetch_app_data(DEVELOPER, APP, report, today(), today(), context))
    assert (caught.value.retry_after, caught.value.scope) == (wait, "store_calls")
    assert "authorization" not in server.requests[0].lower()
    source.close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        ("400 Bad", b"", PermanentError, "is there such a storefront"),
        ("403 No", b"<h1>Forbidden</h1>", TransientError, "Forbidden"),
        ("404 No", b"", TransientError, "answered 404"),
        ("404 No", b"none", PermanentError, "answered 404"),
        ("500 Oops", b"x" * 100_000, TransientError, "answered 500"),
        ("502 Bad", b"", TransientError, "answered 502"),
        ("200 OK", b"", TransientError, "empty"),
        ("200 OK", b'{"feed": {"entry": [', TransientError, "breaks off"),
        ("200 OK", b"<html>maintenance</html>", TransientError, "a page"),
        ("200 OK", b"\xff\xfe", PermanentError, "not UTF-8"),
    ],
)
@pytest.mark.parametrize("report", ["app_details", "reviews", "top_free_rank"])
def test_a_hostile_answer_is_a_typed_error(raw_server, make_reply, context, report, status, body, kind, message):
    source = Apple(SourceSettings(base_url=raw_server(make_reply(body, status)).address))
    with pytest.raises(kind, match=message):
        list(source.fetch_app_data(DEVELOPER, APP, report, today(), today(), context))
    source.close()


def test_a_redirect_is_not_followed(raw_server, make_reply, context):
    other = raw_server(make_reply(b'{"results": []}'))
    server = raw_server(make_reply(b"", "302 Found", f"Location: {other.address}/lookup\r\n"))
    with pytest.raises(TransientError, match="redirects"):
        Apple(SourceSettings(base_url=server.address)).list_apps(DEVELOPER, context)
    assert other.requests == []


def test_an_answer_too_long_to_hold_is_refused(raw_server, make_reply, context, monkeypatch):
    monkeypatch.setattr("crawlfleet.sources.http.transport.MAX_JSON_CHARS", 1000)
    server = raw_server(make_reply(json.dumps({"results": [{"description": "x" * 2000}]}).encode()))
    with pytest.raises(PermanentError, match="longer than 1000 characters"):
        Apple(SourceSettings(base_url=server.address)).list_apps(DEVELOPER, context)


def test_a_cancelled_context_makes_no_further_request(httpserver, source, make_context):
    context = make_context(cancel_at=3)  # before the request, at its body, before the next
    pages(httpserver, *full_pages(days=10))
    with pytest.raises(context.Cancelled):
        list(source.fetch_app_data(DEVELOPER, APP, "reviews", FIRST, LAST, context))
    assert asked(httpserver) == [1]


def test_without_a_base_address_each_kind_of_call_goes_to_its_own_host():
    source = Apple(SourceSettings())
    assert source._store.url("/lookup") == "https://itunes.apple.com:443/lookup"
    assert source._charts.url("/api") == "https://rss.marketingtools.apple.com:443/api"
    moved = Apple(SourceSettings(base_url="http://127.0.0.1:1/apple"))
    assert moved._store.url("/x") == moved._charts.url("/x") == "http://127.0.0.1:1/apple/x"


@pytest.mark.parametrize("app_id", ["9990000001", "id", "id1x", "com.example.app", "id1/../2", "id" + "1" * 19, "id١"])
def test_an_app_id_of_another_spelling_is_refused_before_any_call(httpserver, fetch, app_id):
    with pytest.raises(PermanentError, match="app_id must be 'id' and the app's number"):
        fetch("reviews", app_id=app_id)
    assert httpserver.log == []


def test_an_unknown_report_is_refused_with_the_known_ones(fetch):
    with pytest.raises(PermanentError, match="one of app_details, reviews, top_free_rank, top_paid_rank"):
        fetch("partners_by_date_report")


@pytest.mark.parametrize("countries", ["us", [], ["US"], ["usa"], [5], {"us": 1}, [""]])
def test_storefronts_of_another_spelling_are_wrong_usage(make_source, countries):
    with pytest.raises(UsageError, match="countries must be a list"):
        make_source(countries=countries)


def test_an_unknown_option_is_wrong_usage_that_names_it(make_source):
    with pytest.raises(UsageError, match="country is unknown: known are countries, base_url"):
        make_source(country="us")


def test_what_calls_cost_is_declared(make_source):
    source = make_source(countries=["us", "de", "us"])
    assert [(limit.name, limit.calls, limit.seconds, limit.scope) for limit in source.limits] == [
        ("store_calls", 19, 60, ())
    ]
    assert source.app_list.calls == 2
    assert {name: report.shape_of(1).calls for name, report in source.reports.items()} == {
        "app_details": 2,
        "reviews": 4,
        "top_free_rank": 2,
        "top_paid_rank": 2,
    }
    reviews = source.reports["reviews"]
    assert [reviews.shape_of(days).calls for days in (7, 8, 1000)] == [4, 20, 20]
    assert [shape.min_days for shape in reviews.shapes] == [1, 8]
    assert [name for name, report in source.reports.items() if not report.is_snapshot] == ["reviews"]
    assert {name for report in source.reports.values() for shape in report.shapes for name in shape.limits} == {
        "store_calls"
    }
