"""The HTTP API of a node in this process, asked over real connections."""

from __future__ import annotations

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crawlfleet import TaskSpec
from crawlfleet.api import app, refusals
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable, LeaseLost
from crawlfleet.core.seldom import Seldom
from crawlfleet.insights import devices, overview, tasks
from crawlfleet.model.api_token import ApiTokenDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.services.alarm import Away
from tests import fleets
from tests.api.conftest import Serve, Served
from tests.servers import Server
from tests.waiting import wait_until

TOKEN = "t0ken-of-the-tests-with-32-characters"


def metrics_of(served: Served) -> dict[str, float]:
    """Every sample by its name, with the values of its labels when it has some."""
    text = served.client.get("/metrics").raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join([each.name, *each.labels.values()]): each.value for each in samples}


def work_off(served: Served, *task_types: str) -> None:
    served.fleet.add_tasks(TaskSpec(each) for each in task_types)
    wait_until(
        lambda: sum(served.node.scheduler.stats.counters[move] for move in ("finish", "fail")) == len(task_types)
    )


def test_a_running_node_is_alive_and_ready_and_documents_itself(serve: Serve) -> None:
    client = serve().client
    assert sys.getswitchinterval() <= 0.001  # so that many readers do not hold up a beat
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/healthz", "/readyz", "/metrics", "/api/distribution/system/overview"} <= set(paths)
    assert client.get("/docs").status_code == 200
    assert client.get("/api/distribution/nothing").status_code == 404


def test_a_device_registers_the_port_on_which_it_listens(serve: Serve) -> None:
    served = serve()
    (device,) = DeviceDAO(served.node.db).find()
    assert served.server.url == f"http://127.0.0.1:{device['port']}"


def test_the_fleet_in_numbers_follows_its_tasks(serve: Serve) -> None:
    served = serve()
    empty = served.client.get("/api/distribution/tasks/stats").json()
    assert (empty["total"], empty["success_rate"]) == (0, None)
    work_off(served, *["api_test.ok"] * 3, "api_test.never")

    def counted(path: str) -> Any:
        """An answer that counted before the tasks had ended is kept for a moment."""
        answer = served.client.get(f"/api/distribution/{path}").json()
        return answer if answer.get("task_stats", answer)["total"] == 4 else None

    stats = wait_until(lambda: counted("tasks/stats"))
    assert stats.pop("avg_execution_time") >= 0
    assert stats == {**served.fleet.tasks.stats(), "success_rate": 0.75}
    overview = wait_until(lambda: counted("system/overview"))
    assert overview["task_stats"].pop("avg_execution_time") >= 0
    assert overview == {
        "task_stats": stats,
        "device_stats": {"total": 1, "online": 1, "offline": 0},
        "system_overview": {"verdict": "1 task failed in the last 24 hours", "blocked": []},
    }


def test_metrics_count_what_became_of_the_tasks(serve: Serve) -> None:
    served = serve(concurrent_tasks=3)
    before = metrics_of(served)
    assert before["crawlfleet_device_online"] == 1
    assert before["crawlfleet_slots"] == 3
    assert before["crawlfleet_moves_total finish"] == 0
    work_off(served, *["api_test.ok"] * 3, "api_test.never")
    after = metrics_of(served)
    assert all(name.startswith("crawlfleet_") for name in after)
    moves = {name.partition(" ")[2]: value for name, value in after.items() if name.startswith("crawlfleet_moves")}
    assert moves == {"finish": 3, "fail": 1, "retry": 0, "release": 0, "expire": 0, "bury": 0}
    assert after["crawlfleet_errors_total permanent"] == 1
    assert after["crawlfleet_stale_results_rejected_total"] == 0
    assert after["crawlfleet_bodies_running"] == 0
    assert after["crawlfleet_heartbeat_delay_seconds"] >= 0
    assert after["crawlfleet_round_trip_seconds"] > 0
    assert not [name for name in after if "process" in name or "system" in name]


def test_a_monitoring_node_also_shows_what_it_and_its_machine_use(serve: Serve) -> None:
    shown = metrics_of(serve(enable_monitoring=True))
    assert shown["crawlfleet_process_memory_bytes"] > 1_000_000
    assert shown["crawlfleet_process_threads"] >= 1
    assert 0 < shown["crawlfleet_system_memory_percent"] <= 100
    names = ("process_cpu_percent", "system_cpu_percent", "system_disk_percent")
    assert all(f"crawlfleet_{name}" in shown for name in names)


def test_a_device_that_left_the_fleet_is_not_shown_as_online(serve: Serve) -> None:
    served = serve()
    served.node.end()
    assert served.node.wait() == 0
    assert metrics_of(served)["crawlfleet_device_online"] == 0


def test_a_stopping_node_is_alive_but_not_ready(serve: Serve) -> None:
    served = serve()
    served.node.end()
    answer = served.client.get("/readyz")
    assert (answer.status_code, answer.json()["detail"]) == (503, "the node is stopping")
    assert served.client.get("/healthz").status_code == 200


