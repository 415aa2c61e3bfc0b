"""The task types user_apps and app_data, with the sandbox as the vendor."""

from __future__ import annotations

import json
import logging
from datetime import UTC, date, datetime, timedelta

import pytest

from crawlfleet.core.errors import AuthError, NotPermitted, PermanentError, RangeTooLarge
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.executors.app_data import APP_DATA
from crawlfleet.executors.body import run_body
from crawlfleet.executors.contract import TaskContext
from crawlfleet.executors.task_dates import asked_range
from crawlfleet.executors.user_apps import USER_APPS
from crawlfleet.model.task_spec import DEFAULT_REPORT, Task, TaskSpec
from crawlfleet.sandbox.apple.invented_data import DEVELOPERS, expected_apps
from crawlfleet.sandbox.server import Sandbox, apps_of, expected_rows
from crawlfleet.sources.apple.source import Apple
from crawlfleet.sources.appsflyer.source import MASTER, AppsFlyer
from crawlfleet.sources.contract import ALL_APPS, Account, AppListUnavailable, Report, Shape, SourceSettings

START, END = date(2026, 3, 1), date(2026, 3, 4)
APP_IDS = sorted(app.app_id for app in apps_of("demo_agency"))


@pytest.fixture(scope="module")
def source():
    with Sandbox() as sandbox:
        source = AppsFlyer(SourceSettings(base_url=sandbox.base_url))
        yield source
        source.close()


@pytest.fixture
def run(source, monkeypatch):
    monkeypatch.setenv("DEMO_TOKEN", "sandbox-demo_agency")
    account = Account("appsflyer", "demo_agency", token_env="DEMO_TOKEN")

    def run(executor, account=account, source=source, **values):
        task = make_task(executor.name, **values)
        executor.check(task)
        return executor.function(task, TaskContext(task, account, source))

    return run


@pytest.fixture
def run_whole():
    """The outcome of an app_data body with this source, its rows read to the end."""

    def run(source, **values):
        task = make_task("app_data", **{"app_id": "a", **values})
        return run_body(APP_DATA, task, TaskContext(task, Account("appsflyer", "demo_agency"), source))

    return run


def make_task(task_type, source="appsflyer", username="demo_agency", **values):
    return Task(1, task_type, source=source, username=username, **values)


def yesterday():
    return datetime.now(UTC).date() - timedelta(1)


class Unlisted:
    """A vendor that lists no apps for this account."""

    def __init__(self, error):
        self.error = error
        self.reports = {}

    def list_apps(self, account, context):
        raise self.error


def test_user_apps_gives_all_apps_in_place_of_those_stored(run):
    result = run(USER_APPS)
    assert list(result.rows) == apps_of("demo_agency")
    assert result.replaces == AppList("appsflyer", "demo_agency")
    assert result.summary == {"username": "demo_agency", "source": "appsflyer", "synced_apps": len(APP_IDS)}
    assert list(result.follow_ups) == []


def test_user_apps_with_dates_asks_for_the_figures_of_each_app(run):
    result = run(USER_APPS, start_date=START, end_date=END, report=DEFAULT_REPORT, priority=7)
    assert list(result.follow_ups) == [
        TaskSpec(
            "app_data",
            username="demo_agency",
            source="appsflyer",
            app_id=app_id,
            start_date=START,
            end_date=END,
            report=DEFAULT_REPORT,
            priority=7,
        )
        for app_id in APP_IDS
    ]


def test_user_apps_with_days_asks_for_that_many_days_up_to_yesterday(run):
    before = yesterday()
    follow_ups = list(run(USER_APPS, task_data={"days": 3}).follow_ups)
    assert len(follow_ups) == len(APP_IDS)
    ends = {spec.end_date for spec in follow_ups}
    assert len(ends) == 1
    assert ends <= {before, yesterday()}
    assert {spec.end_date - spec.start_date for spec in follow_ups} == {timedelta(2)}


def test_apps_named_by_hand_stand_in_when_the_vendor_lists_none(run, caplog):
    account = Account("appsflyer", "demo_agency", app_ids=("b", "a", "b"))
    unlisted = Unlisted(AppListUnavailable("answered 404"))
    with caplog.at_level(logging.WARNING):
        result = run(USER_APPS, account, unlisted, start_date=START, end_date=END)
    assert list(result.rows) == [App("b"), App("a")]
    assert [spec.app_id for spec in result.follow_ups] == ["a", "b"]
    assert result.summary["synced_apps"] == 2
    assert "answered 404" in caplog.text


