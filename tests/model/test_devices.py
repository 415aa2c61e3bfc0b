"""Registration, leases, and what happens to the runs of a device that is gone."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta

import psutil
import pytest

from crawlfleet.core.db import Database
from crawlfleet.core.errors import DeviceRefused, LeaseLost
from crawlfleet.core.process import is_gone, own_identity
from crawlfleet.model import rescue
from crawlfleet.model.budget import Charge, Cost
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.model.task_assignment import TaskAssignmentDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from tests.fleets import Device, add, ending, runs, task

BEAT = Beat(1.0, 2.0, 3.0, "good", 0, 0.5, 0, 0.001, {"finish": 1})


def ended_process() -> dict[str, object]:
    """The identity of a process of this host that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return {"pid": child.pid}


def living_process() -> dict[str, object]:
    """The identity of another process of this host: the one that started the tests."""
    parent = psutil.Process().parent()
    assert parent is not None
    return {"pid": parent.pid, "started": parent.create_time()}


def test_a_process_that_lost_its_lease_registers_again(db: Database) -> None:
    device = Device(db)
    first = device.register(takeover=False)
    with pytest.raises(DeviceRefused):  # a second node of one process is no renewal
        device.register(takeover=False)
    assert device.register(takeover=False, again=True) > first


def test_a_crashed_node_of_this_host_gets_its_id_back_at_once(db: Database) -> None:
    first = Device(db, process=ended_process())
    first.register(takeover=False)
    [task_id] = add(db)
    first.claim()
    again = Device(db)
    assert again.register(takeover=False) > first.epoch
    assert task(db, task_id)["status"] == "pending"
    assert runs(db, task_id)[0]["status"] == "expired"


def test_a_living_process_keeps_its_id_unless_it_is_taken_over(db: Database) -> None:
    Device(db, process=living_process()).register(takeover=False)
    with pytest.raises(DeviceRefused, match=r"is alive: last seen .*pid .*--takeover"):
        Device(db).register(takeover=False)
    Device(db).register(takeover=True)


def test_another_host_gets_the_id_only_after_the_offline_timeout(db: Database) -> None:
    Device(db, process={"machine": "elsewhere"}).register(takeover=False)
    with pytest.raises(DeviceRefused, match="wait 300 s"):
        Device(db).register(takeover=False)
    with db.read() as connection:
        later = connection.now + timedelta(seconds=301)
    Device(db).register(takeover=False, now=later)


def test_a_reused_pid_is_not_the_former_process() -> None:
    own = own_identity().as_dict()
    assert is_gone(own) is False
    assert is_gone({**own, "started": own["started"] - 60}) is True
    assert is_gone({**own, "boot": "earlier"}) is True
    assert is_gone({**own, "namespace": "container"}) is None


