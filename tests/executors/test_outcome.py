"""What becomes of a body's result or exception."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from threading import Barrier, Event
from typing import Any

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import (
    NotPermitted,
    PermanentError,
    ProxyError,
    QuotaError,
    TaskError,
    TokenUnavailable,
    TransientError,
    UsageError,
    WaitError,
)
from crawlfleet.core.secrets import KEY_VARIABLE, keyring, new_key
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.executors.body import run_body, run_body_async
from crawlfleet.executors.contract import Executor, ResultReplaced, TaskContext, TaskResult
from crawlfleet.executors.outcome import MAX_MESSAGE, SPOOL_ROWS
from crawlfleet.executors.spool import Spool
from crawlfleet.model.ending import Outcome
from crawlfleet.model.lifecycle import ENDINGS
from crawlfleet.model.task_spec import Task, TaskSpec
from crawlfleet.sources.contract import SourceSettings

DAY = date(2026, 1, 31)
DAYS = ReportRange("s", "u", "a", "r", DAY, DAY)
APPS = AppList("s", "u")
TASK = Task(7, "some")
TOKEN = "eyJhbGciOi.token-of-the-account"

Play = Callable[..., Outcome]


def play_sync(result: Callable[[], Any], context: TaskContext | None = None, **options: Any) -> Outcome:
    return run_body(Executor("some", lambda task, context: result(), **options), TASK, context or TaskContext(TASK))


def play_async(result: Callable[[], Any], context: TaskContext | None = None, **options: Any) -> Outcome:
    async def body(task: Task, context: TaskContext) -> Any:
        return result()

    return asyncio.run(run_body_async(Executor("some", body, **options), TASK, context or TaskContext(TASK)))


@pytest.fixture(params=[play_sync, play_async], ids=["plain", "async"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a body that does what the given function does."""
    function: Play = request.param
    return function


def raiser(error: BaseException) -> Callable[[], Any]:
    def body() -> None:
        raise error

    return body


def test_nothing_is_a_result(play: Play) -> None:
    assert play(lambda: None) == Outcome()


def test_a_dict_is_the_summary(play: Play) -> None:
    outcome = play(lambda: {"seen": 1, "name": "ü"})
    assert outcome.kind == "ok"
    assert json.loads(outcome.summary or "") == {"seen": 1, "name": "ü"}


@pytest.mark.parametrize("result", [3, "text", [1], object(), (None,)])
def test_any_other_result_is_a_permanent_error_that_names_its_type(play: Play, result: object) -> None:
    outcome = play(lambda: result)
    assert outcome.kind == "permanent"
    assert f"(got {type(result).__name__})" in (outcome.message or "")


def test_a_plain_function_that_returns_a_coroutine_is_told_how_to_be_async(recwarn: pytest.WarningsRecorder) -> None:
    async def inner() -> None: ...

    outcome = play_sync(inner)
    assert outcome.kind == "permanent"
    assert "async def" in (outcome.message or "")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({1: "x"}, "text as keys (got 1)"),
        ({"x": [{2: 3}]}, "text as keys (got 2)"),
        ({"x": float("nan")}, "must be JSON"),
        ({"x": object()}, "must be JSON"),
        ({"x": "\ud800"}, "must be JSON"),
        ({"x": "a\0b"}, "NUL"),
        ({"x\0": 1}, "NUL"),
        ({"x": "ü" * 33_000}, "at most 65536 bytes"),
        ({"x": 10**5000}, "must be JSON"),
    ],
)
def test_a_summary_that_cannot_be_stored_is_a_permanent_error(play: Play, summary: Any, said: str) -> None:
    outcome = play(lambda: summary)
    assert outcome.kind == "permanent"
    assert said in (outcome.message or "")


def test_a_backslash_before_u0000_is_no_nul(play: Play) -> None:
    assert play(lambda: {"path": "C:\\u0000"}).kind == "ok"


def test_a_summary_that_holds_itself_is_no_success(play: Play) -> None:
    summary: dict[str, Any] = {}
    summary["self"] = summary
    assert play(lambda: summary).kind != "ok"


def test_rows_are_read_in_order_and_counted_in_the_summary(play: Play) -> None:
    rows = [Figures(DAY, campaign=str(number)) for number in range(SPOOL_ROWS)]
    outcome = play(lambda: TaskResult(rows=iter(rows), replaces=DAYS, summary={"report": "r"}))
    assert outcome.rows == rows
    assert outcome.replaces == DAYS
    assert json.loads(outcome.summary or "") == {"synced_records": SPOOL_ROWS, "report": "r"}


def test_a_count_that_the_body_gives_itself_is_kept(play: Play) -> None:
    outcome = play(lambda: TaskResult(rows=[App("a")], replaces=APPS, summary={"synced_apps": 5}))
    assert json.loads(outcome.summary or "") == {"synced_apps": 5}