@pytest.mark.parametrize("error", [AuthError("refused"), PermanentError("the answer is no app list")])
def test_apps_named_by_hand_do_not_hide_another_failure(run, error):
    account = Account("appsflyer", "demo_agency", app_ids=("a",))
    with pytest.raises(type(error), match=str(error)):
        run(USER_APPS, account, Unlisted(error))


def test_without_a_list_and_without_apps_by_hand_the_error_says_what_to_do(run):
    account = Account("appsflyer", "demo_agency")
    with pytest.raises(PermanentError, match="answered 403; name the account's apps with --app-id"):
        run(USER_APPS, account, Unlisted(AppListUnavailable("answered 403")))


def test_app_data_gives_the_rows_of_the_range_they_replace(run):
    result = run(APP_DATA, app_id=APP_IDS[0], start_date=START, end_date=END)
    assert list(result.rows) == expected_rows("demo_agency", APP_IDS[0], START, END)
    assert result.replaces == ReportRange("appsflyer", "demo_agency", APP_IDS[0], DEFAULT_REPORT, START, END)
    assert result.summary == {
        "source": "appsflyer",
        "username": "demo_agency",
        "app_id": APP_IDS[0],
        "report": DEFAULT_REPORT,
        "start_date": "2026-03-01",
        "end_date": "2026-03-04",
    }
    assert list(result.follow_ups) == []


def test_app_data_without_dates_is_yesterday(run):
    before = yesterday()
    scope = run(APP_DATA, app_id=APP_IDS[0]).replaces
    assert scope.start == scope.end
    assert scope.end in (before, yesterday())


def test_app_data_without_an_app_becomes_one_task_for_each_app(run):
    result = run(APP_DATA, start_date=START, end_date=END, priority=-2)
    assert result.replaces is None
    assert list(result.rows) == []
    assert [
        (spec.task_type, spec.app_id, spec.start_date, spec.end_date, spec.priority) for spec in result.follow_ups
    ] == [("app_data", app_id, START, END, -2) for app_id in APP_IDS]
    assert result.summary["app_tasks"] == len(APP_IDS)


def test_app_data_without_an_app_is_one_call_where_the_report_takes_all_apps(run, source):
    result = run(APP_DATA, report=MASTER, start_date=START, end_date=END)
    assert result.replaces.app_id == result.summary["app_id"] == ALL_APPS
    assert list(result.rows) == expected_rows("demo_agency", ALL_APPS, START, END, report=MASTER)
    assert list(result.follow_ups) == []
    spec = TaskSpec("app_data", "demo_agency", "appsflyer", report=MASTER, start_date=START, end_date=END)
    assert APP_DATA.cost(spec, source).limits == ("master",)


def test_user_apps_with_days_of_an_account_wide_report_asks_once(run):
    [spec] = run(USER_APPS, report=MASTER, start_date=START, end_date=END).follow_ups
    assert (spec.task_type, spec.app_id, spec.report) == ("app_data", ALL_APPS, MASTER)


def apple(sandbox, **values):
    """The result of an app_data task for the first developer of the sandbox's App Store."""
    source = Apple(SourceSettings(base_url=sandbox.base_url))
    account = Account("apple", DEVELOPERS[0])
    task = make_task("app_data", "apple", account.username, **values)
    APP_DATA.check(task)
    result = APP_DATA.function(task, TaskContext(task, account, source))
    rows = list(result.rows)
    source.close()
    return result, rows


def test_app_data_without_a_report_is_the_sources_first_and_a_snapshot_is_of_today():
    before = yesterday()
    with Sandbox() as sandbox:
        [app, *_] = expected_apps(DEVELOPERS[0])
        result, [row] = apple(sandbox, app_id=app.app_id)
    assert result.replaces.report == "app_details"
    assert result.replaces.start == result.replaces.end == row.day
    assert row.day - timedelta(1) in (before, yesterday())


@pytest.mark.parametrize(
    ("values", "days"),
    [
        ({"report": "top_free_rank"}, (None, None)),
        ({"report": "reviews", "start_date": START, "end_date": END}, (START, END)),
        ({"report": "app_details", "start_date": END, "end_date": END}, (END, END)),
    ],
)
def test_app_data_of_all_apps_leaves_the_day_of_a_snapshot_to_each_task(values, days):
    with Sandbox() as sandbox:
        result, rows = apple(sandbox, **values)
    assert rows == []
    assert [spec.app_id for spec in result.follow_ups] == [app.app_id for app in expected_apps(DEVELOPERS[0])]
    assert {(spec.start_date, spec.end_date, spec.report) for spec in result.follow_ups} == {(*days, values["report"])}


