"""What a body returned, checked and read: rows into a list or a spool, follow-ups into specs, the summary into JSON."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from datetime import date
from itertools import islice
from typing import Any

from crawlfleet.core.errors import PermanentError, UsageError
from crawlfleet.core.json_text import MAX_DEPTH, is_deeper
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange, Scope
from crawlfleet.executors.contract import ResultReplaced, TaskResult
from crawlfleet.executors.outcome import SPOOL_BYTES, SPOOL_ROWS
from crawlfleet.executors.spool import Spool, row_bytes
from crawlfleet.model.ending import Outcome
from crawlfleet.model.task_spec import MAX_TEXT, TaskSpec

MAX_SUMMARY_BYTES = 64 * 1024
MAX_RANGE_DAYS = 3660  # of one result: each day gets a row of its own that says that it is covered
STEP_ROWS = 250  # rows read between two looks at `cancelled`

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def collect(result: object, outcome: Outcome) -> Generator[None]:
    """Fill the outcome from what a body returned, pausing after every few hundred rows and follow-ups.

    Raises PermanentError for a result that can never be stored, and whatever a lazy `rows` raises; `ResultReplaced` is
    handled here. An error, or closing this generator, closes the spool and the generator of the rows.
    """
    try:
        yield from _collect(result, outcome)
    except ResultReplaced as replaced:
        yield from _collect(replaced.result, outcome)


def _collect(result: object, outcome: Outcome) -> Iterator[None]:
    if result is None:
        return
    if isinstance(result, dict):
        outcome.summary = summary_text(result)
        return
    if not isinstance(result, TaskResult):
        raise PermanentError(_wrong_result(result))
    counts: dict[str, int] = {}
    try:
        yield from _collect_rows(result.rows, result.replaces, outcome)
        if result.replaces is not None:
            counts["synced_apps" if isinstance(result.replaces, AppList) else "synced_records"] = len(outcome.rows)
        follow_ups: list[TaskSpec] = []
        for batch in _batches(result.follow_ups, "follow_ups"):
            follow_ups += [_follow_up(number, given) for number, given in enumerate(batch, len(follow_ups) + 1)]
            yield
        outcome.follow_ups = follow_ups
        if not isinstance(result.summary, Mapping):
            raise PermanentError(f"summary must be a JSON object (got {type(result.summary).__name__})")
        if summary := {**counts, **result.summary}:
            outcome.summary = summary_text(summary)
    except BaseException:
        if isinstance(outcome.rows, Spool):
            outcome.rows.close()
        raise


def summary_text(summary: dict[str, Any]) -> str:
    """The summary as JSON; raises PermanentError when it is no JSON object of at most 64 KiB."""
    _check_keys(summary)
    try:
        text = _encode(summary)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise PermanentError(f"summary must be JSON: {error}") from None
    if size > MAX_SUMMARY_BYTES:
        raise PermanentError(f"summary must be at most {MAX_SUMMARY_BYTES} bytes of JSON (got {size})")
    if is_deeper(summary, MAX_DEPTH):  # after the encoder, which notices what holds itself
        raise PermanentError(f"summary must be nested in at most {MAX_DEPTH} levels: MariaDB stores no more")
    if "\\u0000" in text and _NUL.search(text):
        raise PermanentError("summary must not hold the character NUL: PostgreSQL cannot store it")
    return text


def _check_keys(value: object) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise PermanentError(f"summary must have text as keys (got {key!r:.80})")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)


def _collect_rows(rows: Iterable[Any], scope: Scope | None, outcome: Outcome) -> Iterator[None]:
    check = _row_check(scope)
    in_memory: list[Any] = []
    outcome.rows = in_memory
    outcome.replaces = scope
    spool: Spool | None = None
    size = 0
    for batch in _batches(rows, "rows"):
        check(batch)
        size += len(batch) * row_bytes(batch[0]) if spool is None else 0
        if spool is None and (len(in_memory) + len(batch) > SPOOL_ROWS or size > SPOOL_BYTES):
            outcome.rows = spool = Spool()
            spool.append(in_memory)
        if spool is None:
            in_memory += batch
        else:
            spool.append(batch)
        yield


def _batches(items: Iterable[Any], name: str) -> Iterator[list[Any]]:
    try:
        iterator = iter(items)
    except TypeError:
        raise PermanentError(f"{name} must be iterable (got {type(items).__name__})") from None
    try:
        while batch := list(islice(iterator, STEP_ROWS)):
            yield batch
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _row_check(scope: Scope | None) -> Callable[[list[Any]], None]:
    if isinstance(scope, (AppList, ReportRange)):
        _check_scope(scope)
    if isinstance(scope, AppList):
        return _check_apps
    if isinstance(scope, ReportRange):
        first, last = scope.start, scope.end
        return lambda batch: _check_figures(batch, first, last)
    if scope is None:
        return _refuse_rows
    raise PermanentError(f"replaces must be an AppList or a ReportRange (got {type(scope).__name__})")


def _check_scope(scope: Scope) -> None:
    """Raise PermanentError for a range that cannot be: its rows have a place that nothing can be stored at."""
    texts = {name: getattr(scope, name, "-") for name in ("source", "username", "app_id", "report")}
    for name, value in texts.items():
        most = 64 if name in ("source", "report") else MAX_TEXT
        if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
            raise PermanentError(f"{name} of replaces must be text of 1 to {most} characters (got {value!r:.80})")
        _check_blanks(name, value)
    if isinstance(scope, ReportRange):
        if not (type(scope.start) is date and type(scope.end) is date and scope.start <= scope.end):
            got = f"(got {scope.start!r:.80} and {scope.end!r:.80})"
            raise PermanentError(f"start and end of replaces must be dates in this order {got}")
        if (scope.end - scope.start).days >= MAX_RANGE_DAYS:
            raise PermanentError(f"replaces must be at most {MAX_RANGE_DAYS} days (got {scope.start} to {scope.end})")
        days = scope.settle_days
        if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= 3650:
            raise PermanentError(f"settle_days of replaces must be a whole number from 0 to 3650 (got {days!r:.80})")


def _check_apps(batch: list[Any]) -> None:
    for row in batch:
        if not isinstance(row, App):
            raise PermanentError(f"rows that replace an AppList must be App (got {type(row).__name__})")
        _check_blanks("app_id", row.app_id)


def _check_blanks(name: str, value: object) -> None:
    if isinstance(value, str) and value != value.strip(" "):  # some databases take 'a' and 'a ' for the same
        raise PermanentError(f"{name} must not begin or end with a blank (got {value!r:.80})")


def _check_figures(batch: list[Any], first: date, last: date) -> None:
    for row in batch:
        if not isinstance(row, Figures):
            raise PermanentError(f"rows that replace a ReportRange must be Figures (got {type(row).__name__})")
        if type(row.day) is not date or not first <= row.day <= last:
            raise PermanentError(f"a row's day must be a date from {first} to {last} (got {row.day!r:.80})")


def _refuse_rows(batch: list[Any]) -> None:
    raise PermanentError("rows need `replaces`: return TaskResult(rows=..., replaces=AppList(...) or ReportRange(...))")


def _follow_up(number: int, given: object) -> TaskSpec:
    if isinstance(given, TaskSpec):
        return given
    if not isinstance(given, Mapping):
        raise PermanentError(f"follow-up {number} must be a TaskSpec (got {type(given).__name__})")
    try:
        return TaskSpec.from_mapping(given)
    except UsageError as error:
        raise PermanentError(f"follow-up {number}: {error}") from None


def _wrong_result(result: object) -> str:
    hint = ""
    if inspect.iscoroutine(result):
        result.close()
        hint = "; declare the executor itself with `async def`"
    return f"an executor must return None, a dict or a TaskResult (got {type(result).__name__}){hint}"
