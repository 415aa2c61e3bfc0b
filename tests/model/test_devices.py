"""Registration, leases, and what happens to the runs of a device that is gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from crawlfleet.core import process
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DeviceRefused, LeaseLost
from crawlfleet.core.process import forget, is_gone, own_identity, start_ticks
from crawlfleet.model import queue_depth, rescue
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
    return {"pid": os.getppid(), "ticks": start_ticks(os.getppid())}


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


def test_two_hosts_of_one_image_do_not_take_the_id_from_each_other(db: Database) -> None:
    """Host name, machine id, boot id and namespace were copied, and the other host's pid is none of this one: the
    second saw a process that had ended, took the id, and was thrown out in turn, 27 times in half a minute."""
    elsewhere = {**ended_process(), "witness": "crawlfleet-" + "0" * 32}
    first = Device(db, process=elsewhere)
    first.register(takeover=False)
    with pytest.raises(DeviceRefused, match="wait 300 s if it is dead"):
        Device(db).register(takeover=False)
    assert DeviceDAO(db).find()[0]["epoch"] == first.epoch


def test_a_fight_for_an_id_ends_with_the_newer_one(db: Database) -> None:
    """A program of 2026-11-30 takes the id from a node of this one that it cannot see: who comes back is refused."""
    newer = Device(db)
    newer.register()
    older_program(db, **ended_process())  # a pid of another host that is none here
    with pytest.raises(DeviceRefused, match="is alive"):
        newer.register(takeover=False, again=True)


@pytest.mark.parametrize("step", [2.0, -2.0, 7200.0])
def test_a_wall_clock_that_is_set_takes_no_id_from_a_living_node(
    db: Database, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """The start of a process was told by the wall clock: after NTP had set it, the living node was thrown out."""
    Device(db, process=living_process()).register(takeover=False)
    told = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: told(self) + step)
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0 + step)
    with pytest.raises(DeviceRefused, match="is alive: last seen"):
        Device(db).register(takeover=False)


def older_program(db: Database, **process: object) -> None:
    """Make the device d1 of the row one that a program of 2026-11-30 registered on this host."""
    own = own_identity().as_dict()
    older = {name: own[name] for name in ("hostname", "machine", "boot", "namespace")}
    found = json.dumps({**older, "started": psutil.Process(own["pid"]).create_time(), **process})
    with db.plain.begin() as connection:
        connection.execute(sa.text("UPDATE cl_device SET process = :process, epoch = epoch + 1"), {"process": found})


def test_rows_of_a_program_of_2026_11_30_are_understood(db: Database) -> None:
    """They tell the start by the wall clock, which may have been set since, and have no witness."""
    Device(db).register()
    older_program(db, pid=os.getppid(), started=psutil.Process(os.getppid()).create_time())
    with pytest.raises(DeviceRefused, match=r"with --takeover$"):
        Device(db).register(takeover=False)
    older_program(db, pid=os.getppid(), started=psutil.Process(os.getppid()).create_time() + 7200)
    with pytest.raises(DeviceRefused, match="if it is dead"):
        Device(db).register(takeover=False)
    older_program(db, **ended_process())
    Device(db).register(takeover=False)


def test_what_proves_that_a_process_is_gone() -> None:
    own = own_identity().as_dict()
    assert is_gone(own) is False
    assert is_gone({**own, "ticks": own["ticks"] - 60}) is True  # its pid is another's by now
    for strange in ({"boot": "earlier"}, {"namespace": "container"}, {"witness": "../../etc/passwd"}, {"witness": ""}):
        assert is_gone({**own, "ticks": own["ticks"] - 60, **strange}) is None
    forget(own)
    assert is_gone({**own, "ticks": own["ticks"] - 60}) is None
    assert own_identity().witness != own["witness"]
    assert is_gone({}) is None


def test_witnesses_of_nodes_that_never_came_back_are_removed_after_a_day() -> None:
    forget(own_identity().as_dict())
    folder = process.SHARED_MEMORY
    gone, new, alive = (folder / f"crawlfleet-{number:032x}" for number in range(1, 4))
    long_ago = time.time() - 2 * process.SWEEP_SECONDS
    for path, ticks in ((gone, 1), (new, 1), (alive, start_ticks(os.getpid()))):
        path.write_text(f"{os.getpid()} {ticks}")
        if path is not new:
            os.utime(path, (long_ago, long_ago))
    own_identity()
    try:
        assert [path.exists() for path in (gone, new, alive)] == [False, True, True]
    finally:
        for path in (gone, new, alive):
            path.unlink(missing_ok=True)


def test_the_start_of_a_process_is_read_past_a_strange_name(tmp_path: Path) -> None:
    """Field 22 of /proc/PID/stat stands behind a name that may look like fields itself."""
    program = tmp_path / "a) Z (b"
    shutil.copyfile("/bin/sleep", program)
    program.chmod(0o700)
    child = subprocess.Popen([str(program), "60"])
    try:
        began = start_ticks(child.pid)
        assert began is not None
        assert began >= (start_ticks(os.getpid()) or 0)
    finally:
        child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert start_ticks(child.pid) is None
    child.wait()
    assert start_ticks(child.pid) is None


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


def test_a_dead_device_is_found_after_the_databases_clock_was_set_back(db: Database) -> None:
    """Its last beat lies days ahead then: it seemed alive until the clock had come so far again."""
    Device(db, process={"machine": "elsewhere"}).register()
    [task_id] = add(db)
    with db.read() as connection:
        now = connection.now - timedelta(days=3)
    with pytest.raises(DeviceRefused, match=r"last seen 0 s ago .* wait 300 s"):
        Device(db).register(takeover=False, now=now)
    assert DeviceDAO(db).mark_silent_offline(300, now + timedelta(seconds=299)) == []
    assert DeviceDAO(db).mark_silent_offline(300, now + timedelta(seconds=301)) == [("d1", 0)]
    assert task(db, task_id)["status"] == "pending"
    other = Device(db, "d2", process={"machine": "elsewhere"})
    other.register()
    assert DeviceDAO(db).mark_silent_offline(300, now) == []  # its beats count from now, too
    assert DeviceDAO(db).mark_silent_offline(300, now + timedelta(seconds=301)) == [("d2", 0)]


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


def test_due_tasks_of_types_that_nobody_knows_are_counted(db: Database) -> None:
    Device(db, types=("noop",)).register()
    add(db)
    add(db, 2, task_type="mystery")
    add(db, 3, task_type="mystery", label="eu")
    with db.read() as reader:
        later = reader.now + timedelta(hours=1)
        found = queue_depth.due_of_unknown_types(reader, DeviceDAO(db).known_types(300))
        assert found == {"mystery": 5}
    add(db, task_type="tomorrow", run_at=later)
    with db.read() as reader:
        assert queue_depth.due_of_unknown_types(reader, {"noop", "mystery"}) == {}
    assert DeviceDAO(db).types_ever_known() == {"noop"}


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


def test_a_clock_of_another_day_removes_no_witness_of_a_process_that_just_died(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose clock was a day ahead took away the proof that its neighbour had been killed a moment ago."""
    monkeypatch.setattr(process, "_folder", lambda: tmp_path)
    killed = tmp_path / f"crawlfleet-{'0' * 32}"
    killed.write_text("999999999 1")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert process._leave_witness.__wrapped__(os.getpid())
    assert killed.exists()
