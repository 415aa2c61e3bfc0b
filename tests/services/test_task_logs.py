"""What bodies write to `context.log` is kept, whatever engine runs them, and never in the way of anything else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.core.logs import hide
from crawlfleet.core.transaction import Transaction
from crawlfleet.executors.contract import TaskContext
from crawlfleet.insights import task_logs
from crawlfleet.insights.task_logs import LogLine, search_logs, task_log
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.task_log import StoredLine, TaskLogDAO
from crawlfleet.model.task_spec import Task
from crawlfleet.services import task_log_writer
from crawlfleet.services.fleet import Fleet
from crawlfleet.services.task_log_writer import TaskLogWriter
from tests.conftest import Backend
from tests.fleets import Device, add, ending, fresh
from tests.servers import Server
from tests.services.conftest import Log, MakePump
from tests.services.pump import ENGINES
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

SECRET = "token-that-nobody-may-see"


def lines_of(db: Database, task_id: int) -> list[LogLine]:
    page = task_log(db, task_id)
    assert page is not None
    return page.lines


def said(db: Database, task_id: int) -> list[tuple[str, str]]:
    """Level and text of each line of a body."""
    return [(line.level, line.message) for line in lines_of(db, task_id) if line.message.startswith(("said", "went"))]


def count(db: Database) -> int:
    with db.read() as connection:
        return int(connection.execute(sa.text("SELECT COUNT(*) FROM cl_task_log")).scalar_one())


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("a", level, "file.py", 1, text, None, None)


def store(logs: TaskLogWriter) -> None:
    """All that waits, at once."""
    while logs._batch or logs._buffer:
        logs._store()


@pytest.fixture
def logs_of(backend: Backend) -> Any:
    db = fresh(backend.url)
    yield lambda lines=1000, size=2000: TaskLogWriter(db, lines, size)
    db.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_lines_of_a_body_are_kept_by_every_engine(backend: Backend, make_pump: MakePump, engine: str, log: Log) -> None:
    pump = make_pump(backend.url, engine=engine)
    name = "async_talking" if engine == "asyncio" else "talking"
    lines = [[20, "one"], [30, "zwei\nüber"], [40, "三 <NUL>\x1b[31m"], [10, "too quiet for the node's log"]]
    [task_id] = pump.add(name, task_data={"lines": lines, "traceback": "boom"})
    pump.until_status("completed", task_id)
    store(pump.logs)
    found = said(pump.db, task_id)
    assert found[:3] == [("info", "said: one"), ("warning", "said: zwei\nüber"), ("error", r"said: 三 \x00\x1b[31m")]
    level, trace = found[3]
    assert level == "error"
    assert trace.startswith("went wrong\nTraceback (most recent call last):\n")
    assert trace.endswith("ValueError: boom")
    assert len(found) == 4
    assert log.count("INFO said: one") == 1


def test_a_run_tells_how_it_began_and_ended_in_order(backend: Backend, make_pump: MakePump, log: Log) -> None:
    pump = make_pump(backend.url)
    [task_id] = pump.add("talking", task_data={"lines": [[20, "a"], [20, "b"]]})
    pump.until_status("completed", task_id)
    store(pump.logs)
    lines = lines_of(pump.db, task_id)
    assert [line.message for line in lines] == ["assigned to d1", "began", "said: a", "said: b", "completed"]
    assert {line.device_id for line in lines} == {"d1"}
    [run] = {line.assignment_id for line in lines}
    assert run is not None
    assert all(abs(line.at - datetime.now(UTC)) < timedelta(minutes=5) for line in lines)


def test_failures_cancels_and_rejections_are_told_with_their_reasons(backend: Backend) -> None:
    db = fresh(backend.url)
    device = Device(db)
    device.register()
    failed, lost, rejected = add(db)[0], add(db)[0], add(db, task_type="strange")[0]
    [claim] = device.claim(slots=1)
    device.end(ending(claim, "permanent", message="wrong app"))
    device.claim(slots=1)
    device.register()  # the former registration's run is gone
    with db.plain.begin() as connection:  # as earlier versions failed tasks of a type that no device knew
        connection.exec_driver_sql(
            "UPDATE cl_crawl_task SET status = 'failed', completed_at = updated_at, ready_key = NULL,"
            f" error_message = 'missing executor: strange' WHERE id = {rejected}"
        )
    expired_at = clock_of(db)
    wait_until(lambda: clock_of(db) > expired_at, what="another millisecond, which SQLite tells apart")
    Fleet(db).cancel_tasks([lost], "ada@host")
    assert [(line.level, line.message) for line in lines_of(db, failed)] == [
        ("info", "assigned to d1"),
        ("error", "failed: permanent: wrong app"),
    ]
    assert [(line.level, line.message) for line in lines_of(db, lost)] == [
        ("info", "assigned to d1"),
        ("warning", "expired: expired: the device is gone"),
        ("info", "cancelled by ada@host"),
    ]
    [line] = lines_of(db, rejected)
    assert (line.level, line.assignment_id) == ("error", None)
    assert "missing executor" in line.message
    assert task_log(db, 999) is None
    db.close()


def test_pages_follow_each_other_without_a_gap_or_a_double(backend: Backend, make_pump: MakePump, log: Log) -> None:
    pump = make_pump(backend.url)
    [task_id] = pump.add("talking", task_data={"lines": [[20, str(n)] for n in range(25)]})
    pump.until_status("completed", task_id)
    store(pump.logs)
    whole = lines_of(pump.db, task_id)
    paged: list[LogLine] = []
    after, more = None, True
    while more:
        page = task_log(pump.db, task_id, after, limit=4)
        assert page is not None
        assert len(page.lines) <= 4 + 3
        paged += page.lines
        after, more = page.after, page.more
    assert paged == whole
    assert len(whole) == 28
    assert page.ended
    page = task_log(pump.db, task_id, after)
    assert page is not None
    assert (page.lines, page.after) == ([], after)
    for wrong in ("x", "1.2", "1.2.3.4", "-1.0.0", "1.0.99999999999999999999"):
        with pytest.raises(UsageError, match="after must be that of an earlier page"):
            task_log(pump.db, task_id, wrong)


def test_a_reader_who_follows_sees_everything_once(backend: Backend, make_pump: MakePump, gate: Path) -> None:
    pump = make_pump(backend.url)
    [task_id] = pump.add("held", task_data={"gate": str(gate)})
    seen: list[str] = []
    after: str | None = None

    def look() -> bool:
        nonlocal after
        page = task_log(pump.db, task_id, after)
        assert page is not None
        seen.extend(line.message for line in page.lines)
        after = page.after
        return page.ended

    assert not look()
    pump.until_status("running", task_id)
    assert not look()
    assert seen == ["assigned to d1", "began"]
    gate.touch()
    pump.until_status("completed", task_id)
    assert look()
    assert seen == ["assigned to d1", "began", "completed"]


def test_a_live_reader_is_told_the_end_after_the_last_lines(backend: Backend) -> None:
    db = fresh(backend.url)
    device = Device(db)
    device.register()
    [task_id] = add(db)
    [claim] = device.claim()
    device.end(ending(claim))
    after: str | None = None

    def told() -> list[str]:
        nonlocal after
        page = task_log(db, task_id, after, live=True)
        assert page is not None
        assert page.ended
        after = page.after
        return [line.message for line in page.lines]

    assert told() == ["assigned to d1"]
    store_lines(db, clock_of(db), (task_id, claim.assignment_id, 0, 20, "last words"))
    assert told() == ["last words"]
    assert wait_until(told) == ["completed"]
    db.close()


def test_a_run_keeps_so_many_lines_and_says_so(logs_of: Callable[..., TaskLogWriter]) -> None:
    logs = logs_of(lines=10)
    keep = logs.of_run(1, 7)
    assert keep is not None
    for number in range(1000):
        keep(record(f"line {number}"))
    assert len(logs._buffer) == 10
    store(logs)
    with logs.db.read() as connection:
        stored = connection.execute(sa.text("SELECT number, message FROM cl_task_log ORDER BY id")).all()
    assert [tuple(row) for row in stored[:9]] == [(n + 1, f"line {n}") for n in range(9)]
    assert stored[9][1].startswith("task_log_lines is 10: what this run says from here on")
    assert logs.kept == 10
    assert logs_of(lines=0).of_run(1, 7) is None


@pytest.mark.parametrize("text", ["x" * 5000, "ü" * 5000, "汉" * 5000, "x" * 10_000_000])
def test_a_long_line_is_cut_to_whole_characters(logs_of: Callable[..., TaskLogWriter], text: str) -> None:
    logs = logs_of(size=200)
    keep = logs.of_run(1, 7)
    assert keep is not None
    keep(record(text))
    [line] = logs._buffer
    assert len(line.message.encode()) <= 200
    assert len(line.message.encode()) > 190
    head, tail = line.message.split("…")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(tail) > len(head) > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_traceback_of_an_unforeseen_error_is_in_the_tasks_log_alone(
    url: str, make_pump: MakePump, engine: str, log: Log
) -> None:
    pump = make_pump(url, engine=engine, log_lines=5)
    [task_id] = pump.add("async_breaking" if engine == "asyncio" else "breaking", max_retry_count=0)
    [foreseen] = pump.add("raising", task_data={"kind": "permanent"})
    pump.until_status("failed", task_id, foreseen)
    store(pump.logs)
    [_, _, note, end] = lines_of(pump.db, task_id)
    assert (note.level, end.level) == ("error", "error")
    assert note.message.startswith(f"body raised: task={task_id}\nTraceback (most recent call last):\n")
    assert note.message.endswith("integer division or modulo by zero")
    assert log.count("Traceback") == 0
    assert len(lines_of(pump.db, foreseen)) == 3


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_secrets_reach_neither_log(
    url: str, make_pump: MakePump, engine: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T_TOKEN", SECRET)
    monkeypatch.setenv("PROXY_PASSWORD", "pass-of-the-proxy")
    hide("hidden-elsewhere")
    pump = make_pump(url, engine=engine)
    AccountDAO(pump.db).add(
        Account("appsflyer", "u", token_env="T_TOKEN", proxy="http://user:${PROXY_PASSWORD}@proxy.example:3128")
    )
    text = f"{SECRET} pass-of-the-proxy hidden-elsewhere Bearer abcdef"
    spec = {"task_data": {"lines": [[20, text]], "traceback": text}, "source": "appsflyer", "username": "u"}
    [task_id] = pump.add("talking", **spec)
    pump.until_status("completed", task_id)
    store(pump.logs)
    shown = repr(lines_of(pump.db, task_id))
    for secret in (SECRET, "pass-of-the-proxy", "hidden-elsewhere", "abcdef"):
        assert secret not in shown
    assert shown.count("***") >= 8
    whole = "".join(f"{each.getMessage()}{each.exc_text}" for each in log._caplog.records)
    assert SECRET not in whole
    assert "pass-of-the-proxy" not in whole


def test_a_line_whose_arguments_do_not_fit_harms_nobody(logs_of: Callable[..., TaskLogWriter]) -> None:
    logs = logs_of()
    context = TaskContext(Task(1, "noop"))  # type: ignore[call-arg]
    context.open_task_log = lambda: logs.of_run(1, 7)
    context.log.warning("%d apples", "many")
    [line] = logs._buffer
    assert line.message == "%d apples (its arguments do not fit: TypeError)"


def test_lines_are_gathered_for_a_second_unless_there_are_many(logs_of: Callable[..., TaskLogWriter]) -> None:
    logs = logs_of(lines=10_000)
    assert logs.next_wait() == task_log_writer.IDLE_SECONDS
    keep = logs.of_run(1, 7)
    assert keep is not None
    keep(record("first"))
    assert 0.5 < logs.next_wait() <= task_log_writer.GATHER_SECONDS
    assert logs.run_once() == 0
    for _ in range(task_log_writer.BATCH_LINES + 10):
        keep(record("more"))
    assert logs.next_wait() <= 0
    assert logs.run_once() == task_log_writer.BATCH_LINES
    assert logs.next_wait() > 0, "others have their turn first"


def test_the_thread_stores_by_itself_and_at_the_end_what_is_left(logs_of: Callable[..., TaskLogWriter]) -> None:
    logs = logs_of()
    logs.start()
    keep = logs.of_run(1, 7)
    assert keep is not None
    keep(record("soon"))
    wait_until(lambda: count(logs.db) == 1, what="the line to be stored")
    for _ in range(1200 - 1):
        keep(record("last"))
    logs.stop()
    assert logs.join(10)
    assert count(logs.db) == 1000


def test_memory_is_bounded_and_the_loss_is_told_once(
    logs_of: Callable[..., TaskLogWriter], monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr(task_log_writer, "BUFFER_LINES", 100)
    logs = logs_of()
    for run in range(10):
        keep = logs.of_run(1, run)
        assert keep is not None
        for number in range(50):
            keep(record(f"{run} {number}"))
    assert len(logs._buffer) == 100
    assert logs.dropped == 400
    monkeypatch.setattr(task_log_writer, "BUFFER_LINES", 10_000)
    monkeypatch.setattr(task_log_writer, "BUFFER_BYTES", 20 * 1024)
    keep = logs.of_run(1, 99)
    assert keep is not None
    for _ in range(100):
        keep(record("x" * 1500))
    assert logs._buffer_bytes <= 20 * 1024
    assert logs._buffer_bytes == sum(line.size for line in logs._buffer)
    store(logs)
    assert logs._buffer_bytes == 0
    assert log.count("task log lines lost, the oldest that waited for the database") == 1
    assert logs.kept + logs.dropped == 600


@pytest.mark.slow
def test_lines_wait_while_the_database_is_away(private_server: Server) -> None:
    private_server.create_database("logs")
    db = fresh(private_server.url("logs"))
    logs = TaskLogWriter(db, 1000, 2000)
    keep = logs.of_run(1, 7)
    assert keep is not None
    logs.start()
    private_server.stop()
    for number in range(700):
        keep(record(f"line {number}"))
    wait_until(lambda: logs._away.failures > 0, what="a failed attempt")
    began = time.monotonic()
    keep(record("nobody waits"))
    assert time.monotonic() - began < 1
    private_server.start()
    wait_until(lambda: logs.kept == 701, 30, "the lines to be stored")
    assert count(db) == 701
    assert logs.dropped == 0
    logs.stop()
    assert logs.join(10)
    db.close()


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_lines_are_stored_once_when_the_reply_to_their_commit_is_lost(backend: Backend, proxy: TcpProxy) -> None:
    db = fresh(backend.url_at(proxy.port))
    logs = TaskLogWriter(db, 1000, 2000)
    keep = logs.of_run(1, 7)
    assert keep is not None
    for number in range(20):
        keep(record(f"line {number}"))
    cut = proxy.cut_after_request(backend.commit_request)
    assert logs._store() == 0
    assert cut.happened.is_set()
    assert logs._store() == 20
    assert count(db) == 20
    db.close()


def test_a_batch_that_the_database_refuses_is_given_up(
    logs_of: Callable[..., TaskLogWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = logs_of()
    keep = logs.of_run(1, 7)
    assert keep is not None
    keep(record("first"))

    def refuse(connection: Transaction, *_: object) -> None:
        connection.execute(sa.text("SELECT nothing FROM nowhere"))

    with monkeypatch.context() as patch:
        patch.setattr(logs._dao, "append", refuse)
        with pytest.raises(sa.exc.SQLAlchemyError):
            logs._store()
    assert (logs.kept, logs.dropped) == (0, 1)
    keep(record("second"))
    assert logs._store() == 1


def test_a_flood_of_lines_leaves_the_pump_and_the_heartbeat_their_turns(url: str, make_pump: MakePump) -> None:
    """On SQLite, where there is one writer: while 10,000 lines are stored, turns and beats go on between them."""
    pump = make_pump(url, log_lines=100_000)
    keep = pump.logs.of_run(1, 7)
    assert keep is not None
    for _ in range(task_log_writer.BUFFER_LINES):
        keep(record("x" * 100))
    pump.logs.start()
    turns = 0
    while pump.logs.kept < task_log_writer.BUFFER_LINES - task_log_writer.BATCH_LINES:
        [task_id] = pump.add("quick", task_data={})
        pump.until_status("completed", task_id)
        pump.beat()
        turns += 1
    assert turns >= 10
    assert pump.logs.dropped == 0
    pump.logs.stop()
    assert pump.logs.join(10)


def test_threads_of_a_body_may_speak_at_once(logs_of: Callable[..., TaskLogWriter]) -> None:
    logs = logs_of(lines=10_000)
    keep = logs.of_run(1, 7)
    assert keep is not None
    threads = [threading.Thread(target=lambda: [keep(record("x")) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store(logs)
    with logs.db.read() as connection:
        numbers = connection.execute(sa.text("SELECT number FROM cl_task_log ORDER BY number")).scalars().all()
    assert numbers == [*range(1, 1601)]


# -- searching


def store_lines(db: Database, now: datetime, *lines: tuple[int, int, float, int, str]) -> None:
    """(task, run, seconds ago, level, text)"""
    stored = [
        StoredLine(task_id, run, number, now - timedelta(seconds=age), level, text)
        for number, (task_id, run, age, level, text) in enumerate(lines, 1)
    ]
    db.write(lambda connection: TaskLogDAO(db).append(connection, stored))


def clock_of(db: Database) -> datetime:
    with db.read() as connection:
        return connection.now


def test_lines_of_all_tasks_are_found_by_text_and_level(backend: Backend) -> None:
    db = fresh(backend.url)
    device = Device(db)
    device.register()
    [task_id] = add(db)
    [claim] = device.claim()
    device.end(ending(claim, "permanent", message="Vendor said 100% no"))
    run, now = claim.assignment_id, clock_of(db)
    store_lines(
        db,
        now,
        (task_id, run, 30, 20, "page 1 of 7"),
        (task_id, run, 20, 30, "Vendor is slow"),
        (8, 81, 10, 40, "vendor_x is gone"),
    )

    def found(**wanted: Any) -> list[tuple[int, str | None, str, str]]:
        return [(line.task_id, line.device_id, line.level, line.message) for line in search_logs(db, **wanted).lines]

    slow, gone = (task_id, "d1", "warning", "Vendor is slow"), (8, None, "error", "vendor_x is gone")
    failure = (task_id, "d1", "error", "failed: permanent: Vendor said 100% no")
    assert found() == [failure, gone, slow, (task_id, "d1", "info", "page 1 of 7")]
    assert found(text="VENDOR") == [failure, gone, slow]
    assert found(level="error") == [failure, gone]
    assert found(level="critical") == []
    assert found(text="100%") == [failure]
    assert found(text="vendor_") == [gone], "no wildcards"
    assert found(text="!") == []
    assert found(text="'; --") == []
    assert search_logs(db).before is None
    db.close()


def test_a_search_goes_on_where_it_ended(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    db = fresh(backend.url)
    now = clock_of(db)
    lines = [(1, 1, float(n // 3), 20, f"line {n}") for n in range(60)]  # three lines of each moment
    store_lines(db, now, *lines)
    monkeypatch.setattr(task_logs, "SEARCH_ROWS", 10)
    found: list[str] = []
    before, searches = None, 0
    while True:
        page = search_logs(db, "line", before=before, limit=7)
        found += [line.message for line in page.lines]
        before, searches = page.before, searches + 1
        if before is None:
            break
        assert searches < 60
    assert sorted(found) == sorted(text for *_, text in lines)
    assert len(found) == 60
    found = []
    before = None
    while True:
        page = search_logs(db, "line 59", before=before)
        found += [line.message for line in page.lines]
        before = page.before
        if before is None:
            break
    assert found == ["line 59"]
    db.close()


def test_expired_lines_are_deleted(backend: Backend) -> None:
    db = fresh(backend.url)
    now, day = clock_of(db), 86_400.0
    store_lines(db, now, (1, 1, 8 * day, 20, "old"), (1, 1, 6 * day, 20, "new"))
    assert TaskLogDAO(db).sweep(7) == 1
    assert [line.message for line in search_logs(db).lines] == ["new"]
    db.close()
