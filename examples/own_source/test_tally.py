"""Tally as a source, tried against its stand-in: `python -m pytest`."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from crawlfleet_tally import Tally
from fake_tally import APPS, FakeTally

from crawlfleet import Account, AuthError, Figures, NotPermitted, QuotaError, SourceSettings, Uncancelled

DAY = date(2026, 3, 1)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.setenv("TALLY_TOKEN", "any")
    return Account("tally", "acme", token_env="TALLY_TOKEN")


def test_figures_are_read_and_what_the_vendor_does_not_tell_is_none(account: Account) -> None:
    with FakeTally() as vendor:
        source = Tally(SourceSettings(base_url=vendor.base_url))
        rows = list(source.fetch_app_data(account, "chess", "daily", DAY, DAY, Uncancelled()))
    assert rows == [
        Figures(DAY, media_source="north", installs=6, cost=Decimal("12.50")),
        Figures(DAY, media_source="south", installs=6, cost=None),
    ]


def test_a_used_up_quota_says_how_long_to_wait(account: Account) -> None:
    with FakeTally(calls=1) as vendor:
        source = Tally(SourceSettings(base_url=vendor.base_url))
        assert [app.app_id for app in source.list_apps(account, Uncancelled())] == list(APPS)
        with pytest.raises(QuotaError) as refused:
            source.list_apps(account, Uncancelled())
    assert refused.value.scope == "calls"
    assert 50 < (refused.value.retry_after or 0) <= 60


def test_a_wrong_token_and_a_foreign_app_are_told_apart(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTally() as vendor:
        source = Tally(SourceSettings(base_url=vendor.base_url))
        with pytest.raises(NotPermitted, match="answered 404"):
            list(source.fetch_app_data(account, "foreign", "daily", DAY, DAY, Uncancelled()))
        monkeypatch.setenv("TALLY_TOKEN", "wrong")
        with pytest.raises(AuthError):
            source.list_apps(account, Uncancelled())
