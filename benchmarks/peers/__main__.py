"""The command line: which queues, on which stores; a table for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import FOLDER, machine, rounded, start_server
from benchmarks.frame import SIZES
from benchmarks.peers.brokers import BROKERS, ensure_installed
from benchmarks.peers.contestants import Contestant, Ours, Theirs
from benchmarks.peers.scenarios import SCENARIOS, Scenario
from benchmarks.peers.table import CRAWLFLEET, PEERS, STORES, Peer
from benchmarks.place import fresh_database, fresh_place
from crawlfleet import __version__
from tests.nodes import ROOT
from tests.server_park import ServerMissing, ServerPark
from tests.servers import SharedServer

PEERS_VENV = FOLDER / "peers-venv"
REQUIREMENTS = ROOT / "benchmarks/peers/requirements.txt"
TABLE_WIDTH = 150  # also where the output is no terminal
NAMES = [each.name for each in (CRAWLFLEET, *PEERS)]


@dataclass
class Entry:
    """One queue on one store, and every value of each of its figures."""

    queue: Peer
    store: str
    fresh: Callable[[], AbstractContextManager[Contestant]]
    values: dict[str, list[float]] = field(default_factory=dict)

    def median(self, figure: str) -> float:
        return median(self.values[figure])


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Run what was asked for; 1 when a peer is not installed or failed. A store that is missing is left out, loudly."""
    args = build_parser().parse_args(arguments)
    queues = [each for each in (CRAWLFLEET, *PEERS) if each.name in (args.only or NAMES)]
    binaries = PEERS_VENV / "bin"
    if queues != [CRAWLFLEET] and not (binaries / "python").exists():
        print(f"{binaries} is missing: `make bench-peers` makes it", file=sys.stderr)
        return 1
    folder.mkdir(exist_ok=True)
    park = ServerPark(durable=True)
    try:
        entries = [
            entry
            for store in args.store or STORES
            if store != "sqlite" or not SCENARIOS[args.scenario].needs_server
            for entry in entries_on(store, queues, park, partial(fresh, args.scenario, folder, binaries))
        ]
        return run(args.scenario, args.size, entries, folder)
    finally:
        park.close()


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Measure crawlfleet beside other task queues on this machine."
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="drain", help="what to measure (default: drain)")
    parser.add_argument("--size", choices=SIZES, default="small", help="how much work (default: small)")
    parser.add_argument("--only", action="append", choices=NAMES, help="this queue; may be repeated (default: all)")
    parser.add_argument("--store", action="append", choices=STORES, help="on this; may be repeated (default: all)")
    return parser


def entries_on(
    store: str, queues: Sequence[Peer], park: ServerPark, fresh_on: Callable[..., AbstractContextManager[Contestant]]
) -> Iterator[Entry]:
    """Who can be measured on this store; none, and one line that says so, when the store is missing."""
    able = [each for each in queues if store in each.keeps]
    if not able:
        return
    server = None
    try:
        if store in BROKERS:
            ensure_installed(BROKERS[store])
        elif store != "sqlite":
            server = start_server(park, store)
    except ServerMissing as missing:
        print(f"SKIPPED: no figures of {', '.join(each.name for each in able)} on {store}: {missing}", file=sys.stderr)
        return
    for queue in able:
        yield Entry(queue, store, partial(fresh_on, queue, store, server))


@contextmanager
def fresh(
    scenario: str, folder: Path, binaries: Path, queue: Peer, store: str, server: SharedServer | None
) -> Iterator[Contestant]:
    """This queue on a fresh store, which is thrown away with the `with` block."""
    if queue is CRAWLFLEET:
        with fresh_place(folder, server) as place:
            yield Ours(place.folder, place)
        return
    with fresh_broker(store, folder) if store in BROKERS else fresh_database(folder, server) as (url, work):
        yield Theirs(work, queue, scenario, url, binaries)


