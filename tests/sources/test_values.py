"""Values of vendors, made fit for every database."""

from __future__ import annotations

import pytest

from crawlfleet.sources.values import plain, storable


def test_text_that_some_database_refuses_is_changed():
    assert storable("春节 🙂 a\0b\ud800c") == "春节 🙂 a\ufffdb?c"


@pytest.mark.parametrize("value", [None, True, 0, -(2**63) + 1, 2**63 - 1, 4.5, "x", [], ["a", [1, None]]])
def test_plain_values_stay_as_they_are(value):
    assert plain(value) == value


@pytest.mark.parametrize("value", [{}, [{}], float("nan"), float("inf"), [float("-inf")], 2**63, b"x", object()])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="it must be text"):
        plain(value)


def test_text_in_a_list_is_made_storable():
    assert plain(["a\0"]) == ["a\ufffd"]
