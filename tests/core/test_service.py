from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from crawlfleet.core.errors import CrawlfleetError
from crawlfleet.core.service import Service

PATIENCE_SECONDS = 10.0


class Counter(Service):
    """Counts its passes; `work` is what a pass does, `passed` is released after each."""

    def __init__(self, work: Callable[[], object] = lambda: None, interval: float = 3600) -> None:
        super().__init__("counter", interval)
        self.work = work
        self.passes = 0
        self.passed = threading.Semaphore(0)

    def run_once(self) -> int:
        try:
            self.work()
        finally:
            self.passes += 1
            self.passed.release()
        return self.passes

    def wait_for_passes(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.passed.acquire(timeout=PATIENCE_SECONDS)


def end(service: Service) -> None:
    service.stop()
    assert service.join(PATIENCE_SECONDS)
    assert not service.running


def fast(service: Service) -> None:
    """Retries without a wait."""
    service._backoff.next = lambda: _count(service)  # type: ignore[method-assign]


def _count(service: Service) -> float:
    service._backoff.failures += 1
    return 0.0


def test_the_first_pass_begins_at_once_and_the_next_after_the_interval() -> None:
    service = Counter(interval=0.01)
    service.start()
    service.wait_for_passes(3)
    end(service)


def test_a_wake_up_cuts_the_wait_short() -> None:
    service = Counter()
    service.start()
    service.wait_for_passes()
    service.wake()
    service.wait_for_passes()
    end(service)
    assert service.passes == 2


def test_a_wake_up_during_a_pass_is_not_lost() -> None:
    service = Counter()
    service.work = lambda: service.wake() if service.passes == 0 else None
    service.start()
    service.wait_for_passes(2)
    end(service)


def test_a_service_may_choose_its_next_wait() -> None:
    class Eager(Counter):
        def next_wait(self) -> float:
            return -1.0 if self.passes < 3 else 3600.0

    service = Eager()
    service.start()
    service.wait_for_passes(3)
    end(service)
    assert service.passes == 3


def test_starting_twice_makes_one_thread() -> None:
    before = threading.active_count()
    service = Counter()
    service.start()
    service.start()
    service.wait_for_passes()
    assert threading.active_count() == before + 1
    end(service)
    assert service.passes == 1


def test_stopping_twice_or_without_a_start_is_fine_and_it_stays_stopped() -> None:
    service = Counter()
    service.stop()
    service.stop()
    assert service.join(0)
    service.start()
    assert not service.running
    assert service.passes == 0


def test_stop_returns_at_once_while_a_pass_runs_and_join_waits_for_it() -> None:
    release = threading.Event()
    began = threading.Event()

    def work() -> None:
        began.set()
        assert release.wait(PATIENCE_SECONDS)

    service = Counter(work)
    service.start()
    assert began.wait(PATIENCE_SECONDS)
    service.stop()
    assert service.stopping
    assert not service.join(0.01)
    release.set()
    assert service.join(PATIENCE_SECONDS)


def test_a_pass_may_stop_and_join_its_own_service() -> None:
    results = []
    service = Counter()

    def work() -> None:
        service.stop()
        results.append(service.join())

    service.work = work
    service.start()
    service.wait_for_passes()
    assert service.join(PATIENCE_SECONDS)
    assert results == [True]


def test_a_repeated_failure_is_logged_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        if service.passes < 5:
            raise CrawlfleetError("the database is away")

    service = Counter(work)
    fast(service)
    with caplog.at_level(logging.INFO):
        service.start()
        service.wait_for_passes(6)
        end(service)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0] == "counter failed and will be tried again: CrawlfleetError: the database is away"
    assert lines[1].startswith("counter works again: failures=5 after=")
    assert caplog.records[0].exc_info is None


def test_another_failure_is_logged_again_and_an_unexpected_one_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = [ValueError("one"), ValueError("one"), KeyError("two")]

    def work() -> None:
        if failures:
            raise failures.pop(0)

    service = Counter(work)
    fast(service)
    service.start()
    service.wait_for_passes(4)
    end(service)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage().rpartition("again: ")[2] for record in errors] == ["ValueError: one", "KeyError: 'two'"]
    assert all(record.exc_info for record in errors)


def test_a_failing_service_stops_at_once_although_its_next_try_is_far_away() -> None:
    def work() -> None:
        raise ValueError("no")

    service = Counter(work)
    service._backoff.next = lambda: 3600.0  # type: ignore[method-assign]
    service.start()
    service.wait_for_passes()
    began = time.monotonic()
    end(service)
    assert time.monotonic() - began < 5


def test_wake_ups_do_not_make_a_failing_service_spin() -> None:
    def work() -> None:
        service.wake()
        raise ValueError("no")

    service = Counter(work)
    waits: list[float] = []
    allowed = threading.Event()

    def next_wait() -> float:
        waits.append(0)
        allowed.set()
        return 3600.0

    service._backoff.next = next_wait  # type: ignore[method-assign]
    service.start()
    assert allowed.wait(PATIENCE_SECONDS)
    service.wake()
    assert not service.join(0.05)
    end(service)
    assert service.passes == 1


def test_many_threads_may_start_wake_stop_and_join_in_any_order() -> None:
    before = threading.active_count()
    for turn in range(60):
        service = Counter(interval=0)
        calls = [service.start, service.wake, service.stop, service.start, partial(service.join, 0), service.stop]
        barrier = threading.Barrier(len(calls))

        def call(action: Callable[[], object], barrier: threading.Barrier = barrier) -> None:
            barrier.wait(PATIENCE_SECONDS)
            action()

        order = calls[turn % len(calls) :] + calls[: turn % len(calls)]
        threads = [threading.Thread(target=call, args=(action,)) for action in order]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        end(service)
    assert threading.active_count() == before