@contextmanager
def fresh_broker(store: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Its URL, and an empty folder."""
    with TemporaryDirectory(prefix="work-", dir=folder) as work, ExitStack() as stack:
        yield BROKERS[store].start(Path(work), stack), Path(work)


def run(name: str, size: str, entries: Sequence[Entry], folder: Path) -> int:
    """Measure round by round, so that all meet the same hours of the machine; print the table."""
    began_at = datetime.now(UTC)
    path = folder / f"peers-{name}-{began_at:%Y-%m-%dT%H-%M-%S}.json"
    scenario = SCENARIOS[name]
    chosen, load, failed = scenario.sizes[size], [os.getloadavg()[0]], 0
    for number in range(chosen.repetitions):
        for entry in entries:
            print(f"{number + 1}/{chosen.repetitions} {entry.queue.name} on {entry.store} ...", file=sys.stderr)
            for case in scenario.cases:
                try:
                    with entry.fresh() as contestant:
                        figures = case(contestant, chosen.count)
                except RuntimeError as error:
                    print(f"FAILED: {entry.queue.name} on {entry.store}: {error}", file=sys.stderr)
                    failed = 1
                    continue
                for figure, value in figures.items():
                    entry.values.setdefault(figure, []).append(value)
            load.append(os.getloadavg()[0])
            found = as_json(name, size, began_at, load, entries)
            path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    Console(width=TABLE_WIDTH).print(as_table(scenario, chosen.count, entries))
    print(f"load of the machine: {min(load):.1f} to {max(load):.1f}; every value: {path}", file=sys.stderr)
    return failed


def as_table(scenario: Scenario, tasks: int, entries: Sequence[Entry]) -> Table:
    """Medians; an empty field is one that was not measured."""
    figures = list(dict.fromkeys(figure for entry in entries for figure in entry.values))
    table = Table(title=f"{tasks:,} {scenario.title}")
    for name in ("store", "queue", scenario.column):
        table.add_column(name, no_wrap=True)
    for name in figures:
        table.add_column(name.replace(", ", "\n"), justify="right", no_wrap=True)
    if scenario.compared:
        table.add_column("crawlfleet in\n" + scenario.compared.replace(", tasks/s", ""), justify="right", no_wrap=True)
    for entry in entries:
        if entry.values:
            times = scenario.compared and ratio(scenario.compared, entry, entries)
            table.add_row(
                entry.store,
                entry.queue.name,
                getattr(entry.queue, scenario.column)[entry.store],
                *(rounded(entry.median(figure)) if figure in entry.values else "" for figure in figures),
                *([f"{times:.1f} x" if times else ""] if scenario.compared else []),
            )
    return table


def ratio(figure: str, entry: Entry, entries: Sequence[Entry]) -> float | None:
    """Crawlfleet's figure by this one: on the same database, for a broker on PostgreSQL; None when there is none."""
    store = "postgresql" if entry.store in BROKERS else entry.store
    for ours in entries:
        both = ours.queue is CRAWLFLEET and figure in ours.values and figure in entry.values
        if both and ours.store == store and ours is not entry and entry.median(figure):
            return ours.median(figure) / entry.median(figure)
    return None


def as_json(
    scenario: str, size: str, began_at: datetime, load: Sequence[float], entries: Sequence[Entry]
) -> dict[str, object]:
    """Everything that was measured, of which versions, and on what."""
    return {
        "began_at": began_at.isoformat(timespec="seconds"),
        "crawlfleet": __version__,
        "peers": REQUIREMENTS.read_text(encoding="utf-8").splitlines()[1:],
        "scenario": scenario,
        "size": size,
        "machine": {**machine(), "load_before_and_after_each_measurement": list(load)},
        "figures": [
            {
                "queue": entry.queue.name,
                "store": entry.store,
                "keeps": entry.queue.keeps[entry.store],
                "learns": entry.queue.learns[entry.store],
                "figure": figure,
                "median": entry.median(figure),
                "values": values,
                "crawlfleet_by_this": ratio(figure, entry, entries),
            }
            for entry in entries
            for figure, values in entry.values.items()
        ],
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # workers, servers and files go, too
    sys.exit(main())
