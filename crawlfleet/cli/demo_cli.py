"""`demo`: the whole way from a vendor's API to rows in a database, on this machine, in seconds."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawlfleet.cli.demo_node import DemoNode, config_of, start_commands
from crawlfleet.cli.output import print_table, say
from crawlfleet.cli.program import program_words
from crawlfleet.core.account import Account
from crawlfleet.core.errors import CrawlfleetError, UsageError
from crawlfleet.core.private_files import write_private
from crawlfleet.core.wakeup import ending_signals
from crawlfleet.model.lifecycle import TaskStatus

if TYPE_CHECKING:
    from crawlfleet.sandbox.server import Sandbox
    from crawlfleet.services.fleet import Fleet

FOLDER = Path("demo")
SOURCE = "appsflyer"
ACCOUNTS = {"demo_agency": "agency", "demo_advertiser": "advertiser"}
DAYS = 7  # the last ones, yesterday included
MINUTE_SECONDS = 1.0  # of the simulated vendor, so that nobody waits for its quotas
LONGEST_SECONDS = 50.0
LOOK_SECONDS = 0.5
SHOWN_STATES = (TaskStatus.COMPLETED, TaskStatus.FAILED)


@dataclass(frozen=True)
class DemoResult:
    """What the demo shows at its end."""

    apps: dict[str, int]
    rows: int
    days: set[date]
    tasks: dict[str, int]
    calls: dict[str, Any]
    seconds: float


def run_demo(args: argparse.Namespace) -> int:
    """Run the demo; exit code 1 when a task failed or the node did not end well."""
    if args.database is not None or args.config is not None:
        raise UsageError(
            f"the demo makes its own database and config file in {FOLDER}/: leave out --database and --config"
        )
    from crawlfleet.sandbox.server import Sandbox
    from crawlfleet.services.fleet import connect

    began = time.monotonic()
    file = _fresh_file()
    say(f"演示开始 / demo: two accounts of a simulated vendor, their apps and {DAYS} days of figures, into {file}")
    with signals_interrupt(), Sandbox(minute_seconds=MINUTE_SECONDS) as sandbox:
        fleet = connect(f"sqlite:///{file}")
        try:
            _queue_work(fleet)
            with DemoNode(FOLDER, file, sandbox.base_url, MINUTE_SECONDS) as node:
                code = _wait(node, fleet)
            result = _result(fleet, sandbox, time.monotonic() - began)
        except KeyboardInterrupt:
            say("演示中断 / the demo was interrupted; its node has stopped")
            raise
        finally:
            fleet.close()
    good = code == 0 and result.tasks[TaskStatus.COMPLETED] == result.tasks["total"] and result.rows > 0
    _print_summary(result, file, good)
    return 0 if good else 1


def _fresh_file() -> Path:
    file = FOLDER / "crawlfleet.db"
    try:
        if FOLDER.is_symlink():
            raise UsageError(
                f"{FOLDER.absolute()} is a link: the demo deletes only what it made itself; remove the link"
            )
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        for ending in ("", "-wal", "-shm"):
            file.with_name(file.name + ending).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{FOLDER.absolute()} cannot be written: {error.strerror}; start the demo elsewhere") from None
    return file


def _queue_work(fleet: Fleet) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(1)
    for username, kind in ACCOUNTS.items():
        token_file = (FOLDER / f"{username}.token").absolute()
        write_private(token_file, f"sandbox-{username}\n", replace=True)
        fleet.accounts.add(Account(SOURCE, username, kind, token_file=str(token_file)))
        start = yesterday - timedelta(DAYS - 1)
        fleet.add_task("user_apps", username=username, start_date=start, end_date=yesterday)


def _wait(node: DemoNode, fleet: Fleet) -> int:
    """Show how far the node is until it ends, and return its exit code."""
    deadline = time.monotonic() + LONGEST_SECONDS
    shown: tuple[int, int] | None = None
    while (code := node.wait(LOOK_SECONDS)) is None:
        counts = fleet.tasks.stats()
        done = (counts[TaskStatus.COMPLETED] + counts[TaskStatus.FAILED], counts["total"])
        if done != shown:
            shown = done
            say(f"进度 / progress: {done[0]} of {done[1]} tasks")
        if time.monotonic() > deadline:
            raise CrawlfleetError(f"the demo was not done after {LONGEST_SECONDS:g} s; its log above may say why")
    return code


def _result(fleet: Fleet, sandbox: Sandbox, seconds: float) -> DemoResult:
    from crawlfleet.insights.feeds import FeedFilter
    from crawlfleet.insights.stored_rows import apps, data_rows

    seen = {name: len(apps(fleet.db, FeedFilter(SOURCE, name))) for name in ACCOUNTS}
    rows, days = 0, set()
    for row in data_rows(fleet.db, FeedFilter()):
        rows += 1
        days.add(row["date"])
    return DemoResult(seen, rows, days, fleet.tasks.stats(), sandbox.stats(), seconds)


def _print_summary(result: DemoResult, file: Path, good: bool) -> None:
    days = f"{len(result.days)}" + (f", {min(result.days)} to {max(result.days)}" if result.days else "")
    print()
    print("演示完成 / the demo is done" if good else "演示失败 / the demo failed: the log above says why")
    print_table(
        ("what", "value"),
        [
            ("应用 / apps", ", ".join(f"{name} {count}" for name, count in result.apps.items())),
            ("数据行 / rows of figures", str(result.rows)),
            ("天数 / days", days),
            (
                "任务 / tasks",
                ", ".join(f"{result.tasks[state]} {state}" for state in (*SHOWN_STATES, "total")),
            ),
            ("接口调用 / vendor calls", f"{result.calls['calls']} made, {result.calls['refused']} refused"),
            ("用时 / seconds", f"{result.seconds:.1f}"),
            ("数据库 / database", str(file.absolute())),
        ],
    )
    print("\n试试 / try next:")
    for command in (
        "distribute status",
        "tasks list",
        f"tasks show {result.tasks['total']}",
        "data apps",
        "data rows --username demo_agency --limit 10",
        "data rows --json",
    ):
        print(f"  {program_words()} {command} --config {config_of(FOLDER)}")
    print("\n以此为起点 / to start from, vendor and node again:")
    for command in start_commands(FOLDER, MINUTE_SECONDS):
        print(f"  {command}")


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does, so that the node and the sandbox end with it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ending_signals() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def add_parser(subparsers: Any) -> None:
    """Add `demo`."""
    help_line = "run a small fleet against simulated vendors; writes only to demo/"
    subparsers.add_parser("demo", help=help_line).set_defaults(run=run_demo)
