"""What each route answers and changes, on every database."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from crawlfleet.api import data_models, models
from crawlfleet.cli.tasks.lines import read_task_lines
from crawlfleet.core.errors import UsageError
from crawlfleet.insights import pages
from crawlfleet.model import schema
from crawlfleet.model.device import DeviceDAO
from tests import fleets
from tests.api.sample import SECRET, YESTERDAY, Sample, sample_fleet
from tests.conftest import Backend

PREFIX = "/api/distribution"


@pytest.fixture
def sample(backend: Backend) -> Iterator[Sample]:
    with sample_fleet(backend.url) as found:
        yield found


@pytest.fixture
def client(sample: Sample) -> Iterator[TestClient]:
    with TestClient(sample.app, base_url="http://127.0.0.1", raise_server_exceptions=False) as found:
        yield found


def get(client: TestClient, path: str, **parameters: Any) -> Any:
    answer = client.get(PREFIX + path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def all_of(client: TestClient, path: str, name: str, key: str = "before", **parameters: Any) -> list[Any]:
    """Every row of a list, page by page."""
    page = get(client, path, **parameters)
    rows = page[name]
    while page["next"] is not None:
        page = get(client, path, **parameters, **{key: page["next"]})
        rows += page[name]
    return rows


def audit(sample: Sample) -> list[tuple[str, str, str | None]]:
    with sample.db.read() as connection:
        rows = connection.execute(sa.text("SELECT actor, action, target FROM cl_audit ORDER BY id"))
        return [(row[0], row[1], row[2]) for row in rows]


def test_every_list_and_number_of_a_fleet_can_be_read(client: TestClient, sample: Sample) -> None:
    stats = get(client, "/tasks/stats")
    assert {name: stats[name] for name in ("completed", "failed", "cancelled", "running", "assigned", "pending")} == {
        "completed": 1,
        "failed": 1,
        "cancelled": 1,
        "running": 1,
        "assigned": 1,
        "pending": 2,
    }
    assert get(client, "/system/overview")["task_stats"] == stats == get(client, "/stats/overview")["task_stats"]
    assert get(client, "/tasks/forecast")["open_tasks"] == 4
    assert get(client, "/tasks/forecast", username="u")["open_tasks"] == 1
    [device] = get(client, "/devices")["devices"]
    assert (device["current_tasks"], device["heartbeat"]["cpu_usage"]) == (2, 12.5)
    assert get(client, "/devices/d1")["epoch"] == device["epoch"]
    numbers = get(client, "/devices/d1/stats")
    assert numbers["task_stats"]["completed"] == numbers["task_stats"]["failed"] == 1
    assert numbers["task_stats"]["success_rate"] == 0.5
    assert numbers["uptime"] >= 0
    [point] = get(client, "/stats/performance/d1", hours=2)["points"]
    assert (point["beats"], point["cpu_usage"], point["memory_usage"]) == (1, 12.5, 40.0)
    status = get(client, "/management/scheduler/status")
    assert (status["paused"], status["devices_claiming"], status["slots"], status["slots_busy"]) == (False, 1, 5, 2)
    assert [each["username"] for each in get(client, "/accounts")["accounts"]] == ["sealed", "u"]
    assert get(client, "/accounts/appsflyer/u")["health"]["state"] == "healthy"
    assert [app["app_id"] for app in all_of(client, "/apps", "apps", "after", limit=1)] == ["app"]
    assert [each["limit"] for each in get(client, "/budgets", username="u")["budgets"]]
    assert all_of(client, "/audit", "audit", limit=1)[-1]["action"] == "tasks.cancel"


def test_tasks_are_found_by_device_and_by_when_they_were_added(client: TestClient, sample: Sample) -> None:
    every = get(client, "/tasks")["tasks"]
    taken = get(client, "/tasks", device_id="d1")["tasks"]
    assert [each["id"] for each in taken] == [each["id"] for each in every if each["assigned_device_id"] == "d1"]
    assert 0 < len(taken) < len(every)
    moments = sorted(each["created_at"] for each in every)
    last = moments[-1]
    newest = [each["id"] for each in every if each["created_at"] == last]
    assert [each["id"] for each in get(client, "/tasks", since=last)["tasks"]] == newest
    older = get(client, "/tasks", until=last)["tasks"]
    assert [each["id"] for each in older] == [each["id"] for each in every if each["created_at"] != last]
    assert client.get(f"{PREFIX}/tasks?since=soon").status_code == 422


def test_a_task_is_told_with_its_runs_events_and_reason(client: TestClient, sample: Sample) -> None:
    done = get(client, f"/tasks/{sample.tasks['completed']}")
    assert done["task_ret"] == done["assignments"][0]["result_data"] == {"seen": 1}
    assert get(client, f"/assignments/{done['assignments'][0]['id']}")["device_id"] == "d1"
    cancelled = sample.tasks["cancelled"]
    assert [each["event"] for each in get(client, f"/tasks/{cancelled}/events")["events"]] == ["cancelled"]
    assert get(client, f"/tasks/{cancelled}/explain")["reason"] == "cancelled"
    assert get(client, f"/tasks/{sample.tasks['pending']}/explain")["reason"] == "ready"


def test_what_runs_said_is_read_and_searched(client: TestClient, sample: Sample) -> None:
    path = f"/tasks/{sample.tasks['running']}/logs"
    page = get(client, path)
    assert [line["message"] for line in page["lines"]] == ["assigned to d1", "began"]
    assert page["ended"] is False
    assert get(client, path, after=page["next"])["lines"] == []
    assert client.get(f"{PREFIX}/tasks/9999/logs").status_code == 404
    assert client.get(f"{PREFIX}{path}?after=x").json()["detail"].startswith("after must be that of an earlier page")
    found = get(client, "/tasks/logs", text="NEVER", level="error")
    assert [(line["task_id"], line["level"]) for line in found["lines"]] == [(sample.tasks["failed"], "error")]


def test_tasks_are_filtered_and_every_page_has_a_key(client: TestClient, sample: Sample) -> None:
    ids = [task["id"] for task in all_of(client, "/tasks", "tasks", limit=2)]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 7
    for wanted in ({"status": "failed"}, {"status": "failed", "task_type": "noop"}):
        assert [task["id"] for task in all_of(client, "/tasks", "tasks", limit=1, **wanted)] == [sample.tasks["failed"]]
    for wanted in ({"username": "u"}, {"username": "u", "status": "pending", "app_id": "app"}, {"source": "appsflyer"}):
        assert [task["app_id"] for task in all_of(client, "/tasks", "tasks", **wanted)] == ["app"], wanted
    assert all_of(client, "/tasks", "tasks", username="nobody") == []
    runs = all_of(client, "/assignments", "assignments", limit=1, device_id="d1", status="completed")
    assert [run["task_id"] for run in runs] == [sample.tasks["completed"]]
    assert len(all_of(client, "/assignments", "assignments", limit=3)) == 4
    task_id = sample.tasks["running"]
    assert [run["status"] for run in all_of(client, "/assignments", "assignments", task_id=task_id)] == ["running"]


def test_a_filter_without_an_index_looks_at_a_bounded_number_of_rows_a_page(
    client: TestClient, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOOK_ROWS", 3)
    rare = fleets.add(sample.db, 1, "rare")
    common = fleets.add(sample.db, 7)
    page = get(client, "/tasks", task_type="rare")
    assert (page["tasks"], int(page["next"])) == ([], common[-3])
    assert [task["id"] for task in all_of(client, "/tasks", "tasks", task_type="rare")] == rare
    assert len(all_of(client, "/tasks", "tasks", task_type="noop")) == 13
    now = datetime.now(UTC)
    assert get(client, "/tasks", since=str(now + timedelta(hours=2)))["next"] is None, "no older task can fit"
    assert get(client, "/tasks", since=str(now + timedelta(minutes=1)))["next"] is not None, "one may: ids are no times"


def test_figures_come_page_by_page_and_exact(client: TestClient, sample: Sample) -> None:
    rows = all_of(client, "/data/rows", "rows", "after", limit=2)
    assert len(rows) == 9
    assert len({json.dumps(row) for row in rows}) == 9
    assert '"cost": 1234.000001' in client.get(f"{PREFIX}/data/rows").text
    assert [row["date"] for row in rows] == sorted(row["date"] for row in rows)
    day = YESTERDAY.isoformat()
    assert len(get(client, "/data/rows", start_date=day, end_date=day, source="appsflyer")["rows"]) == 3
    assert get(client, "/data/rows", username="nobody")["rows"] == []
    covered = get(client, "/data/coverage", start_date=day, end_date=day)
    assert [(feed["app_id"], feed["days"][0]["rows"]) for feed in covered["feeds"]] == [("app", 3)]
    gaps = get(client, "/data/gaps")
    assert sum(gap["days"] for gap in gaps["gaps"]) == 27
    assert {gap["state"] for gap in gaps["gaps"]} == {"missing"}


def test_no_answer_holds_a_secret(client: TestClient, sample: Sample) -> None:
    for path in ("/accounts", "/accounts/appsflyer/sealed", "/audit"):
        assert SECRET not in client.get(PREFIX + path).text
    assert get(client, "/accounts/appsflyer/sealed")["token_sealed"] is True


def test_tasks_are_added_one_or_many_and_all_or_none(client: TestClient, sample: Sample) -> None:
    one = client.post(
        f"{PREFIX}/tasks", json={"task_type": "noop", "unique_key": "k", "run_at": "2030-01-01T00:00:00Z"}
    )
    assert one.status_code == 201
    [task_id] = one.json()["ids"]
    again = client.post(f"{PREFIX}/tasks", json=[{"task_type": "noop", "unique_key": "k"}, {"task_type": "noop"}])
    assert again.json()["ids"][0] == task_id
    assert again.json()["notes"] == [f"unique key k is already open as task {task_id}"]
    near = client.post(f"{PREFIX}/tasks", json={"task_type": "appdata", "username": "nobody"})
    assert (near.status_code, "did you mean app_data?" in near.json()["detail"]) == (422, True)
    before = sample.fleet.tasks.stats()["total"]
    wrong = client.post(f"{PREFIX}/tasks", json=[{"task_type": "noop"}, {"task_type": "no spaces"}])
    assert wrong.status_code == 422
    assert wrong.json()["detail"].startswith("task 1: task_type must be 1 to 64 of letters")
    unknown = client.post(f"{PREFIX}/tasks", json={"task_type": "app_data", "username": "nobody"})
    assert (unknown.status_code, unknown.json()["error"]) == (422, "invalid")
    assert "nobody" in unknown.json()["detail"]
    assert sample.fleet.tasks.stats()["total"] == before
    assert audit(sample)[-2:] == [("local", "tasks.add", None)] * 2


def test_tasks_are_cancelled_and_retried_with_a_trace(client: TestClient, sample: Sample) -> None:
    pending, failed = sample.tasks["pending"], sample.tasks["failed"]
    done = {"moved": [pending], "left": 0, "more": False, "notes": []}
    assert client.post(f"{PREFIX}/tasks/{pending}/cancel").json() == done
    assert sample.fleet.tasks.states([pending]) == {pending: "cancelled"}
    refused = client.post(f"{PREFIX}/tasks/{pending}/cancel")
    assert (refused.status_code, refused.json()["error"]) == (409, "conflict")
    assert f"task {pending} is cancelled" in refused.json()["detail"]
    assert client.post(f"{PREFIX}/tasks/{failed}/retry").json()["moved"] == [failed]
    assert client.post(f"{PREFIX}/tasks/999999/retry").status_code == 404
    both = client.post(f"{PREFIX}/tasks/retry", json={"status": "cancelled"}).json()["moved"]
    assert both == sorted([pending, sample.tasks["cancelled"]])
    assert client.post(f"{PREFIX}/tasks/cancel", json={"ids": both}).json()["moved"] == both
    nothing = client.post(f"{PREFIX}/tasks/cancel", json={})
    assert (nothing.status_code, "either by ids" in nothing.json()["detail"]) == (422, True)
    actions = [(actor, action) for actor, action, _ in audit(sample) if actor == "local"]
    assert actions == [("local", f"tasks.{verb}") for verb in ("cancel", "retry", "retry", "cancel")]


def test_no_answer_shows_the_machine_id_of_a_device(client: TestClient, sample: Sample) -> None:
    [stored] = DeviceDAO(sample.db).find()
    raw = stored["process"]
    for path in ("devices", "devices/d1", "devices/d1/stats"):
        answer = client.get(f"/api/distribution/{path}")
        assert answer.status_code == 200
        for secret in (raw["machine"], raw["boot"], raw["witness"] or "-none-"):
            assert secret not in answer.text, path
    [shown] = client.get("/api/distribution/devices").json()["devices"]
    assert shown["process"]["pid"] == raw["pid"]
    assert len(shown["process"]["machine"]) == 16


def test_queue_devices_and_accounts_are_steered_with_a_trace(client: TestClient, sample: Sample) -> None:
    assert client.post(f"{PREFIX}/management/pause", json={"reason": "upgrade"}).json() == {"changed": True}
    assert client.post(f"{PREFIX}/management/pause", json={"reason": "again"}).json() == {"changed": False}
    assert get(client, "/management/scheduler/status")["reason"] == "upgrade"
    assert client.post(f"{PREFIX}/management/resume").json() == {"changed": True}
    assert client.post(f"{PREFIX}/devices/d1/drain").json() == {"changed": True}
    assert get(client, "/devices/d1")["draining"] is True
    assert client.post(f"{PREFIX}/devices/d1/resume").json() == {"changed": True}
    online = client.delete(f"{PREFIX}/devices/d1")
    assert (online.status_code, "is online" in online.json()["detail"]) == (409, True)
    assert client.post(f"{PREFIX}/devices/nobody/drain").status_code == 404
    why = {"reason": "token is being renewed"}
    assert client.post(f"{PREFIX}/accounts/appsflyer/u/park", json=why).json() == {"changed": True}
    assert get(client, "/accounts/appsflyer/u")["status_reason"] == why["reason"]
    assert client.post(f"{PREFIX}/accounts/appsflyer/u/resume").json() == {"changed": True}
    assert client.post(f"{PREFIX}/accounts/appsflyer/nobody/park", json=why).status_code == 404
    assert client.post(f"{PREFIX}/management/cleanup", json={"days": 1}).json() == {"heartbeats": 0, "assignments": 0}
    assert client.post(f"{PREFIX}/management/rebalance").json() == {"tasks": 0}
    assert [row[1:] for row in audit(sample) if row[0] == "local"] == [
        ("queue.pause", None),
        ("queue.resume", None),
        ("devices.drain", "d1"),
        ("devices.resume", "d1"),
        ("accounts.park", "appsflyer/u"),
        ("accounts.resume", "appsflyer/u"),
        ("management.cleanup", None),
        ("management.rebalance", None),
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/tasks?limit=5000", "limit: Input should be less than or equal to 1000 (got '5000')"),
        ("/tasks?status=lost", "status: Input should be 'pending', 'assigned'"),
        (f"/tasks?username={'x' * 191}", "username: String should have at most 190 characters"),
        ("/tasks?username=%00", "username: String should match pattern"),
        ("/tasks/0", "task_id: Input should be greater than or equal to 1 (got '0')"),
        ("/apps?after=rubbish", "after must be the `next` of the page before"),
        ("/data/rows?after=WyJhIl0", "after must be the `next` of the page before"),
        ("/data/rows?start_date=2026-02-01&end_date=2026-01-01", "start_date must not be after end_date"),
        ("/data/coverage?end_date=2999-01-01", "end_date must not be after today"),
        ("/stats/performance/d1?hours=169", "hours: Input should be less than or equal to 168"),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_wrong_value_is_named_with_what_is_allowed(client: TestClient, path: str, said: str) -> None:
    answer = client.get(PREFIX + path)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")
    assert answer.json()["detail"].startswith(said), answer.text


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_every_error_has_one_shape(client: TestClient) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/tasks", 405), ("GET", "/tasks/77", 404)):
        answer = client.request(method, PREFIX + path)
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "detail"}
    broken = client.post(f"{PREFIX}/tasks", content=b"{", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["detail"][:19]) == (422, "the body is no JSON")
    large = client.post(f"{PREFIX}/tasks", content=b" " * 5_000_000, headers={"Content-Type": "application/json"})
    assert (large.status_code, set(large.json())) == (413, {"error", "detail"})
    chunks = client.post(
        f"{PREFIX}/tasks", content=iter([b" " * 1_000_000] * 5), headers={"Content-Type": "application/json"}
    )
    assert (chunks.status_code, set(chunks.json())) == (413, {"error", "detail"})
    many = client.post(f"{PREFIX}/tasks", json=[{"task_type": "noop"}] * 5001)
    assert (many.status_code, "at most 5000" in many.json()["detail"]) == (422, True)
    wrong = client.post(f"{PREFIX}/tasks", json=[{"task_type": "noop"}, {"task_type": "noop", "priority": "high"}])
    assert wrong.json()["detail"] == "task 1: priority must be a whole number from -1000 to 1000 (got 'high')"


DAY = "must be a date like 2026-01-31"


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ('{"task_type": "noop", "priority": 1, "priority": 2}', "the body is no JSON: key 'priority' is given twice"),
        ('{"task_type": "noop", "task_data": {"n": NaN}}', "the body is no JSON: NaN is no number that JSON allows"),
        ('{"task_type": "noop", "start_date": 1767225600}', f"start_date {DAY} (got 1767225600)"),
        ('{"task_type": "noop", "end_date": "2026-01-31T00:00:00Z"}', f"end_date {DAY} (got '2026-01-31T00:00:00Z')"),
        ('{"task_type": "noop", "run_at": 1767225600000}', "run_at must be a moment like"),
        ('{"task_type": "noop", "priority": true}', "priority must be a whole number"),
        ('{"task_type": "noop", "colour": 1}', "unknown key 'colour' in a task: allowed are app_id"),
        ('{"username": "u"}', "a task needs the key 'task_type'"),
        (
            '{"task_type": "noop", "task_data": ' + '{"a":' * 32 + "1" + "}" * 33,
            "task_data must be nested in at most 31",
        ),
        ("[" * 65 + "]" * 65, "the body is no JSON: nested too deeply: at most 64 levels are read"),
        ("{" + ",".join(f'"{n}":1' for n in range(10_001)) + "}", "the body is no JSON: an object has 10001 keys"),
        ("[]", "one request adds at least one task"),
        ("7", "a task must be a JSON object (got int)"),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_task_is_read_as_a_line_of_a_file(client: TestClient, tmp_path: Path, task: str, said: str) -> None:
    """Two parsers stood behind one contract: seconds were taken for a day, a key might be given twice."""
    answer = client.post(f"{PREFIX}/tasks", content=task, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")
    detail = answer.json()["detail"]
    assert detail.startswith(said)
    if task != "[]":  # which is no task
        file = tmp_path / "tasks.jsonl"
        file.write_text(task)
        with pytest.raises(UsageError) as refused:
            list(read_task_lines(str(file)))
        same = detail.removeprefix("the body is no JSON: ")
        assert same in str(refused.value)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_body_without_its_type_is_told_what_it_lacks(client: TestClient) -> None:
    answer = client.post(f"{PREFIX}/tasks", content=b'{"task_type": "noop"}')
    assert (answer.status_code, "Content-Type: application/json" in answer.json()["detail"]) == (422, True)
    twice, kind = '{"reason": "a", "reason": "b"}', {"Content-Type": "application/json"}
    paused = client.post(f"{PREFIX}/management/pause", content=twice, headers=kind)
    assert (paused.status_code, "'reason' is given twice" in paused.json()["detail"]) == (422, True)


def test_task_data_is_stored_and_told_as_deep_as_every_database_can(client: TestClient) -> None:
    """MariaDB takes what is deeper than 31 levels for no JSON: such a task was a failure of ours."""
    deep: Any = 1.5
    for _ in range(31):
        deep = {"a": deep}
    answer = client.post(f"{PREFIX}/tasks", json={"task_type": "noop", "task_data": deep})
    assert get(client, f"/tasks/{answer.json()['ids'][0]}")["task_data"] == deep
    answer = client.post(f"{PREFIX}/tasks", json={"task_type": "noop", "task_data": {"a": deep}})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", ["data/rows", "data/coverage", "data/gaps", "budgets", "apps"])
def test_a_place_in_a_list_that_no_page_gave_is_told_as_such(client: TestClient, path: str) -> None:
    """Nested brackets in `after` brought the reader of JSON to its end, and 9 MB into the log."""
    for text in ("[" * 2900, '{"a":' * 500, "null", '["a", NaN]', "1" * 2900):
        after = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        assert client.get(f"{PREFIX}/{path}", params={"after": after}).status_code == 422, text[:9]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_body_of_unknown_keys_costs_no_error_for_each(client: TestClient) -> None:
    body = "{" + ",".join(f'"{n:x}":{n}' for n in range(280_000)) + "}"
    for path in ("management/pause", "tasks/cancel", "tasks"):
        answer = client.post(f"{PREFIX}/{path}", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, "280000 keys: at most 10000 are read" in answer.json()["detail"]) == (422, True)
        assert answer.elapsed.total_seconds() < 2


@pytest.mark.parametrize(
    ("model", "table", "left_out"),
    [
        (models.WholeTask, schema.crawl_task, set()),
        (models.WholeRun, schema.task_assignment, set()),
        (models.Event, schema.task_event, set()),
        (models.AuditRow, schema.audit, set()),
        (data_models.App, schema.user_app, {"id"}),
        (data_models.Row, schema.app_data, {"feed_id", "row_hash"}),
        (models.LogLine, schema.task_log, {"id", "number", "logged_at"}),
    ],
)
def test_what_is_described_has_the_columns_of_its_table(model: Any, table: sa.Table, left_out: set[str]) -> None:
    described = set(TypeAdapter(model).json_schema()["properties"])
    assert {column.name for column in table.columns} - left_out <= described