def test_no_rows_with_a_range_empty_the_range(play: Play) -> None:
    outcome = play(lambda: TaskResult(replaces=DAYS))
    assert (outcome.kind, outcome.replaces, len(outcome.rows)) == ("ok", DAYS, 0)


def test_more_rows_than_the_limit_are_spooled_and_can_be_read_twice(play: Play) -> None:
    apps = [App(str(number), extra={"n": number}) for number in range(SPOOL_ROWS + 1)]
    outcome = play(lambda: TaskResult(rows=(app for app in apps), replaces=APPS))
    assert isinstance(outcome.rows, Spool)
    assert len(outcome.rows) == len(apps)
    assert list(outcome.rows) == list(outcome.rows) == apps
    assert max(map(len, outcome.rows.batches())) <= SPOOL_ROWS
    outcome.rows.close()
    outcome.rows.close()


@pytest.mark.parametrize(
    ("rows", "replaces", "said"),
    [
        ([Figures(DAY)], None, "rows need `replaces`"),
        ([App("a")], DAYS, "must be Figures (got App)"),
        ([Figures(DAY)], APPS, "must be App (got Figures)"),
        ([{"day": "2026-01-31"}], DAYS, "must be Figures (got dict)"),
        ([Figures(date(2026, 2, 1))], DAYS, "must be a date from 2026-01-31 to 2026-01-31"),
        ([Figures(datetime(2026, 1, 31))], DAYS, "must be a date"),  # noqa: DTZ001
        (3, DAYS, "rows must be iterable (got int)"),
        ([], "all", "replaces must be an AppList or a ReportRange (got str)"),
    ],
)
def test_rows_that_do_not_fit_are_a_permanent_error(play: Play, rows: Any, replaces: Any, said: str) -> None:
    outcome = play(lambda: TaskResult(rows=rows, replaces=replaces))
    assert outcome.kind == "permanent"
    assert said in (outcome.message or "")


def test_an_error_while_rows_are_read_closes_the_spool_and_the_rows(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Spool, "close", lambda spool: closed.append("spool"))

    def rows() -> Iterator[App]:
        try:
            yield from (App(str(number)) for number in range(3 * SPOOL_ROWS))
            raise TransientError("the connection broke")
        finally:
            closed.append("rows")

    outcome = play(lambda: TaskResult(rows=rows(), replaces=APPS))
    assert (outcome.kind, outcome.message, outcome.rows) == ("transient", "the connection broke", ())
    assert closed == ["rows", "spool"]


@pytest.mark.parametrize("count", [1, 2 * SPOOL_ROWS])
def test_rows_that_turn_out_unfit_leave_nothing_but_the_result_instead(
    play: Play, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Spool, "close", lambda spool: closed.append("spool"))

    def rows() -> Iterator[App]:
        yield from (App(str(number)) for number in range(count))
        raise ResultReplaced(TaskResult(follow_ups=[TaskSpec("x")], summary={"split": True}))

    outcome = play(lambda: TaskResult(rows=rows(), replaces=APPS, summary={"split": False}))
    assert outcome == Outcome(rows=[], summary='{"split": true}', follow_ups=[TaskSpec("x")])
    assert len(closed) == (count > SPOOL_ROWS)


@pytest.mark.parametrize("feed", [("com.a", "daily_report"), None])
def test_a_denied_app_or_report_is_permanent_and_named_also_in_another_process(
    play: Play, feed: tuple[str, str] | None
) -> None:
    error = NotPermitted("not in the plan")
    error.feed = feed
    outcome = pickle.loads(pickle.dumps(play(raiser(error))))
    assert (outcome.kind, outcome.message, outcome.denied) == ("permanent", "not in the plan", feed)


def test_a_cancelled_run_stops_reading_its_rows(play: Play) -> None:
    context = TaskContext(TASK)
    read = 0

    def rows() -> Iterator[App]:
        nonlocal read
        while True:
            read += 1
            if read == 2 * SPOOL_ROWS:
                context.cancelled.set()
            yield App(str(read))

    outcome = play(lambda: TaskResult(rows=rows(), replaces=APPS), context)
    assert outcome.kind == "cancelled"
    assert read < 3 * SPOOL_ROWS


def test_follow_ups_may_be_specs_or_dicts(play: Play) -> None:
    outcome = play(lambda: TaskResult(follow_ups=[TaskSpec("x"), {"task_type": "y", "priority": 3}]))
    assert outcome.follow_ups == [TaskSpec("x"), TaskSpec("y", priority=3)]
    assert outcome.summary is None


