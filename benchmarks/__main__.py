"""The command line: which benchmarks, which size, which databases; a table for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.frame import SIZES, Measured, measure
from benchmarks.place import fresh_place
from benchmarks.suite import SUITE
from crawlfleet import __version__
from tests.server_park import ParkVisitor, ServerMissing, ServerPark
from tests.servers import FLAVOURS, SharedServer

FOLDER = Path(__file__).parent.parent / ".bench"
DATABASES = ("sqlite", *FLAVOURS)


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Run what was asked for; 1 when a database server is missing."""
    args = build_parser().parse_args(arguments)
    databases = DATABASES if args.database == "all" else (args.database,)
    park = ServerPark(durable=True)
    try:
        servers = {name: None if name == "sqlite" else start_server(park, name) for name in databases}
        folder.mkdir(exist_ok=True)
        run(args.size, args.only or [each.name for each in SUITE], servers, folder)
    except ServerMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    finally:
        park.close()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options; the help tells what each benchmark measures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure crawlfleet on this machine.",
        epilog="\n\n".join(f"{each.name}: {each.says}" for each in SUITE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="how much work (default: small)")
    parser.add_argument(
        "--only",
        action="append",
        choices=[each.name for each in SUITE],
        metavar="NAME",
        help="run this benchmark; may be repeated (default: all)",
    )
    parser.add_argument(
        "--database", choices=[*DATABASES, "all"], default="sqlite", help="where to run (default: sqlite)"
    )
    return parser


def start_server(park: ServerPark, name: str) -> SharedServer:
    """A private server of this kind, for this run; raises ServerMissing."""
    return ParkVisitor(park).shared(FLAVOURS[name])


def run(size: str, names: Sequence[str], servers: Mapping[str, SharedServer | None], folder: Path) -> None:
    """Measure, print the table; the JSON file grows with each benchmark, so that an interrupted run is not lost."""
    began_at = datetime.now(UTC)
    path = folder / f"{began_at:%Y-%m-%dT%H-%M-%S}.json"
    load = [os.getloadavg()[0]]
    found: list[Measured] = []
    for benchmark in SUITE:
        if benchmark.name in names:
            for database, server in servers.items():
                if server is None and benchmark.needs_server:
                    print(f"{benchmark.name} needs a server: choose another --database", file=sys.stderr)
                    continue
                print(f"{benchmark.name} on {database} ...", file=sys.stderr)
                found += measure(benchmark, size, database, partial(fresh_place, folder, server))
            load.append(os.getloadavg()[0])
            path.write_text(json.dumps(as_json(size, began_at, load, found), indent=2) + "\n", encoding="utf-8")
    Console().print(as_table(size, list(servers), found))
    print(f"load of the machine: {min(load):.1f} to {max(load):.1f}; every value: {path}", file=sys.stderr)


def as_table(size: str, databases: Sequence[str], found: Sequence[Measured]) -> Table:
    """Medians: one line for each figure, one column for each database."""
    table = Table("benchmark", "figure", title=f"size {size}")
    for database in databases:
        table.add_column(database, justify="right")
    medians = {(each.benchmark, each.figure, each.database): each.median for each in found}
    for benchmark, figure in dict.fromkeys((each.benchmark, each.figure) for each in found):
        found_on = (medians.get((benchmark, figure, database)) for database in databases)  # None: it needs a server
        table.add_row(benchmark, figure, *("" if value is None else rounded(value) for value in found_on))
    return table


def rounded(value: float) -> str:
    """Three significant digits say all that such a measurement can."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_json(size: str, began_at: datetime, load: Sequence[float], found: Sequence[Measured]) -> dict[str, object]:
    """Everything that was measured, and on what."""
    return {
        "began_at": began_at.isoformat(timespec="seconds"),
        "crawlfleet": __version__,
        "size": size,
        "machine": {**machine(), "load_before_and_after_each_benchmark": list(load)},
        "figures": [
            {
                "benchmark": each.benchmark,
                "figure": each.figure,
                "database": each.database,
                "median": each.median,
                "values": list(each.values),
            }
            for each in found
        ],
    }


def machine() -> dict[str, object]:
    """What it was measured on."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # nodes, servers and files go, too
    sys.exit(main())