def test_app_data_of_an_unknown_report_fails_for_good(run):
    with pytest.raises(PermanentError, match="report must be one of"):
        run(APP_DATA, app_id=APP_IDS[0], report="geo_report")


def test_days_beyond_the_longest_range_fail_for_good_before_the_vendor_is_asked(run):
    with pytest.raises(PermanentError, match="master_by_ad takes at most 31 days at once"):
        run(APP_DATA, app_id=APP_IDS[0], report="master_by_ad", start_date=START, end_date=START + timedelta(31))


class Capped:
    """A vendor that cuts a report silently after `cap` rows, or with `refuses` gives none instead; two rows a day."""

    def __init__(self, cap, refuses=False, account_wide=False):
        self.cap, self.refuses = cap, refuses
        shapes = (Shape(max_days=31),)
        self.reports = {DEFAULT_REPORT: Report(DEFAULT_REPORT, shapes, row_cap=cap, account_wide=account_wide)}

    def fetch_app_data(self, account, app_id, report, start, end, context):
        days = [start + timedelta(n) for n in range((end - start).days + 1)]
        rows = [Figures(day, campaign=name) for day in days for name in "ab"]
        if self.refuses and len(rows) >= self.cap:
            raise RangeTooLarge("416: more than the vendor gives")
        yield from rows[: self.cap]


@pytest.mark.parametrize("refuses", [False, True])
def test_a_range_at_the_vendors_row_cap_stores_nothing_and_becomes_its_halves(run_whole, refuses):
    end = START + timedelta(4)
    outcome = run_whole(Capped(10, refuses), start_date=START, end_date=end, priority=4, report=DEFAULT_REPORT)
    assert (outcome.kind, outcome.rows, outcome.replaces) == ("ok", [], None)
    assert json.loads(outcome.summary)["split_into"] == 2
    middle = START + timedelta(2)
    assert outcome.follow_ups == [
        TaskSpec("app_data", "demo_agency", "appsflyer", "a", first, last, DEFAULT_REPORT, priority=4)
        for first, last in [(START, middle), (middle + timedelta(1), end)]
    ]


def test_halves_of_a_whole_account_ask_for_the_whole_account(run_whole):
    source = Capped(10, account_wide=True)
    outcome = run_whole(source, app_id=None, start_date=START, end_date=START + timedelta(4), report=DEFAULT_REPORT)
    assert [spec.app_id for spec in outcome.follow_ups] == [None, None]  # with an app they could count as denied
    assert json.loads(outcome.summary)["app_id"] == "all"


class Denying(Capped):
    """A vendor that lets nobody have anything."""

    def fetch_app_data(self, account, app_id, report, start, end, context):
        raise NotPermitted("not in your package")
        yield


@pytest.mark.parametrize(("account_wide", "app_id", "asked"), [(False, "a", "a"), (True, None, "all")])
def test_a_denial_names_what_was_asked_for(run_whole, account_wide, app_id, asked):
    source = Denying(10, account_wide=account_wide)
    outcome = run_whole(source, app_id=app_id, start_date=START, end_date=START)
    assert (outcome.kind, outcome.denied) == ("permanent", (asked, DEFAULT_REPORT))


def test_a_range_one_row_below_the_cap_is_stored(run_whole):
    outcome = run_whole(Capped(11), start_date=START, end_date=START + timedelta(4))
    assert (len(outcome.rows), outcome.follow_ups, outcome.replaces.start) == (10, [], START)


@pytest.mark.parametrize("refuses", [False, True])
def test_halves_of_halves_end_at_single_days(run_whole, refuses):
    seen, todo = [], [(START, START + timedelta(6))]
    while todo:
        first, last = todo.pop()
        outcome = run_whole(Capped(3, refuses), start_date=first, end_date=last)
        todo += [(spec.start_date, spec.end_date) for spec in outcome.follow_ups]
        seen += [row.day for row in outcome.rows]
    assert sorted(seen) == [START + timedelta(n) for n in range(7) for _ in "ab"]


@pytest.mark.parametrize("refuses", [False, True])
def test_a_single_day_at_the_cap_fails_for_good(run_whole, refuses):
    outcome = run_whole(Capped(2, refuses), start_date=START, end_date=START)
    assert (outcome.kind, outcome.rows) == ("permanent", ())
    assert "the single day 2026-03-01 cannot be split, nothing is stored" in outcome.message


