"""Values of vendors, made fit for every database."""

from __future__ import annotations

from decimal import Decimal

import pytest

from crawlfleet.sources.values import amount, plain, storable, whole_number


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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("10.000", 10),
        ("1.2345678E7", 12345678),
        ("1.2e+1", 12),
        ("120E-1", 12),
        ("9223372036854775807", 2**63 - 1),
        ("0E999", 0),
        (".0", 0),
    ],
)
def test_counts_are_read_in_any_notation_that_is_exact(text, value):
    """One digit of exponent was taken and two were not, and a whole range was lost for good."""
    assert whole_number(text) == value


@pytest.mark.parametrize("text", ["1.5", "1e-1", "1.0E-10", "9223372036854775808", "1e19", "1e9999", "1e-9999"])
def test_what_is_no_whole_number_of_64_bits_is_no_count(text):
    with pytest.raises(ValueError, match="whole number that fits 64 bits"):
        whole_number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5000", "0.5000"),
        ("-3", "-3"),
        ("1.2E10", "12000000000"),
        ("1.0E-10", "0.00000000010"),
        ("5.", "5"),
        ("9.99E17", "999000000000000000"),
        ("123456789012345678.12345678901234567890",) * 2,
        ("0E300", "0"),
        ("5.551115123125783E-17", "0.00000000000000005551"),
        ("1e-9999", "0E-20"),
    ],
)
def test_amounts_are_read_in_any_notation_with_all_digits_that_count(text, value):
    assert str(amount(text)) == str(Decimal(value))


@pytest.mark.parametrize("text", ["1e18", "-1E9999", "1" + "0" * 18])
def test_an_amount_beyond_the_tables_is_refused(text):
    with pytest.raises(ValueError, match="at most 18 digits before the point"):
        amount(text)


@pytest.mark.parametrize(
    "text", ["", ".", "1,5", "1 000", "NaN", "Infinity", "0x1", "1e", "1e99999", "\u0661", "1" * 101]
)
def test_what_is_no_number_is_neither(text):
    for read in (whole_number, amount):
        with pytest.raises(ValueError, match="it must be a number"):
            read(text)
