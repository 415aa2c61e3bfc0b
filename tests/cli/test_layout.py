"""Lines for a terminal, as functions of texts and a width."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len

from crawlfleet.cli.layout import table_lines, wrapped
from crawlfleet.cli.moments import Screen


def lines(columns: str, rows: list[list[str]], width: int = 40, prose: tuple[str, ...] = ()) -> list[str]:
    return list(table_lines(columns.split(), rows, {0}, width, prose))


def test_columns_are_aligned_where_a_chinese_character_takes_two() -> None:
    assert lines("id name note", [["1", "苹果", "a"], ["22", "x", "b"]]) == [
        "id  name  note",
        " 1  苹果  a",
        "22  x     b",
    ]


def test_a_column_without_a_value_is_left_out() -> None:
    assert lines("id empty note", [["1", "", "a"], ["2", "", ""]]) == ["id  note", " 1  a", " 2"]


def test_prose_goes_below_before_any_fact() -> None:
    rows = [["1", "no such application here", "com.example.app"], ["2", "", "com.example.other"]]
    assert lines("id error app", rows, 40, ("error",)) == [
        "id  app",
        " 1  com.example.app",
        "    error: no such application here",
        " 2  com.example.other",
    ]
    assert lines("id error app", rows, 60, ("error",))[0] == "id  error                     app"


def test_one_wide_value_goes_below_and_its_column_stays() -> None:
    rows = [[str(number), f"app{number}", "failed"] for number in range(1, 5)]
    rows[2][1] = "com.example.a.longer.name"
    assert lines("id app status", rows, 35) == [
        "id  app               status",
        " 1  app1              failed",
        " 2  app2              failed",
        " 3  …                 failed",
        "    app: com.example.a.longer.name",
        " 4  app4              failed",
    ]


def test_the_last_columns_go_below_where_all_are_wide() -> None:
    rows = [[str(number), "a" * 14, "b" * 14, "c" * 5] for number in range(2)]
    assert lines("id a b c", rows, 30) == [
        "id  a               c",
        " 0  aaaaaaaaaaaaaa  ccccc",
        "    b: bbbbbbbbbbbbbb",
        " 1  aaaaaaaaaaaaaa  ccccc",
        "    b: bbbbbbbbbbbbbb",
    ]


def test_a_wide_name_stands_above_its_rows_once() -> None:
    name = "a-device-with-a-long-name"
    rows = [[name, "running", "x" * 14], [name, "done", "y" * 14], ["d2", "done", "z" * 14]]
    assert list(table_lines(["device", "state", "what"], rows, (), 38)) == [
        "device        state    what",
        name,
        "              running  xxxxxxxxxxxxxx",
        "              done     yyyyyyyyyyyyyy",
        "d2            done     zzzzzzzzzzzzzz",
    ]


@pytest.mark.parametrize("width", [1, 20, 37, 80])
def test_no_text_is_lost_and_none_is_too_wide(width: int) -> None:
    text = "从2026-01-01到2026-01-31，没有 com.example.app 的数据: 😀 e\u0301 " + "x" * 90
    found = list(wrapped(text, width))
    assert max(map(cell_len, found)) <= max(width, 20)
    assert "".join("".join(found).split()) == "".join(text.split())
    for whole in ("2026-01-01", "2026-01-31", "com.example.app"):
        assert any(whole in line for line in found)
    assert not any(line.lstrip().startswith("，") for line in found)


def test_a_word_that_needs_the_whole_line_gets_it() -> None:
    word = "w" * 28
    assert list(wrapped(f"error: {word}", 30)) == ["error:", word]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "now"),
        (12, "12 s ago"),
        (89, "89 s ago"),
        (100, "2 min ago"),
        (3 * 3600, "3 h ago"),
        (3 * 86_400, "3 days ago"),
        (-700, "in 12 min"),
        (-40 * 3600, "in 2 days"),
    ],
)
def test_a_moment_near_now_is_told_by_its_distance(seconds: float, text: str) -> None:
    screen = Screen()
    moment = datetime.now(UTC) - timedelta(seconds=seconds + (0.05 if seconds < 0 else 0))
    assert screen.ago(moment) == text
    assert screen.zone_note() is None, "no zone is needed"


def test_a_moment_far_away_is_told_by_its_date_of_the_zone() -> None:
    screen = Screen()
    moment = datetime.now(UTC) - timedelta(days=15)
    assert screen.ago(moment) == screen.local_time(moment)[:10]
    note = screen.zone_note()
    assert note is not None
    assert note.startswith("times are in UTC")
    assert screen.zone_note() is None, "it is named once"