@pytest.mark.parametrize("executor", [USER_APPS, APP_DATA], ids=lambda executor: executor.name)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": None}, "source is required for a .* task"),
        ({"username": None}, "username is required for a .* task"),
        ({"start_date": START}, "go together .got start_date 2026-03-01, end_date None"),
        ({"end_date": END}, "go together .got start_date None, end_date 2026-03-04"),
        ({"start_date": END, "end_date": START}, "must not be after end_date .got 2026-03-04 and 2026-03-01"),
        ({"start_date": START, "end_date": date(2999, 1, 1)}, "end_date must not be after .*got 2999-01-01"),
        ({"start_date": date(2020, 1, 1), "end_date": END}, "at most 1000 days .*2020-01-01 to 2026-03-04, 2255 days"),
        ({"task_data": {"days": 0}}, "days must be a whole number from 1 to 1000 .got 0"),
        ({"task_data": {"days": 1001}}, "got 1001"),
        ({"task_data": {"days": True}}, "got True"),
        ({"task_data": {"days": "7"}}, "got '7'"),
        ({"task_data": {"days": None}}, "got None"),
    ],
)
def test_an_impossible_parameter_fails_for_good_and_is_named(executor, values, message):
    with pytest.raises(PermanentError, match=message):
        executor.check(make_task(executor.name, **values))


def test_the_range_ends_tomorrow_at_the_latest_and_spans_1000_days_at_most():
    today = date(2026, 3, 10)
    tomorrow = today + timedelta(1)
    start = tomorrow - timedelta(999)
    assert asked_range(make_task("app_data", start_date=start, end_date=tomorrow), today) == (start, tomorrow)
    with pytest.raises(PermanentError, match="1001 days"):
        asked_range(make_task("app_data", start_date=start - timedelta(1), end_date=tomorrow), today)
    with pytest.raises(PermanentError, match="2026-03-12"):
        asked_range(make_task("app_data", start_date=start, end_date=tomorrow + timedelta(1)), today)


def test_dates_win_over_days():
    task = make_task("app_data", start_date=START, end_date=END, task_data={"days": 30})
    assert asked_range(task) == (START, END)


def test_both_types_need_an_account():
    assert USER_APPS.needs_account
    assert APP_DATA.needs_account
    assert not USER_APPS.asynchronous
    assert not APP_DATA.asynchronous


def test_that_an_answer_without_rows_is_believed_is_said_by_the_task_or_by_the_report(run):
    """The word of a person goes on to the tasks for single apps; apps named by hand are not doubted."""
    assert run(APP_DATA, app_id=APP_IDS[0], start_date=START, end_date=END).replaces.believe_empty is False
    said = {"believe_empty": True}
    assert run(APP_DATA, app_id=APP_IDS[0], start_date=START, end_date=END, task_data=said).replaces.believe_empty
    for executor in (APP_DATA, USER_APPS):
        result = run(executor, start_date=START, end_date=END, task_data=said)
        assert [spec.task_data for spec in result.follow_ups] == [said] * len(APP_IDS)
    with pytest.raises(PermanentError, match="believe_empty must be true or false"):
        run(APP_DATA, app_id=APP_IDS[0], task_data={"believe_empty": 1})
    by_hand = Account("appsflyer", "demo_agency", token_env="DEMO_TOKEN", app_ids=("a",))
    assert run(USER_APPS, account=by_hand).replaces.by_hand
    apple = Apple(SourceSettings())
    assert {name for name, report in apple.reports.items() if report.rows_may_vanish} == {
        "reviews",
        "top_free_rank",
        "top_paid_rank",
    }
    apple.close()


def test_what_a_source_leaves_out_is_counted_and_named_in_the_result_and_the_log(run_whole, caplog):
    class Careless:
        def __init__(self):
            self.reports = {DEFAULT_REPORT: Report(DEFAULT_REPORT, (Shape(max_days=9),))}

        def fetch_app_data(self, account, app_id, report, start, end, context):
            for number in range(7):
                context.remark("left_out_records", f"record {number} has no date")
            yield Figures(start, clicks=1)

    outcome = run_whole(Careless(), start_date=START, end_date=END)
    told = json.loads(outcome.summary)
    assert (told["synced_records"], told["left_out_records"]) == (1, 7)
    assert told["remarks"] == [f"record {number} has no date" for number in range(5)]
    assert sum("has no date" in record.getMessage() for record in caplog.records) == 5
