"""Text from outside: what it costs to look through, and what of it is shown."""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import crawlfleet
from crawlfleet.core import logs
from crawlfleet.core.logs import MAX_CHARACTERS, LineFormatter, hide, redact
from crawlfleet.core.printable import printable
from tests.core.test_logs import restored_logging  # noqa: F401

ATOMS = (
    *(
        "://a:",
        "://a:@",
        "://",
        "authorization:'",
        "authorization ",
        "authorization: bearer ",
        "bearer ",
        "'",
        "Limit ",
    ),
    *(
        "a",
        "0",
        " ",
        ".",
        "(",
        "(a",
        "\\",
        "\\u0000",
        "${",
        "${A",
        "-",
        "a.",
        "a-",
        "_",
        "/",
        "\n",
        "\t",
        "1e",
        "reached ",
    ),
)
AT_THE_BEGINNING = {"RAW_NAME_IN_CAPTION", "DASK_ADDRESS"}  # patterns that are only tried there
FAST_SECONDS = 0.02  # below it a busy machine decides, and nothing is quadratic


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Every pattern that a module of the package keeps."""
    for module in pkgutil.walk_packages(crawlfleet.__path__, "crawlfleet."):
        if ".migrations" in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
                yield f"{module.name}.{name}", value


def try_pattern(name: str, pattern: re.Pattern[str], text: str) -> object:
    at_the_beginning = name.rpartition(".")[2] in AT_THE_BEGINNING
    return pattern.match(text) if at_the_beginning else pattern.sub("", text)


def cpu_seconds(work: Callable[[str], object], text: str) -> float:
    best = 1e9
    for _ in range(3):
        began = time.thread_time()
        work(text)
        best = min(best, time.thread_time() - began)
    return best


def grows_faster_than_its_input(work: Callable[[str], object], atom: str) -> bool:
    once, twice = atom * (20_000 // len(atom)), atom * (40_000 // len(atom))
    seconds = cpu_seconds(work, twice)
    return seconds > FAST_SECONDS and seconds > 3 * cpu_seconds(work, once)


def test_no_pattern_takes_four_times_as_long_for_twice_the_input() -> None:
    """An error that repeated `://a:` froze a node for half a minute: looking for passwords was quadratic."""
    slow = [
        (name, atom)
        for name, pattern in {value.pattern: (name, value) for name, value in patterns()}.values()
        for atom in ATOMS
        if grows_faster_than_its_input(partial(try_pattern, name, pattern), atom)
    ]
    assert slow == []


@pytest.mark.parametrize("atom", ATOMS)
def test_keeping_secrets_out_takes_linear_time(atom: str) -> None:
    assert not grows_faster_than_its_input(logs._redact, atom)
    assert not grows_faster_than_its_input(printable, atom)


def test_a_text_is_cut_before_it_is_looked_through() -> None:
    text = redact("x" * 10_000_000)
    assert len(text) == MAX_CHARACTERS
    assert text.count("…") == 1


@pytest.mark.parametrize("shift", range(0, 40, 3))
def test_no_part_of_a_secret_shows_where_a_long_text_is_cut(shift: int) -> None:
    hide("s3cr3t-token-value")
    head = MAX_CHARACTERS // 3
    for secret in ("s3cr3t-token-value", "mysql://u:s3cr3t-password@h/d", "Authorization: Bearer s3cr3t-bearer"):
        text = "x" * (head - shift) + secret + "y" * MAX_CHARACTERS
        assert "s3c" not in redact(text)
        assert "s3c" not in redact(text[::-1].replace(secret[::-1], secret))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("代理状态: 关闭 é 👩‍👩‍👧 　x", "代理状态: 关闭 é 👩‍👩‍👧 　x"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x9b31m\x07", r"\x1b[2J\x9b31m\x07"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("\u2028\u2029\x85\ufeff", r"\u2028\u2029\x85\ufeff"),
        ("a\u00a0b\udc80", r"a b\udc80"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_no_text_forges_a_line_of_the_log() -> None:
    import logging

    forged = "bad name\n2026-12-01 00:00:00,000 [INFO] services.node - all is well\x1b[1A\r"
    try:
        raise ValueError(forged)
    except ValueError as error:
        cause = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("crawlfleet.x", logging.ERROR, "x.py", 1, "%s", (forged,), cause)
    lines = LineFormatter().format(record).splitlines()
    assert [line for line in lines if not line.startswith("    ")] == lines[:1]
    assert "\x1b" not in "".join(lines)
    assert any("Traceback" in line for line in lines)