@pytest.mark.parametrize("wrong", [{"task_type": ""}, {"typ": "x"}, "x", None])
def test_a_wrong_follow_up_is_a_permanent_error_that_names_its_place(play: Play, wrong: Any) -> None:
    outcome = play(lambda: TaskResult(follow_ups=[TaskSpec("x"), wrong]))
    assert outcome.kind == "permanent"
    assert (outcome.message or "").startswith("follow-up 2")


def test_the_check_comes_before_the_body(play: Play) -> None:
    def check(task: Task) -> None:
        raise PermanentError(f"task {task.id} lacks an app_id")

    outcome = play(raiser(AssertionError("the body ran")), check=check)
    assert (outcome.kind, outcome.message) == ("permanent", "task 7 lacks an app_id")


def test_a_body_cancelled_before_it_begins_is_not_called(play: Play) -> None:
    context = TaskContext(TASK)
    context.cancelled.set()
    assert play(raiser(AssertionError("the body ran")), context).kind == "cancelled"


@pytest.mark.parametrize("retry_after", [float("nan"), float("inf"), "soon", None, True, 3j, [1]])
def test_a_retry_after_that_is_no_number_of_seconds_is_dropped(play: Play, retry_after: Any) -> None:
    assert play(raiser(TransientError("x", retry_after))).retry_after is None


@pytest.mark.parametrize(
    ("retry_after", "kept"), [(1e12, 31 * 86_400), (10**400, 31 * 86_400), (-5, 0), (-(10**400), 0)]
)
def test_a_retry_after_is_cut_to_what_can_be_reckoned_with(play: Play, retry_after: float, kept: float) -> None:
    """A moment after the year 9999 stopped the node: nothing ended, nothing was claimed."""
    assert play(raiser(QuotaError("x", retry_after))).retry_after == kept


@pytest.mark.parametrize(
    "feed", [(), ("a",), ("a", "r", "x"), "ar", ("a", None), (1, 2), ("", "r"), ("a\0", "r"), {}, 7]
)
def test_a_denied_feed_of_a_wrong_shape_is_dropped(play: Play, feed: Any) -> None:
    error = NotPermitted("not in your plan")
    error.feed = feed
    outcome = play(raiser(error))
    assert (outcome.kind, outcome.message, outcome.denied) == ("permanent", "not in your plan", None)


def test_an_error_that_lacks_or_twists_its_own_fields_still_ends_the_run(play: Play) -> None:
    class Bare(QuotaError):
        def __init__(self) -> None:
            pass

    class Twisted(TransientError):
        kind: Any = ()

        def __init__(self) -> None:
            pass

        @property  # type: ignore[override]
        def retry_after(self) -> float:
            raise SystemExit

    for error in (Bare(), Twisted()):
        outcome = play(raiser(error))
        assert outcome.kind == "permanent"
        assert f"{type(error).__name__} that cannot be read" in (outcome.message or "")


@pytest.mark.parametrize(
    "error", [KeyError("installs"), TypeError("no"), AttributeError("x"), IndexError(3), NameError("n")]
)
def test_an_error_of_the_program_fails_at_once_with_its_traceback_in_the_tasks_log(
    play: Play, error: Exception
) -> None:
    """It was tried again after 5, 10 and 20 minutes, and only DEBUG showed where it was."""
    written: list[logging.LogRecord] = []
    context = TaskContext(TASK)
    context.open_task_log = lambda: written.append
    outcome = play(raiser(error), context)
    assert (outcome.kind, outcome.message) == ("permanent", f"{type(error).__name__}: {error}")
    [line] = written
    assert line.levelno == logging.ERROR
    assert "Traceback" in line.getMessage()
    assert "in raiser" in line.getMessage() or "in body" in line.getMessage()


def test_an_executor_may_say_that_an_error_is_worth_a_retry(play: Play) -> None:
    assert play(raiser(KeyError("installs")), transient=(LookupError,)).kind == "transient"
    assert play(raiser(ValueError("no date"))).kind == "transient"
    with pytest.raises(UsageError, match="transient of executor 'some' must be exception types"):
        Executor("some", print, transient=("KeyError",))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [TokenUnavailable, ProxyError])
def test_what_a_node_lacks_waits_a_minute(play: Play, error: type[WaitError]) -> None:
    outcome = play(raiser(error("not here")))
    assert (outcome.kind, outcome.message, outcome.retry_after) == (error.kind, "not here", 60)


def test_each_kind_that_a_body_may_raise_has_an_error(play: Play) -> None:
    errors = {each.kind: each for each in _below(TaskError)}
    assert set(errors) == {kind for kind, rule in ENDINGS.items() if rule.may_be_raised}
    for kind, error in errors.items():
        assert play(raiser(error("no luck"))).kind is kind


def _below(error: type[TaskError]) -> list[type[TaskError]]:
    """The errors of this program that are an `error`."""
    own = [each for each in error.__subclasses__() if each.__module__ == error.__module__]
    return own + [further for each in own for further in _below(each)]