def test_a_lease_that_another_registration_took_is_not_held(backend: object) -> None:
    db = fleets.fresh(backend.url)  # type: ignore[attr-defined]
    device = fleets.Device(db)
    former = device.register()
    devices.check_lease(db, "d1", former)
    devices.check_lease(db, "d1", device.register())
    with pytest.raises(LeaseLost, match="no longer this process"):
        devices.check_lease(db, "d1", former)
    db.close()


def test_readyz_tells_the_reason_of_a_lost_lease(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve()
    check = devices.check_lease
    monkeypatch.setattr(devices, "check_lease", lambda db, device_id, epoch: check(db, device_id, epoch + 1))
    answer = served.client.get("/readyz")
    assert answer.status_code == 503
    assert "device api-01 is no longer this process" in answer.json()["detail"]


def test_readyz_tells_that_the_work_does_not_reach_the_database(serve: Serve) -> None:
    """Beats and questions went well, and nothing that the node did was ever stored: /readyz said 200."""
    served = serve()
    alarm, clock = served.node.scheduler.alarm, served.node.db.clock
    alarm.away = Away(clock.monotonic() - 40, "Lost connection")
    assert "no turn has reached the database for 40 s: Lost connection" in str(served.node.scheduler.obstacle)
    assert "no turn has reached" in served.client.get("/readyz").json()["detail"]


@pytest.mark.slow
def test_readyz_follows_the_database_down_and_up_again(serve: Serve, private_server: Server) -> None:
    private_server.create_database("ready")
    served = serve(database_url=private_server.url("ready"), heartbeat_interval=0.5)
    assert served.client.get("/readyz").status_code == 200
    private_server.stop()
    down = served.client.get("/readyz")
    assert down.status_code == 503
    assert "the database cannot be used" in down.json()["detail"]
    assert served.client.get("/api/distribution/tasks/stats").status_code == 503
    assert served.client.get("/metrics").status_code == 200
    private_server.start()
    wait_until(lambda: served.client.get("/readyz").status_code == 200, what="readiness")


def test_many_probes_share_one_look_at_a_database_that_hangs(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve()
    looks: list[int] = []
    answers = threading.Event()

    def hang(_db: Database, _device_id: str, epoch: int) -> None:
        looks.append(epoch)
        answers.wait(20)

    monkeypatch.setattr(devices, "check_lease", hang)
    monkeypatch.setattr(app, "READY_SECONDS", 0.2)
    with ThreadPoolExecutor(20) as clients:
        probes = [clients.submit(served.client.get, "/readyz") for _ in range(20)]
        assert {(each.result().status_code, each.result().json()["detail"]) for each in probes} == {
            (503, "the database did not answer within 0.2 s")
        }
    assert len(looks) == 1
    assert served.client.get("/api/distribution/tasks/stats").status_code == 200
    answers.set()
    wait_until(lambda: served.client.get("/readyz").status_code == 200, what="readiness")


def test_a_failed_question_is_an_answer_not_a_broken_connection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()

    def away(_db: Database) -> None:
        raise DatabaseUnreachable("cannot use the database someone@db.internal/x")

    def broken(_db: Database) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tasks, "task_stats", away)
    monkeypatch.setattr(overview, "overview", broken)
    answer = served.client.get("/api/distribution/tasks/stats")
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert answer.json()["detail"] == refusals.AWAY  # where it is and who uses it is nobody's business
    monkeypatch.setattr(refusals, "_unexpected", Seldom())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            answer = served.client.get("/api/distribution/system/overview")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (answer.status_code, list(answer.json())) == (500, ["error", "detail"])
    (record,) = caplog.records
    assert record.getMessage() == "request failed: method=GET path='/api/distribution/system/overview' count=1"


def test_a_token_is_demanded_for_everything_but_the_liveness_probe(serve: Serve) -> None:
    served = serve(api_token=TOKEN, host="127.0.0.2")
    client = served.client
    assert served.server.url.startswith("http://127.0.0.2:")
    assert client.get("/healthz").status_code == 200
    paths = ("/readyz", "/metrics", "/docs", "/openapi.json", "/api/distribution/tasks/stats", "/nothing", "/healthz/")
    for path in paths:
        refused = client.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
        assert "Authorization: Bearer TOKEN" in refused.json()["detail"]
    known = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/readyz", headers=known).status_code == 200
    assert client.get("/metrics", headers={"Authorization": f"bearer  {TOKEN}"}).status_code == 200
    assert "HTTPBearer" in client.get("/openapi.json", headers=known).json()["components"]["securitySchemes"]
    assert ApiTokenDAO(served.fleet.db).known().demanded, "a later start without the setting is not open to everybody"


@pytest.mark.parametrize(
    "values",
    [
        *(
            [value]
            for value in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer ÿ")
        ),
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
    ],
)
def test_a_wrong_token_is_refused(serve: Serve, values: list[str]) -> None:
    headers = [(b"Authorization", value.encode("latin-1")) for value in values]
    assert serve(api_token=TOKEN).client.get("/metrics", headers=headers).status_code == 401
