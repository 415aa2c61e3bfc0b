"""Blanks around a name: some databases take 'K1' and 'K1 ' for the same, so nobody may use both."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.errors import PermanentError, UsageError
from crawlfleet.core.vendor_data import App, AppList, Figures, ReportRange
from crawlfleet.executors.contract import TaskResult
from crawlfleet.executors.result import collect
from crawlfleet.model.account import AccountDAO
from crawlfleet.model.ending import Outcome
from crawlfleet.model.task_spec import TaskSpec

DAY = date(2026, 1, 31)


@pytest.mark.parametrize("name", ["username", "app_id", "unique_key"])
@pytest.mark.parametrize("value", ["K1 ", " K1"])
def test_a_task_has_no_blanks_around_its_names(name: str, value: str) -> None:
    """A unique key with a blank behind it ended in a raw error of MariaDB, and was another key elsewhere."""
    with pytest.raises(UsageError, match=f"{name} must not begin or end with a blank"):
        TaskSpec("noop", **{name: value})  # type: ignore[arg-type]
    TaskSpec("noop", **{name: "K 1"})  # type: ignore[arg-type]


def test_an_account_has_no_blanks_around_its_name() -> None:
    with pytest.raises(UsageError, match="username must not begin or end with a blank"):
        AccountDAO(Database("sqlite:///none.db")).add(Account("appsflyer", "alice "))


@pytest.mark.parametrize(
    "result",
    [
        TaskResult(rows=[Figures(DAY)], replaces=ReportRange("s", "u", "app ", "r", DAY, DAY)),
        TaskResult(rows=[App("a ")], replaces=AppList("s", "u")),
    ],
)
def test_a_result_has_no_blanks_around_its_names(result: Any) -> None:
    """Feeds and apps of two spellings were one row, or none, depending on the database."""
    with pytest.raises(PermanentError, match="app_id must not begin or end with a blank"):
        list(collect(result, Outcome()))
