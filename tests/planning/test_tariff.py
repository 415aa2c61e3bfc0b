"""What tasks cost."""

from __future__ import annotations

from datetime import date

from crawlfleet.executors.registry import executors
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.planning.tariff import Tariff


def test_the_default_report_has_one_budget_whether_a_task_names_it_or_not() -> None:
    tariff = Tariff({}, executors)
    days = {"start_date": date(2026, 3, 1), "end_date": date(2026, 3, 1)}
    names = (None, "partners_by_date_report", "daily_report")
    unnamed, named, other = (
        tariff.cost_of(TaskSpec("app_data", "u", "appsflyer", "a", report=name, **days))  # type: ignore[arg-type]
        for name in names
    )
    assert unnamed == named != other
