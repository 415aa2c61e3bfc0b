"""`data export`: three formats, exact values, and a file that is either complete or not there."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.cli.data import export_formats
from crawlfleet.cli.data.export_formats import COLUMNS, WRITERS, write_parquet
from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import Figures, ReportRange
from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from tests.cli.console import Console, Said
from tests.stored_figures import add_days, store
from tests.waiting import wait_until

DAY, NEXT = date(2026, 1, 1), date(2026, 1, 2)
AMOUNT = Decimal("12345678.123456")  # SQLite holds no more digits
FULL = Figures(
    DAY,
    agency='a "quoted", agency',
    media_source="渠道",
    campaign="two\nlines",
    country="US",
    impressions=2**62,
    clicks=0,
    installs=-1,
    revenue=AMOUNT,
    cost=Decimal("0.1"),
    dimensions={"adset": "ß"},
    extra={"ROI": "1.50"},
)
EXTRA = {"adset": "ß", "ROI": "1.50"}


def fill(db: Database) -> None:
    store(db, ReportRange("appsflyer", "u", "a", "r", DAY, NEXT), [FULL, Figures(NEXT)])
    add_days(db, "b", NEXT, [1], username="李")


def export(console: Console, path: Path, *options: object) -> Said:
    said = console("data", "export", "--format", path.suffix[1:], "--output", path, *options)
    assert (said.code, said.out) == (0, "")
    return said


def test_csv_is_exact(any_console: Console, tmp_path: Path) -> None:
    any_console.on_database(fill)
    said = export(any_console, tmp_path / "f.csv")
    assert f"exported 3 rows to {tmp_path}/f.csv" in said.err
    text = (tmp_path / "f.csv").read_text(encoding="utf-8")
    assert text.startswith(",".join(COLUMNS) + "\n")
    full, empty, other = csv.DictReader(io.StringIO(text, newline=""))
    assert (full["agency"], full["media_source"], full["campaign"]) == (FULL.agency, "渠道", "two\nlines")
    assert (full["date"], full["impressions"], full["clicks"], full["installs"]) == (
        "2026-01-01",
        str(2**62),
        "0",
        "-1",
    )
    assert (Decimal(full["revenue"]), Decimal(full["cost"])) == (AMOUNT, Decimal("0.1"))
    assert json.loads(full["extra"]) == EXTRA
    assert "ß" in full["extra"]
    assert {name: value for name, value in empty.items() if value} == {
        "source": "appsflyer",
        "username": "u",
        "app_id": "a",
        "report": "r",
        "date": "2026-01-02",
        "currency": "unknown",
    }
    assert other["username"] == "李"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\uff1d1", "'\uff1d1"),
        (" \t=1", "' \t'=1"),
        ("a;=1", "a;'=1"),
        ("a\n=1", "a\n'=1"),
        ("a=1 - b", "a=1 - b"),
        ("渠道", "渠道"),
    ],
)
def test_no_text_becomes_a_formula_in_a_spreadsheet(text: str, safe: str) -> None:
    """A campaign named by a stranger ran as a formula on the machine of who opened the export."""
    row = dict.fromkeys(COLUMNS) | {"date": DAY, "campaign": text, "installs": -1, "revenue": Decimal(-2)}
    row["extra"] = {"adset": "x;=1"}
    file = io.BytesIO()
    assert export_formats.write_safe_csv([row], file) == 1
    [cells] = csv.DictReader(io.StringIO(file.getvalue().decode(), newline=""))
    assert cells["campaign"] == safe
    assert (cells["installs"], cells["revenue"], json.loads(cells["extra"])) == ("-1", "-2", {"adset": "x;'=1"})


def test_a_safe_export_is_asked_for_and_only_of_csv(ready: Console, tmp_path: Path) -> None:
    ready.on_database(fill)
    export(ready, tmp_path / "f.csv", "--spreadsheet-safe")
    assert "two\nlines" in (tmp_path / "f.csv").read_text(encoding="utf-8")
    said = ready("data", "export", "--format", "jsonl", "--spreadsheet-safe")
    assert (said.code, "--spreadsheet-safe is for --format csv" in said.err) == (2, True)


def test_json_lines_are_the_rows_of_data_rows(any_console: Console, tmp_path: Path) -> None:
    any_console.on_database(fill)
    export(any_console, tmp_path / "f.jsonl")
    lines = (tmp_path / "f.jsonl").read_text(encoding="utf-8").splitlines()
    exact: dict[str, Any] = {"parse_float": Decimal}
    assert [json.loads(line, **exact) for line in lines] == json.loads(
        any_console("data", "rows", "--json").out, **exact
    )
    first = json.loads(lines[0], **exact)
    assert (first["revenue"], first["extra"], list(first)) == (AMOUNT, EXTRA, list(COLUMNS))


def test_parquet_has_exact_types(any_console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    monkeypatch.setattr(export_formats, "PARQUET_ROWS", 2)
    any_console.on_database(fill)
    export(any_console, tmp_path / "f.parquet")
    table = parquet.read_table(tmp_path / "f.parquet")
    kinds = {name: pa.string() for name in COLUMNS} | {"date": pa.date32()}
    kinds |= {name: pa.int64() for name in ("impressions", "clicks", "installs", "sessions", "loyal_users")}
    kinds |= {name: pa.decimal128(24, 6) for name in ("revenue", "cost")}
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == kinds
    full, empty, other = table.to_pylist()
    assert (full["date"], full["impressions"], full["revenue"]) == (DAY, 2**62, AMOUNT)
    assert (full["campaign"], json.loads(full["extra"])) == ("two\nlines", EXTRA)
    assert {value for name, value in empty.items() if name not in (*COLUMNS[:5], "currency")} == {None}
    assert other["username"] == "李"


def test_parquet_holds_every_decimal_that_a_table_holds() -> None:
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    largest = Decimal("999999999999999999.999999")
    row = dict.fromkeys(COLUMNS) | {"source": "s", "date": DAY, "revenue": largest, "cost": -largest}
    file = io.BytesIO()
    assert write_parquet([row], file) == 1
    [found] = parquet.read_table(file).to_pylist()
    assert (found["revenue"], found["cost"]) == (largest, -largest)


def test_exports_are_filtered_as_rows_are(ready: Console, tmp_path: Path) -> None:
    ready.on_database(fill)
    for options, expected in (
        (["--username", "李"], ["b"]),
        (["--app-id", "a", "--start-date", "2026-01-02"], ["a"]),
        (["--end-date", "2026-01-01"], ["a"]),
        (["--source", "other"], []),
    ):
        said = ready("data", "export", "--format", "jsonl", *options)
        assert [json.loads(line)["app_id"] for line in said.out.splitlines()] == expected


@pytest.mark.parametrize("name", list(WRITERS))
def test_an_export_of_nothing_is_a_valid_file(ready: Console, tmp_path: Path, name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    assert "exported 0 rows" in export(ready, tmp_path / f"f.{name}").err
    content = (tmp_path / f"f.{name}").read_bytes()
    assert (content == (",".join(COLUMNS) + "\n").encode()) if name == "csv" else (content[:4] in (b"", b"PAR1"))


def test_a_file_that_exists_is_only_replaced_with_force(ready: Console, tmp_path: Path) -> None:
    ready.on_database(fill)
    path = tmp_path / "f.csv"
    path.write_text("mine")
    error = ready.refuses(2, "data", "export", "--format", "csv", "--output", path)
    assert "--force" in error
    assert path.read_text() == "mine"
    export(ready, path, "--force")
    assert path.read_text(encoding="utf-8").startswith("source,")


def test_only_files_are_replaced(ready: Console, tmp_path: Path) -> None:
    for place in (tmp_path, "/dev/null"):
        assert "must name a file" in ready.refuses(2, "data", "export", "--format", "csv", "--output", place, "--force")
    error = ready.refuses(1, "data", "export", "--format", "csv", "--output", tmp_path / "no" / "f.csv")
    assert "cannot write" in error
    assert "No such file" in error


@pytest.mark.parametrize("name", list(WRITERS))
def test_an_export_that_breaks_off_leaves_nothing_behind(
    ready: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ready.on_database(fill)
    before = sorted(tmp_path.iterdir())

    def broken(*_args: object) -> Iterator[dict[str, Any]]:
        yield dict.fromkeys(COLUMNS)
        raise OSError("the cable was pulled")

    monkeypatch.setattr(stored_rows, "data_rows", broken)
    assert "the cable was pulled" in ready.refuses(1, "data", "export", "--format", name, "--output", tmp_path / "f")
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_that_is_ended_leaves_nothing_behind(ready: Console, tmp_path: Path) -> None:
    """A pipe that nobody writes, in place of the figures, holds a real process in the middle of its file."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = (
        "import sys\n"
        "from crawlfleet.cli.main import main\n"
        "from crawlfleet.insights import stored_rows\n"
        f"stored_rows.data_rows = lambda *_: (open({str(gate)!r}) for _ in range(1))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = ["data", "export", "--format", "csv", "--output", str(folder / "f.csv"), "--database", ready.url]
    child = subprocess.Popen([sys.executable, "-c", program, *arguments])
    wait_until(lambda: any(folder.iterdir()))
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 128 + signal.SIGTERM
    assert list(folder.iterdir()) == []


