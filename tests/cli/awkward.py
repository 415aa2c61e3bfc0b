"""A database full of what screens find hard: long names, wide characters, emoji, long errors, every state."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.model import feed, rescue
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.api_token import ApiTokenDAO, Role
from crawlfleet.model.crawl_task import CrawlTaskDAO
from crawlfleet.model.device import DeviceDAO
from crawlfleet.model.device_heartbeat import Beat, DeviceHeartbeatDAO
from crawlfleet.model.feed import FeedKey
from crawlfleet.model.task_spec import DEFAULT_REPORT, TaskSpec
from crawlfleet.planning.tariff import task_defaults
from crawlfleet.settings.definitions import Settings
from tests.fleets import Device, ending, fresh
from tests.stored_figures import store

LONG_ACCOUNT = "agency-of-the-northern-regions@subsidiary.example.com"
ACCOUNTS = ("公司广告账户二零二六", LONG_ACCOUNT, "u", "emoji-👩-🇨🇳-账户")
APPS = ("id1234567890", "com.example.a.very.long.package.name.of.an.app", "com.应用程序.出海", "app-😀")
LONG_ERROR = (
    "the vendor answered 403: 此账户没有访问该报告的权限，请联系管理员开通后重试；"
    "app com.example.a.very.long.package.name.of.an.app may not be read by this token since 2026-01-01, "
    "see https://support.example.com/articles/207034486-how-to-ask-for-an-access-token-of-an-account"
)
DEVICES = ("edge-01", "cn-shanghai-pudong-rack-17-slot-03-of-the-second-hall", "d3", "d4", "d5", "d6")
FIRST = date(2026, 1, 1)
FIRST_RUN, FAR = datetime(2026, 1, 9, 8, tzinfo=UTC), datetime(2031, 1, 9, 8, tzinfo=UTC)
LAST_RUN = FIRST_RUN + timedelta(seconds=61)
FETCHES = ((datetime(2026, 1, 9, tzinfo=UTC), Decimal(1)), (datetime(2026, 6, 1, tzinfo=UTC), Decimal(2)))
PERSON = "somebody@a-host-with-a-long-name.example.com"
TYPES = ("app_data", "noop", "a_type_of_our_own_that_has_a_long_name")
BEAT = Beat(12.5, 40.0, 50.0, "good", 1, 0.75, 2, 0.0, {})
ENDINGS: tuple[tuple[str, dict[str, object]], ...] = (
    ("ok", {"summary": json.dumps({"rows": 12, "说明": "完成" * 50})}),
    ("permanent", {"message": LONG_ERROR}),
    ("permanent", {"message": "no"}),
    ("transient", {"message": LONG_ERROR}),
    ("quota", {"message": LONG_ERROR, "retry_after": 600.0}),
)


def filled(path: Path) -> None:
    """Make such a database."""
    db = fresh(f"sqlite:///{path}")
    for number, name in enumerate(ACCOUNTS):
        proxy = "socks5://proxy-of-a-region.example.com:1080" if number else None
        apps = APPS[1:3] if number == 1 else ()
        AccountDAO(db).add(Account("appsflyer", name, "agency", "A_LONG_NAME_OF_A_VARIABLE", None, apps, proxy=proxy))
        store(db, AppList("appsflyer", name), [App(app, f"应用 👩‍👩‍👧 {app}", "android", "CNY") for app in APPS])
    for fetched, cost in FETCHES:
        for app in APPS[1:]:
            days = ReportRange("appsflyer", LONG_ACCOUNT, app, DEFAULT_REPORT, FIRST, FIRST + timedelta(2))
            rows = [
                Figures(
                    FIRST, "代理商", "googleadwords_int", "春节活动-2026-01-01", "CN", 10**9, 7, 3, 2, 1, cost, cost
                ),
                Figures(FIRST + timedelta(1), media_source="Apple Search Ads", campaign="c" * 60, extra={"说明": "空"}),
            ]
            store(db, days, rows, fetched)
    _work(db)
    for number, role in enumerate(Role):
        ApiTokenDAO(db).add(f"{number}-a-token-of-the-dashboard-in-the-northern-hall@example.com", role, PERSON)
    key = FeedKey("appsflyer", LONG_ACCOUNT, APPS[1], DEFAULT_REPORT)
    db.write(lambda connection: feed.deny(connection, key, LONG_ERROR))
    AccountDAO(db).park("appsflyer", "u", LONG_ERROR, "somebody@example.com")
    db.close()


def _work(db: Database) -> None:
    """Devices of every kind, and tasks in every state."""
    defaults = task_defaults(Settings())
    devices = []
    for name in DEVICES:
        device = Device(db, name, types=TYPES, defaults=defaults, version=f"1.0.{len(name)}", labels=("eu", "北京"))
        DeviceHeartbeatDAO(db).beat(name, device.register(), BEAT)
        devices.append(device)
    DeviceDAO(db).set_offline(DEVICES[-1], devices[-1].epoch)
    DeviceDAO(db).set_draining(DEVICES[1], True)
    tasks = CrawlTaskDAO(db)
    month = {"start_date": FIRST, "end_date": FIRST + timedelta(30)}
    specs = [
        TaskSpec("app_data", source="appsflyer", username=name, app_id=app, report=DEFAULT_REPORT, **month)
        for name in ACCOUNTS[:3]
        for app in APPS
    ]
    data = {"说明": "很长的文字" * 20, "since": "2026-01-01"}
    specs += [TaskSpec(TYPES[2], username="x", task_data=data) for _ in range(3)]
    specs += [TaskSpec("noop", label="eu", unique_key="每日-2026-01-01"), TaskSpec("noop", run_at=FAR)]
    ids = tasks.add(specs, defaults)
    first = devices[0]
    claimed = first.claim(slots=6)
    first.start(claimed)
    for claim, (kind, more) in zip(claimed, ENDINGS, strict=False):
        with db.read() as reader:
            calls = {"calls": [reader.now]}
        first.end(ending(claim, kind, started_at=FIRST_RUN, completed_at=LAST_RUN, **calls, **more))
    devices[2].claim(slots=2)
    rescue.cancel(db, ids[-3:-2])
    rescue.revive(db, [claimed[1].task.id], PERSON)
