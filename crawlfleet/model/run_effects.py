"""What a run leaves behind beside its end: figures, apps, follow-up tasks, and what the vendor denied.

All of it is written in the transaction that ends the run, after the gate has seen that the run is still live.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from crawlfleet.core.database_errors import VALUE_ERRORS, condemns
from crawlfleet.core.transaction import AnyRow, Transaction
from crawlfleet.core.vendor_data import AppList
from crawlfleet.model import feed, range_store
from crawlfleet.model.ending import Ending, replaced_by, result_refused
from crawlfleet.model.feed import FeedKey
from crawlfleet.model.ledger import Ledger
from crawlfleet.model.task_insert import TaskDefaults, add_follow_ups
from crawlfleet.model.task_spec import TaskSpec

log = logging.getLogger(__name__)

MAX_MESSAGE = 2000  # characters of an error that are kept
Tasks = dict[int, Any]  # by task id, what is known of a task whose run ends


def store_all(
    ledger: Ledger,
    endings: Sequence[Ending],
    tasks: Tasks,
    targets: range_store.Targets,
    defaults: TaskDefaults,
) -> list[Ending]:
    """Write what these live runs leave behind; the endings, as failures where the database refused their data."""
    # transactions that touch several feeds write them in one order
    ordered = sorted(endings, key=lambda ending: _feed_of(ending, tasks[ending.task_id]))
    ordered = [_denied(ledger.transaction, ending, tasks[ending.task_id]) for ending in ordered]
    return [
        *_store(ledger, [e for e in ordered if e.writes_data], tasks, targets, defaults),
        *(e for e in ordered if not e.writes_data),
    ]


def _denied(transaction: Transaction, ending: Ending, task: AnyRow) -> Ending:
    """Note what the vendor denies; the ending as one that may pass when that is not believed yet."""
    key = None if ending.outcome.denied is None else _feed_of(ending, task)
    if not key:
        return ending
    reason = (ending.message or "not permitted")[:MAX_MESSAGE]
    is_believed = feed.deny(transaction, FeedKey(*key), reason, ending.outcome.denied_in_words)
    return ending if is_believed else ending.doubted()


def _feed_of(ending: Ending, task: AnyRow) -> FeedKey | tuple[()]:
    """The feed that an ending writes or denies, () when there is none."""
    if ending.outcome.replaces is not None:
        return range_store.lock_key(ending.outcome.replaces)
    if ending.outcome.denied is None:
        return ()
    return _whole_feed(task["source"], task["username"], *ending.outcome.denied) or ()


def _whole_feed(source: str | None, username: str | None, app_id: str | None, report: str | None) -> FeedKey | None:
    """The feed of these four; None when one of them is open."""
    if source is None or username is None or app_id is None or report is None:
        return None
    return FeedKey(source, username, app_id, report)


def _without_denied(transaction: Transaction, ending: Ending, task: AnyRow) -> Ending:
    """The ending without follow-ups for feeds that the vendor denies the account; its summary tells how many.

    Parts of the task's own app stay: that the vendor lets the account have it has just been seen.
    """
    asked = [
        None if spec.app_id == task["app_id"] else _whole_feed(spec.source, spec.username, spec.app_id, spec.report)
        for spec in ending.outcome.follow_ups
    ]
    denied = feed.denied_among(transaction, {key for key in asked if key is not None})
    wanted = [spec for spec, key in zip(ending.outcome.follow_ups, asked, strict=True) if key not in denied]
    if skipped := len(ending.outcome.follow_ups) - len(wanted):
        log.info("left out tasks of denied feeds: task=%d count=%d", ending.task_id, skipped)
        ending = _telling(ending, {"denied_skipped": skipped})
        return replace(ending, outcome=replace(ending.outcome, follow_ups=wanted))
    return ending


def _telling(ending: Ending, told: Mapping[str, int]) -> Ending:
    """The ending with these counts in its summary."""
    summary = json.dumps({**json.loads(ending.outcome.summary or "{}"), **told}, ensure_ascii=False)
    return replace(ending, outcome=replace(ending.outcome, summary=summary))


def _check_fan_out(transaction: Transaction, ending: Ending, task: AnyRow) -> None:
    """Raise AppsVanished when a task for all apps lists others than those known: its list is not stored, but asked for.

    A task for an app list has been checked when that was stored.
    """
    if ending.outcome.replaces is None and task["task_type"] == "app_data" and task["app_id"] is None:
        listed = {spec.app_id for spec in ending.outcome.follow_ups if spec.app_id is not None}
        if listed:
            range_store.check_apps(transaction, AppList(task["source"], task["username"]), listed)


def _with_label(specs: Sequence[TaskSpec], label: str | None) -> Sequence[TaskSpec]:
    """Follow-ups have the label of their parent unless they name one."""
    if label is None:
        return specs
    return [spec if spec.label is not None else replace(spec, label=label) for spec in specs]


def _store(
    ledger: Ledger,
    endings: Sequence[Ending],
    tasks: Tasks,
    targets: range_store.Targets,
    defaults: TaskDefaults,
) -> list[Ending]:
    """Write rows and follow-ups; what the database refuses makes an ending a failure.

    All within one savepoint, since that takes one round trip; when the database refuses something, each within its own.
    """
    if not endings:
        return []
    try:
        with ledger.transaction.savepoint():
            return [_write_data(ledger, e, tasks[e.task_id], targets, defaults) for e in endings]
    except (sa.exc.DBAPIError, *VALUE_ERRORS) as error:
        if not condemns(ledger.transaction.dialect.family, error):
            raise
        if len(endings) > 1:
            alone: list[Ending] = []
            for ending in endings:
                own = range_store.Targets(ledger.transaction, replaced_by([ending]))
                alone += _store(ledger, [ending], tasks, own, defaults)
            return alone
        [ending] = endings
        log.warning("result refused by the database: task=%d assignment=%d", ending.task_id, ending.assignment_id)
        return [ending.failed(result_refused(error))]


def _write_data(
    ledger: Ledger, ending: Ending, task: AnyRow, targets: range_store.Targets, defaults: TaskDefaults
) -> Ending:
    if ending.outcome.replaces is not None:
        fetched_at = ending.started_at or ledger.now
        scope = ending.outcome.replaces
        fetch_count = ending.fetch_counts.get(range_store.lock_key(scope))
        try:
            kept = range_store.replace_range(
                ledger.transaction, scope, ending.outcome.rows, fetched_at, targets, fetch_count
            )
        except range_store.AppsVanished as doubt:
            return ending.parked(str(doubt))
        if told := kept.as_dict():
            counts = " ".join(f"{name}={count}" for name, count in told.items())
            log.warning("kept what was stored: task=%d assignment=%d %s", ending.task_id, ending.assignment_id, counts)
            ending = _telling(ending, told)
    if ending.outcome.follow_ups:
        try:
            _check_fan_out(ledger.transaction, ending, task)
        except range_store.AppsVanished as doubt:
            return ending.parked(str(doubt))
        ending = _without_denied(ledger.transaction, ending, task)
        specs = _with_label(ending.outcome.follow_ups, task["label"])
        add_follow_ups(ledger, specs, defaults, ending.task_id)
    return ending