def test_an_export_to_stdout_is_read_page_by_page(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    ready.on_database(lambda db: add_days(db, "a", DAY, [10]))
    monkeypatch.setattr(stored_rows, "PAGE_ROWS", 4)
    pages: list[int] = []
    read_page = stored_rows._page
    monkeypatch.setattr(stored_rows, "_page", lambda db, query: pages.append(1) or read_page(db, query))
    read_at = []

    class Watched(io.BytesIO):
        def write(self, content: Any) -> int:
            read_at.append(len(pages))
            return super().write(content)

    def write(db: Database) -> None:
        WRITERS["jsonl"](stored_rows.data_rows(db, FeedFilter()), Watched())

    ready.on_database(write)
    assert read_at == [1] * 4 + [2] * 4 + [3] * 2


def test_without_pyarrow_the_install_line_is_named(
    ready: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = ready.refuses(2, "data", "export", "--format", "parquet", "--output", tmp_path / "f.parquet")
    assert "pip install 'crawlfleet[parquet]'" in error
    assert not (tmp_path / "f.parquet").exists()


def test_parquet_does_not_go_to_a_terminal(ready: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "--output" in ready.refuses(2, "data", "export", "--format", "parquet")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--format", "xml"], ["'xml'", "csv, jsonl, parquet"]),
        ([], ["--format"]),
        (["--format", "csv", "--start-date", "2026-02-02", "--end-date", "2026-02-01"], ["2026-02-02", "2026-02-01"]),
    ],
)
def test_wrong_usage_is_explained(ready: Console, options: list[str], parts: list[str]) -> None:
    error = ready.refuses(2, "data", "export", *options)
    assert [part for part in parts if part not in error] == [], error