def test_nodes_that_register_one_new_id_at_once_do_not_both_get_it(db: Database) -> None:
    results: list[str] = []
    barrier = threading.Barrier(4)

    def register(number: int) -> None:
        barrier.wait()
        try:
            Device(db, process={"machine": f"host{number}"}).register(takeover=False)
            results.append("registered")
        except DeviceRefused:
            results.append("refused")

    threads = [threading.Thread(target=register, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * 3 + ["registered"]


def test_a_beat_renews_the_lease_of_its_epoch_only(db: Database) -> None:
    device = Device(db)
    epoch = device.register()
    beats = DeviceHeartbeatDAO(db)
    beats.beat("d1", epoch, BEAT)
    latest = beats.latest("d1")
    assert latest is not None
    assert (latest["cpu_usage"], latest["network_status"], latest["status_info"]) == (1.0, "good", {"finish": 1})
    device.register()
    with pytest.raises(LeaseLost):
        beats.beat("d1", epoch, BEAT)


def test_a_silent_device_goes_offline_and_its_tasks_go_elsewhere(db: Database) -> None:
    silent, other = Device(db), Device(db, "d2")
    silent.register()
    other.register()
    [task_id] = add(db)
    [claim] = silent.claim()
    with db.read() as connection:
        now = connection.now
    DeviceHeartbeatDAO(db).beat("d2", other.epoch, BEAT, now + timedelta(seconds=299))
    assert DeviceDAO(db).mark_silent_offline(300, now + timedelta(seconds=299)) == []
    assert DeviceDAO(db).mark_silent_offline(300, now + timedelta(seconds=301)) == [("d1", 1)]
    [elsewhere] = other.claim()
    assert elsewhere.task.id == task_id
    assert silent.end(ending(claim))[0].verdict == "stale"
    assert other.end(ending(elsewhere))[0].verdict == "written"
    with pytest.raises(LeaseLost):
        DeviceHeartbeatDAO(db).beat("d1", silent.epoch, BEAT)


def test_claims_whose_reply_was_lost_go_back_and_cancelled_runs_are_told(db: Database) -> None:
    device = Device(db)
    device.register()
    stray, held, cancelled = add(db, 3)
    claims = device.claim()
    rescue.cancel(db, [cancelled])
    keys = [claim.assignment_id for claim in claims if claim.task.id != stray]
    released, lost = device.reconcile(keys)
    assert released == 1
    assert lost == {claim.assignment_id for claim in claims if claim.task.id == cancelled}
    assert (task(db, stray)["status"], task(db, stray)["retry"]) == ("pending", 0)
    assert task(db, held)["status"] == "assigned"


def test_a_stopped_device_is_offline_and_leaves_nothing_behind(db: Database) -> None:
    device = Device(db)
    device.register()
    [task_id] = add(db)
    device.claim()
    DeviceDAO(db).set_offline("d1", device.epoch)
    assert DeviceDAO(db).find()[0]["status"] == "offline"
    assert task(db, task_id)["status"] == "pending"
    with pytest.raises(LeaseLost):
        device.claim()


def test_only_an_offline_device_can_be_removed(db: Database) -> None:
    device = Device(db)
    device.register()
    with pytest.raises(DeviceRefused, match="online"):
        DeviceDAO(db).remove("d1")
    DeviceDAO(db).set_offline("d1", device.epoch)
    assert DeviceDAO(db).remove("d1") == 0
    assert DeviceDAO(db).remove("d1") is None
    epoch = device.epoch
    assert device.register() > epoch  # never reused: assignment ids stay unique


def test_a_device_that_is_removed_while_online_is_fenced_and_its_calls_count_until_its_lease_ends(db: Database) -> None:
    defaults = TaskDefaults(cost_of=lambda _spec: Cost((Charge("vendor", "hour", 1, 3600.0, "u"),), 1))
    removed, other = Device(db, defaults=defaults), Device(db, "d2", defaults=defaults)
    removed.register()
    other.register()
    CrawlTaskDAO(db).add([TaskSpec("noop", source="vendor", username="u")], defaults)
    [claim] = removed.claim()
    with db.read() as connection:
        now = connection.now
    DeviceHeartbeatDAO(db).beat("d1", removed.epoch, BEAT, now)
    assert DeviceDAO(db).remove("d1", offline_timeout=300) == 1
    with pytest.raises(LeaseLost):
        removed.claim()
    assert other.claim(now=now + timedelta(seconds=3890)) == []
    assert len(other.claim(now=now + timedelta(seconds=4200))) == 1
    assert removed.end(ending(claim))[0].verdict == "stale"


def test_tasks_of_a_type_that_nobody_knows_fail_with_the_reason(db: Database) -> None:
    Device(db, types=("noop",)).register()
    known, unknown = add(db)[0], add(db, task_type="mystery")[0]
    assert rescue.reject_unknown_types(db, DeviceDAO(db).known_types(300)) == {"mystery": 1}
    assert task(db, known)["status"] == "pending"
    found = task(db, unknown)
    assert found["status"] == "failed"
    assert "missing executor" in str(found["error_message"])


def test_expired_rows_are_deleted_and_live_ones_stay(db: Database) -> None:
    device = Device(db)
    device.register()
    done, live = add(db, 2)
    first, _ = device.claim()
    device.end(ending(first))
    DeviceHeartbeatDAO(db).beat("d1", device.epoch, BEAT)
    with db.read() as connection:
        later = connection.now + timedelta(days=31)
    assert TaskAssignmentDAO(db).sweep(30, later) == 1
    assert DeviceHeartbeatDAO(db).sweep(7, later) == 1
    assert runs(db, done) == []
    assert len(runs(db, live)) == 1