def test_a_kind_spelled_by_hand_counts_too(play: Play) -> None:
    class ByHand(TaskError):
        kind = "quota"  # type: ignore[assignment]

    assert play(raiser(ByHand())).kind is EndingKind.QUOTA


def test_a_task_error_of_an_unknown_kind_is_transient(play: Play) -> None:
    class Odd(TaskError):
        kind = "odd"  # type: ignore[assignment]

    assert play(raiser(Odd())).kind == "transient"


def test_a_message_is_one_short_line_that_can_be_stored(play: Play) -> None:
    message = play(raiser(ValueError("a\0b\r\nc\x1b[31m\ud800" + "x" * 5000))).message or ""
    assert message.startswith(r"ValueError: a\x00b c\x1b[31m\ud800xx")
    assert len(message) == MAX_MESSAGE


def test_an_exception_that_cannot_tell_its_message_still_ends_the_run(play: Play) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert play(raiser(Mute())).message == "Mute: its message cannot be read (RuntimeError)"


def test_a_summary_that_no_database_of_ours_stores_is_the_bodys_fault(play: Play) -> None:
    """MariaDB takes what is deeper than 31 levels for no JSON."""
    deep: dict[str, Any] = {}
    for _ in range(31):
        deep = {"a": deep}
    outcome = play(lambda: deep)
    assert (outcome.kind, "nested in at most 31 levels" in str(outcome.message)) == ("permanent", True)
    assert play(lambda: deep["a"]).summary == json.dumps(deep["a"])


def test_endless_recursion_is_transient(play: Play) -> None:
    def deeper() -> None:
        deeper()

    assert play(deeper).kind == "transient"


def test_the_token_shows_neither_in_the_message_nor_in_the_log(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_TOKEN", TOKEN)
    context = TaskContext(TASK, Account("s", "u", token_env="SOME_TOKEN"))
    with caplog.at_level(logging.DEBUG, logger="crawlfleet.executors"):
        outcome = play(raiser(ValueError(f"GET /x?token={TOKEN} failed, Bearer abc")), context)
    assert outcome.message == "ValueError: GET /x?token=*** failed, Bearer ***"
    assert "body raised: task=7" in caplog.text
    assert TOKEN not in caplog.text


def test_an_opened_token_and_a_password_of_a_proxy_show_nowhere(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, new_key())
    monkeypatch.setenv("PROXY_PASSWORD", "pass-word")
    sealed = keyring(None).seal(TOKEN, ("s", "u"))
    context = TaskContext(
        TASK, Account("s", "u", token_sealed=sealed, proxy="http://u:${PROXY_PASSWORD}@127.0.0.1"), SourceSettings()
    )
    with caplog.at_level(logging.DEBUG, logger="crawlfleet.executors"):
        outcome = play(lambda: 1 / int(f"{context.account.token()} pass-word"), context)
    assert (outcome.message or "").count("***") == 2
    assert "body raised: task=7" in caplog.text
    pickled = pickle.dumps(context)
    assert sealed.encode() in pickled
    for secret in (TOKEN, "pass-word"):
        assert secret not in caplog.text + (outcome.message or "") + repr(context) + repr(context.account)
        assert secret.encode() not in pickled


def test_the_traceback_is_logged_at_debug_only(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="crawlfleet.executors"):
        play(raiser(ValueError("x")))
    assert not caplog.records


def test_an_unknown_source_is_a_permanent_error() -> None:
    context = TaskContext(TASK, Account("nowhere", "u"))
    outcome = play_sync(lambda: context.source, context)
    assert outcome.kind == "permanent"
    assert "unknown source 'nowhere'" in (outcome.message or "")


def test_a_context_travels_to_another_process_without_its_event() -> None:
    context = TaskContext(TASK, Account("appsflyer", "u"), SourceSettings(base_url="http://127.0.0.1:9"))
    context.cancelled.set()
    arrived = pickle.loads(pickle.dumps(context))
    assert (arrived.task, arrived.account) == (TASK, context.account)
    assert arrived.source is context.source, "made once in a process"
    assert not arrived.cancelled.is_set()


def test_a_run_that_waits_is_small() -> None:
    """A node may hold a thousand of them, and as many that have ended; an event alone takes 1.2 KB."""
    tracemalloc.start()
    contexts = [TaskContext(TASK) for _ in range(100)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(contexts) < 400


def test_all_who_ask_for_the_event_get_the_same_one() -> None:
    contexts = [TaskContext(TASK) for _ in range(200)]
    start = Barrier(4)

    def ask() -> list[Event]:
        start.wait()
        return [context.cancelled for context in contexts]

    with ThreadPoolExecutor(4) as pool:
        seen = [future.result() for future in [pool.submit(ask) for _ in range(4)]]
    assert seen[0] == seen[1] == seen[2] == seen[3]
