"""A node that lives for a week, in seconds: nobody sleeps, the clock that was handed in moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from crawlfleet.model.budget import DAY_SECONDS, Charge, Cost
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.task_insert import TaskDefaults
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.settings.definitions import Settings
from tests.services.conftest import Clock, Log, MakePump
from tests.services.pump import Pump

HOUR = 3600.0
CALLS_A_DAY = 2
SETTINGS = Settings(heartbeat_interval=HOUR, offline_timeout=4 * HOUR, heartbeat_retention_days=2)


def live_an_hour(pump: Pump, clock: Clock) -> None:
    """One beat, one look at the fleet, and turns until there is nothing more to do."""
    clock.let_pass(HOUR)
    assert pump.manager.heartbeat.run_once()
    pump.manager.monitoring.run_once()
    pump.until(lambda: not pump.scheduler.runs.table.held and pump.scheduler.next_wait() > 1, "an hour's work to end")


def count(pump: Pump, table: str) -> int:
    with pump.db.read() as reader:
        return int(reader.execute(sa.text(f"SELECT COUNT(*) FROM {table}")).scalar_one())


def test_a_node_lives_for_a_week(url: str, make_pump: MakePump, clock: Clock, log: Log) -> None:
    here = datetime.now(UTC)
    noon = here.replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=1)
    clock.let_pass((noon - here).total_seconds())
    pump = make_pump(url, settings=SETTINGS, schedule_interval=2 * HOUR)
    make_pump(url, settings=SETTINGS, device_id="silent")
    cost = Cost((Charge("vendor", "account", calls=CALLS_A_DAY, seconds=DAY_SECONDS, username="u"),), calls=1)
    spec = TaskSpec("calling", source="vendor", username="u")
    paid = CrawlTaskDAO(pump.db).add([spec] * 100, TaskDefaults(cost_of=lambda _: cost))
    [late] = pump.add("quick", run_at=noon + timedelta(days=5, minutes=30))
    done = pump.scheduler.stats.counters

    for hour in range(1, 7 * 24 + 1):
        live_an_hour(pump, clock)
        midnights = (12 + hour - 1) // 24  # that are longer ago than the vendor's may be late
        is_late_done = hour > 5 * 24
        assert done["finish"] == CALLS_A_DAY * (1 + midnights) + is_late_done, f"after {hour} hours"
        states = {device["device_id"]: device["status"] for device in DeviceDAO(pump.db).find()}
        assert states == {"d1": "online", "silent": "online" if hour < 4 else "offline"}
        assert count(pump, "cl_device_heartbeat") <= 2 * 24 + 2

    assert pump.status(late) == "completed"
    assert {pump.status(each) for each in paid} == {"completed", "pending"}
    assert set(done) == {"finish"}
    assert pump.lease.epoch == 1
    assert pump.fatal == []
    assert log.count("lease lost") == log.count("lease was lost") == log.count("ERROR") == 0
