"""What comes from a Dask worker is data: it is checked, and cannot make the node run anything."""

from __future__ import annotations

import os
import pickle
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.endings import EndingKind
from crawlfleet.core.errors import UsageError
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.engines.dask.results import NotAResult, RowReader, outcome_text, read_outcome, row_lines
from crawlfleet.model.ending import Outcome
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.settings.layers import load_settings

DAY = date(2026, 11, 30)
ROW = Figures(
    DAY, "代理", clicks=3, revenue=Decimal("0.10"), dimensions={"ad": None}, extra={"a": [1, {"b": (2.5, True)}]}
)
OUTCOMES = [
    Outcome(rows=[ROW], replaces=ReportRange("s", "u", "a", "r", DAY, DAY, 3, True), summary='{"n": 1}'),
    Outcome(rows=[App("a", "名", extra={"d": DAY})], replaces=AppList("s", "u", by_hand=True)),
    Outcome(follow_ups=[TaskSpec("app_data", "u", "s", start_date=DAY, end_date=DAY, task_data={"k": [1]})]),
    Outcome(follow_ups=(TaskSpec("noop", run_at=datetime(2026, 12, 1, tzinfo=UTC)),)),
    Outcome(EndingKind.QUOTA, "used up", retry_after=1.5, quota_scope="daily", quota_daily=True, calls_wanted=2),
    Outcome(EndingKind.PERMANENT, "not permitted", denied=("a", "r"), denied_in_words=False),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_result_arrives_as_it_was(outcome: Outcome) -> None:
    assert read_outcome(outcome_text(outcome)) == outcome


class Attack:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b"\xff",
        b"9" * 5000,
        b'{"Outcome": []}',
        b'{"Attack": []}',
        b'{"date": "x"}',
        outcome_text(Outcome()).replace(b'"ok"', b'"fine"'),
        outcome_text(Outcome(message="m")).replace(b'"m"', b"[1]"),
        outcome_text(Outcome(retry_after=1.0)).replace(b"1.0", b"NaN"),
        outcome_text(Outcome(rows=[ROW])).replace(b"Figures", b"tuple"),
        outcome_text(Outcome(follow_ups=[TaskSpec("noop")])).replace(b'"noop"', b'"no such; type"'),
    ],
)
def test_what_is_no_result_is_refused(text: bytes) -> None:
    with pytest.raises(NotAResult):
        read_outcome(text)


def test_nothing_that_comes_is_unpickled(tmp_path: Path) -> None:
    """Who could write to the Dask scheduler ran code on the node, with its database and its key."""
    attack = pickle.dumps(Attack(tmp_path / "here"))
    with pytest.raises(NotAResult):
        read_outcome(attack)
    with pytest.raises(NotAResult):
        RowReader().read(attack + b"\n")
    assert not (tmp_path / "here").exists()


def test_rows_come_in_pieces_that_are_cut_anywhere() -> None:
    rows = [Figures(DAY, clicks=number) for number in range(50)]
    lines, reader = row_lines(rows), RowReader()
    found = [row for start in range(0, len(lines), 7) for row in reader.read(lines[start : start + 7])]
    assert found == rows
    with pytest.raises(NotAResult, match="rows of one kind"):
        RowReader().read(row_lines([App("a")]) + row_lines(rows))


def test_a_value_that_json_cannot_hold_is_not_sent() -> None:
    with pytest.raises(TypeError, match="a function cannot be sent"):
        outcome_text(Outcome(rows=[Figures(DAY, extra={"f": lambda: None})]))


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("tcp://127.0.0.1:8786", True),
        ("tcp://[::1]:8786", True),
        ("tcp://localhost:8786", True),
        ("tls://scheduler:8786", True),
        ("tcp://scheduler:8786", False),
        ("ws://10.0.0.1:8786", False),
        ("tcp://127.0.0.1.evil:8786", False),
    ],
)
def test_a_scheduler_of_another_machine_is_reached_with_tls(address: str, fits: bool) -> None:
    """Tokens travelled over tcp:// to any machine."""
    given = {"engine": "dask", "dask_scheduler": address, "device_id": "d"}
    if not fits:
        with pytest.raises(UsageError, match="is not encrypted, and tokens travel there: use tls://HOST:PORT"):
            load_settings(None, given, environ={})
        given["dask_without_tls"] = True
    assert load_settings(None, given, environ={}).dask_scheduler == address
