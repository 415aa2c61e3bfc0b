"""Files of figures: CSV, JSON lines and Parquet, written while the rows arrive.

Each writer takes the rows of `insights.stored_rows.data_rows` and a binary file, and returns how many rows it wrote. It
holds at most PARQUET_ROWS of them in memory.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, BinaryIO

from crawlfleet.core.errors import UsageError
from crawlfleet.core.vendor_data import AMOUNTS, COUNTS, CURRENCY, DIMENSIONS

Row = Mapping[str, Any]
Writer = Callable[[Iterable[Row], BinaryIO], int]

TEXTS = ("source", "username", "app_id", "report", "date", *DIMENSIONS)
COLUMNS = (*TEXTS, *COUNTS, *AMOUNTS, CURRENCY, "extra")  # of v_app_data
AMOUNT_DIGITS = (24, 6)  # as the tables have them
PARQUET_ROWS = 20_000  # of a row group: each takes about 1 KB of memory until it is written
# Blanks and quotes, from their first one, with a sign behind them that makes a formula of a cell, half or full width.
BEFORE_SIGN = re.compile(r"(?<![\s'\"])[\s'\"]*+(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
SEPARATOR = re.compile(r"[\t\r\n]")

_encode = json.JSONEncoder(ensure_ascii=False).encode


def write_csv(rows: Iterable[Row], file: BinaryIO) -> int:
    """Write UTF-8 with a header and line feeds. A missing value is empty, `extra` is JSON."""
    writer = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for row in rows:
        writer.writerow(_csv_cells(row))
        count += 1
    return count


def write_safe_csv(rows: Iterable[Row], file: BinaryIO) -> int:
    """Write CSV in which no text is a formula to a spreadsheet: an apostrophe stands before what would begin one."""
    return write_csv(({name: _no_formula(value) for name, value in row.items()} for row in rows), file)


def _no_formula(value: Any) -> Any:
    if isinstance(value, str):
        return BEFORE_SIGN.sub(_quoted, value)
    if isinstance(value, Mapping):  # its JSON begins with a brace, but may hold what separates cells
        return {_no_formula(key): _no_formula(item) for key, item in value.items()}
    return value


def _quoted(found: re.Match[str]) -> str:
    """The blanks with a quote where a cell begins, also for a spreadsheet that separates by semicolons or tabs."""
    begins = found.start() == 0 or found.string[found.start() - 1] == ";"
    return "'" * begins + SEPARATOR.sub(r"\g<0>'", found[0])


def _csv_cells(row: Row) -> list[Any]:
    amounts = (None if row[name] is None else format(row[name], "f") for name in AMOUNTS)
    return [*(row[name] for name in (*TEXTS, *COUNTS)), *amounts, row[CURRENCY], _json_text(row["extra"])]


def write_jsonl(rows: Iterable[Row], file: BinaryIO) -> int:
    """Write one object a line, as `data rows --json` has them: decimals are numbers with all their digits."""
    count = 0
    for row in rows:
        members = ", ".join(f'"{name}": {_json(row[name])}' for name in COLUMNS)
        file.write(f"{{{members}}}\n".encode())
        count += 1
    return count


def _json(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")  # json would make it a float and lose digits
    return _encode(value.isoformat() if isinstance(value, date) else value)


def write_parquet(rows: Iterable[Row], file: BinaryIO) -> int:
    """Write texts, `date` as date32, counts as int64, amounts as decimal128(24, 6), `extra` as JSON text.

    Raises UsageError when pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UsageError("--format parquet needs pyarrow: pip install 'crawlfleet[parquet]'") from None
    kinds = dict.fromkeys((*TEXTS, CURRENCY, "extra"), pa.string())
    kinds |= {"date": pa.date32()} | dict.fromkeys(COUNTS, pa.int64())
    kinds |= dict.fromkeys(AMOUNTS, pa.decimal128(*AMOUNT_DIGITS))
    schema = pa.schema([(name, kinds[name]) for name in COLUMNS])
    iterator, count = iter(rows), 0
    with parquet.ParquetWriter(file, schema) as writer:
        while batch := list(itertools.islice(iterator, PARQUET_ROWS)):
            columns = {name: [row[name] for row in batch] for name in COLUMNS}
            columns["extra"] = [_json_text(value) for value in columns["extra"]]
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema))
            count += len(batch)
    return count


def _json_text(value: Any) -> str | None:
    return None if value is None else _encode(value)


WRITERS: Mapping[str, Writer] = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}
