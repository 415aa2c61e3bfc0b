"""`data export`: figures as a file of CSV, JSON lines or Parquet."""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from crawlfleet.cli.data.export_formats import WRITERS, Row, write_safe_csv
from crawlfleet.cli.data.filters import (
    add_account_filters,
    add_app_filters,
    add_day_filters,
    check_days,
    filtered_database,
)
from crawlfleet.cli.output import Advance, progress, say
from crawlfleet.cli.streams import output_lost
from crawlfleet.core.errors import CrawlfleetError, UsageError

STDOUT = "-"
COUNTED_AT_ONCE = 1000  # rows between two steps of the progress


def run_export(args: argparse.Namespace) -> int:
    """Write the stored figures that the options choose to a file."""
    from crawlfleet.insights.coverage import stored_rows
    from crawlfleet.insights.stored_rows import data_rows

    start, end = check_days(args)
    if args.spreadsheet_safe and args.format != "csv":
        raise UsageError(f"--spreadsheet-safe is for --format csv (got {args.format}): leave it out")
    write = write_safe_csv if args.spreadsheet_safe else WRITERS[args.format]
    with filtered_database(args) as (db, wanted), _sink(args) as file:
        rows = data_rows(db, wanted, start, end)
        if args.output == STDOUT:
            write(rows, file)
            return 0
        with progress(stored_rows(db, wanted, start, end), "exported rows") as advance:
            count = write(_counted(rows, advance), file)
    say(f"exported {count} rows to {args.output}")
    return 0


def _counted(rows: Iterable[Row], advance: Advance) -> Iterator[Row]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, COUNTED_AT_ONCE)):
        yield from batch
        advance(len(batch))


@contextmanager
def _sink(args: argparse.Namespace) -> Iterator[BinaryIO]:
    """Open what the export writes to. A complete file gets its name; an export that breaks off leaves nothing.

    Raises UsageError for a place that is taken or no file, CrawlfleetError for one that cannot be written.
    """
    if args.output == STDOUT:
        if args.format == "parquet" and sys.stdout.isatty():
            raise UsageError("a Parquet file would garble the terminal: name a file with --output")
        with output_lost():
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    path = Path(args.output).resolve()
    unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"--output must name a file (got {args.output})")
        if path.exists() and not args.force:
            raise UsageError(f"{args.output} exists: name another file, or replace it with --force")
        with _undone(unfinished), unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(path)
    except OSError as error:
        raise CrawlfleetError(f"cannot write {args.output}: {error.strerror or error}") from None


@contextmanager
def _undone(unfinished: Path) -> Iterator[None]:
    """Remove the file when the block fails, also when SIGTERM ends it."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        unfinished.unlink(missing_ok=True)  # has another name by now when all went well


def add_parser(subparsers: Any) -> None:
    """Add `data export`."""
    parser = subparsers.add_parser("export", help="write the stored figures to a file")
    parser.add_argument("--format", metavar="F", required=True, choices=list(WRITERS), help=", ".join(WRITERS))
    parser.add_argument(
        "--output", metavar="FILE", default=STDOUT, help="file to write; - is standard output (default)"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    parser.add_argument(
        "--spreadsheet-safe",
        action="store_true",
        help="with csv: let no text be taken for a formula",
    )
    add_account_filters(parser)
    add_app_filters(parser)
    add_day_filters(parser)
    parser.set_defaults(run=run_export)
