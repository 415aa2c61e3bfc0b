"""What one can ask a fleet to do from Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.errors import CrawlfleetError, UsageError
from crawlfleet.core.vendor_data import App, AppList
from crawlfleet.model.task_insert import PRIORITY_STEP_MS, TaskDefaults
from crawlfleet.model.task_spec import DEFAULT_REPORT, TaskSpec
from crawlfleet.services.fleet import Fleet, connect
from tests.conftest import Backend
from tests.fleets import Device, ending, task


@pytest.fixture
def fleet(url: str) -> Iterator[Fleet]:
    made = connect(url)
    for source, username in (("appsflyer", "alice"), ("appsflyer", "both"), ("apple", "both")):
        made.accounts.add(Account(source, username, token_env="T"))
    yield made
    made.close()


def test_connecting_makes_the_tables_once(backend: Backend) -> None:
    for _ in range(2):
        fleet = connect(backend.url, TaskDefaults(execution_timeout=7, max_retry_count=1))
        found = task(fleet.db, fleet.add_task("quick", task_data={"n": 1}))
        assert (found["execution_timeout"], found["max_retry_count"], found["task_data"]) == (7, 1, {"n": 1})
        fleet.close()


def test_the_only_source_and_the_usual_report_are_filled_in(fleet: Fleet) -> None:
    found = task(fleet.db, fleet.add_task("app_data", username="alice", app_id="com.a"))
    assert (found["source"], found["report"]) == ("appsflyer", DEFAULT_REPORT)
    found = task(fleet.db, fleet.add_task("app_data", username="both", source="appsflyer", report="daily_report"))
    assert (found["source"], found["report"]) == ("appsflyer", "daily_report")
    found = task(fleet.db, fleet.add_task("quick", username="nobody"))
    assert (found["source"], found["report"]) == (None, None)


def test_tasks_added_together_are_what_they_would_be_alone(backend: Backend) -> None:
    fleet = connect(backend.url)
    later = datetime(2100, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
    specs = [
        TaskSpec("quick"),
        TaskSpec("quick", task_data={"text": "数据 'a' \\ %s :x"}, unique_key="k1", max_retry_count=0),
        TaskSpec("quick", task_data={}, priority=-3, label="big"),
        TaskSpec("slow", username="名", run_at=later, execution_timeout=9),
        TaskSpec("app_data", "alice", "appsflyer", "com.a", date(2026, 1, 31), date(2026, 2, 1), unique_key="k2"),
    ]
    given = {"id", "order_key", "ready_key", "next_run_at", "created_at", "updated_at"}  # or of the moment of adding

    def rows(ids: list[int]) -> list[dict[str, object]]:
        assert fleet.cancel_tasks(ids) == ids  # frees the unique keys
        found = [task(fleet.db, each) for each in ids]
        return [{name: value for name, value in each.items() if name not in given} for each in found]

    alone = [row for spec in specs for row in rows(fleet.add_tasks([spec]))]
    together = rows(fleet.add_tasks(specs))
    for one, other in zip(alone, together, strict=True):
        assert {**other, "completed_at": one["completed_at"]} == one
    [ready, waiting] = [
        task(fleet.db, each) for each in fleet.add_tasks([TaskSpec("quick"), TaskSpec("quick", run_at=later)])
    ]
    assert (ready["ready_key"], ready["wake_at"]) == (ready["order_key"], None)
    assert (waiting["ready_key"], waiting["wake_at"], waiting["next_run_at"]) == (None, later, later)
    assert waiting["order_key"] == round(later.timestamp() * 1000)
    fleet.close()


def test_the_database_places_tasks_that_are_alike_as_it_places_others(backend: Backend) -> None:
    fleet = connect(backend.url)

    def now() -> int:
        with fleet.db.read() as connection:
            return round(connection.now.timestamp() * 1000)

    for _ in range(2):  # when the lane is new, and when it is known
        began = now()
        ids = fleet.add_tasks([TaskSpec("quick", label="new", priority=2, task_data={"n": n}) for n in range(30)])
        ended = now()
        found = [task(fleet.db, each) for each in ids]
        assert [each["task_data"] for each in found] == [{"n": n} for n in range(30)]
        for each in found:
            assert began - 1 <= each["order_key"] + 2 * PRIORITY_STEP_MS <= ended + 1
            assert each["ready_key"] == each["order_key"]
            assert each["created_at"] == each["updated_at"] == each["next_run_at"]
            assert abs(each["created_at"].timestamp() * 1000 - each["order_key"] - 2 * PRIORITY_STEP_MS) <= 1
    [other] = fleet.add_tasks([TaskSpec("quick", label="new", unique_key="k")])
    assert {task(fleet.db, each)["lane_id"] for each in (*ids, other)} == {found[0]["lane_id"]}
    assert fleet.tasks.stats()["total"] == 61
    fleet.close()


def test_what_was_checked_is_what_is_queued(fleet: Fleet) -> None:
    given: dict[str, object] = {"n": 1}
    spec = TaskSpec("quick", task_data=given)
    given["n"] = object()  # could never be stored
    assert task(fleet.db, fleet.add_tasks([spec])[0])["task_data"] == {"n": 1}
    assert fleet.with_defaults([replace(spec, task_type="slow", task_data={"n": 2})])[0].task_data_text == '{"n": 2}'


def test_names_of_older_documents_mean_the_same_types(fleet: Fleet) -> None:
    ids = fleet.add_tasks([TaskSpec("app_sync", username="alice"), TaskSpec("data_sync", username="alice")])
    assert [task(fleet.db, each)["task_type"] for each in ids] == ["user_apps", "app_data"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"username": "carol"}, "username 'carol' has no account: add it first with"),
        ({"username": "alcie"}, r"username 'alcie' has no account: did you mean 'alice'\? Else add it first with"),
        ({"username": "both"}, "username 'both' has accounts at apple, appsflyer: name one with source"),
    ],
)
def test_a_task_whose_account_is_unclear_is_refused_and_nothing_is_queued(
    fleet: Fleet, values: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        fleet.add_tasks([TaskSpec("quick"), TaskSpec("user_apps", **values)])
    assert fleet.tasks.stats()["total"] == 0


def test_a_report_that_no_node_can_know_is_refused_unless_it_is_meant(fleet: Fleet) -> None:
    """It was queued, and failed hours later on a node."""
    wrong = TaskSpec("app_data", username="alice", report="daily")
    with pytest.raises(UsageError, match=r"daily_report, .* at appsflyer \(got 'daily'; --force queues it\)"):
        fleet.add_tasks([TaskSpec("quick"), wrong])
    assert fleet.tasks.stats()["total"] == 0
    assert len(fleet.add_tasks([wrong], force=True)) == 1


def test_a_database_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrawlfleetError, match="cannot use the database"):
        connect(f"sqlite:///{tmp_path}/missing/crawlfleet.db")


def test_a_name_that_is_nearly_a_known_type_is_refused_unless_it_is_meant(fleet: Fleet) -> None:
    Device(fleet.db, types=("fetch_prices", "shard_1")).register()
    for name, meant in (
        ("appdata", "app_data"),
        ("App_Data", "app_data"),
        ("user-apps", "user_apps"),
        ("fetch_price", "fetch_prices"),
        ("app_dta", "app_data"),
    ):
        with pytest.raises(UsageError, match=f"'{name}': did you mean {meant}\\?"):
            fleet.add_tasks([TaskSpec("quick"), TaskSpec(name)])
    assert fleet.tasks.stats()["total"] == 0
    assert len(fleet.queue([TaskSpec("appdata")], force=True).ids) == 1
    assert len(fleet.add_tasks([TaskSpec("shard_2"), TaskSpec("prices"), TaskSpec("fetch_prices")])) == 3


def test_half_a_range_is_refused_at_once(fleet: Fleet) -> None:
    """It was queued, and failed when it ran."""
    with pytest.raises(UsageError, match="start_date and end_date go together"):
        fleet.add_task("app_data", username="alice", start_date="2026-01-01")


def test_adding_says_whose_task_an_open_unique_key_meets(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    specs = [TaskSpec("quick", username=each, unique_key="nightly") for each in ("acme", "other")]
    queued = fleet.queue(specs)
    first = queued.ids[0]
    assert queued.ids == [first, first]
    told = f"unique key nightly is already open as task {first} of acme"
    assert told in queued.notes
    assert fleet.add_tasks([specs[1]]) == [first]
    assert fleet.add_tasks([specs[1]]) == [first]
    assert caplog.text.count(told) == 1, "once, however often it is added"
    many = [TaskSpec("quick", unique_key=str(n)) for n in range(30)]
    fleet.queue(many)
    assert fleet.queue(many).notes[-1] == "10 more unique keys are open already"


def test_an_app_that_its_account_does_not_list_is_queued_and_noted(fleet: Fleet) -> None:
    """A mistyped app was queued without a word, and failed hours later on a node."""
    typo, right = (TaskSpec("app_data", username="alice", app_id=each) for each in ("com.exmaple.a", "com.example.a"))
    assert fleet.queue([typo]).notes == [], "no list is known yet"
    device = Device(fleet.db, types=("user_apps",))
    device.register()
    fleet.add_task("user_apps", username="alice")
    [claim] = device.claim()
    device.end(ending(claim, rows=[App("com.example.a")], replaces=AppList("appsflyer", "alice")))
    everything = TaskSpec("app_data", username="alice", app_id="all", report="master_by_ad")
    assert fleet.queue([right, everything, replace(right, app_id=None)]).notes == []
    queued = fleet.queue([typo, right])
    assert len(queued.ids) == 2
    note = (
        "app com.exmaple.a is not in the last list of apps of account alice at appsflyer: did you mean com.example.a?"
    )
    assert queued.notes == [note]
    many = fleet.queue([replace(typo, app_id=f"x{number}") for number in range(30)]).notes
    assert many[-1] == "10 more apps are not in the lists of their accounts"
