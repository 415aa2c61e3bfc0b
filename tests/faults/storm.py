"""An evening of random faults: nodes, a database and a vendor that all fail, and then the books are checked.

    python -m tests.faults.storm --database mariadb --minutes 10 --seed 1

Some nodes fetch and store while they are killed, frozen and stopped, their wall clocks are stepped, their connections
are cut in the middle of a message, and the database is killed. The vendor counts the calls and has
all its moods. After the storm the nodes work off what is left. Then no task may be lost or completed twice, each stored
row is the vendor's, no call was one too many, and no lane or budget is held.

A seed repeats the choice of faults; when each strikes depends on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from crawlfleet.core.account import Account
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.sandbox.moods import MOODS, STANDING
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.services.fleet import Fleet, connect
from tests.nodes import CLOCK_LIBRARY, ROOT, NodeProcess, clocks_can_be_shifted
from tests.servers import Server
from tests.stored_figures import invented_cells, stored_cells
from tests.tcp_proxy import TcpProxy

NODES = 3
ACCOUNTS, APPS = ("alice", "bob"), 3
WINDOW_SECONDS = 2.0  # the vendor's minute
OFFLINE_SECONDS = 4.0  # a node that is silent for longer loses its tasks
FIRST_DAY = date(2026, 4, 1)
BODIES_PER_SECOND = 12  # of the tasks without a vendor
LARGE_EVERY, LARGE_ROWS = 50, 3000  # so many rows are stored by the second writer
VENDOR_MOODS = [  # not `empty`: whom a kill kept from storing what came cannot tell that the next answer is untrue
    name if name in STANDING else f"{name}=0.03" for name in MOODS if name != "empty"
]
MAX_RETRY = 100
STANDSTILL_SECONDS = 60.0  # without a task that ended, after which what is left has been lost
SETTINGS = f"""
heartbeat_interval = 0.5
offline_timeout = {OFFLINE_SECONDS:g}
retry_delay_seconds = 0.5
max_retry = {MAX_RETRY}
shutdown_grace = 1
"""


@dataclass
class Books:
    """What was found when all was over: `wrong` is empty when every promise was kept."""

    faults: Counter[str] = field(default_factory=Counter)
    moods: Counter[str] = field(default_factory=Counter)  # of the vendor
    tasks: int = 0
    runs: int = 0
    rows: int = 0
    calls: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Note what is not as it should be."""
        if found != wanted:
            self.wrong.append(f"{what}: {found!r} instead of {wanted!r}")

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {name}" for name, count in sorted(self.faults.items()))
        moods = ", ".join(f"{count} x {name}" for name, count in sorted(self.moods.items()))
        done = (
            f"{self.tasks} tasks in {self.runs} runs, {self.rows} rows, {self.calls} calls; {faults}; vendor: {moods}"
        )
        return "\n".join([done, *(f"WRONG: {each}" for each in self.wrong)])


def make_vendor() -> Sandbox:
    """The vendor of all storms; not started, it still knows its apps and rows."""
    return Sandbox(
        minute_seconds=WINDOW_SECONDS, apps=APPS, failure_rate=0.03, cut_rate=0.03, seed=1, moods=VENDOR_MOODS
    )


@contextlib.contextmanager
def vendor_process() -> Iterator[str]:
    """The address of the vendor, in a process of its own: it is to note each call when it comes."""
    code = "import sys; from tests.faults.storm import make_vendor\nwith make_vendor() as vendor:\n"
    code += "    print(vendor.base_url, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


class Storm:
    """One storm on one server; `run` returns the books. What happens is told to `say`."""

    def __init__(
        self, server: Server, folder: Path, seconds: float, seed: int, say: Callable[[str], None] = lambda _line: None
    ) -> None:
        self.books = Books()
        self._server, self._folder, self._seconds = server, folder, seconds
        self._dice = random.Random(seed)
        self._shifts_clocks = clocks_can_be_shifted()
        self._say = say
        self._nodes: dict[str, NodeProcess] = {}
        self._down_until: dict[str, float] = {}  # nodes that are to come back, and when
        self._frozen_until: dict[str, float] = {}

    def run(self) -> Books:
        """Storm, calm, books."""
        name = self._server.create_database(f"storm_{os.getpid()}")
        direct = self._server.url(name)
        with TcpProxy("127.0.0.1", self._server.port) as proxy, vendor_process() as address:
            self._proxy = proxy
            self._url = make_url(direct).set(port=proxy.port).render_as_string(hide_password=False)
            self._options = self._write_settings(address)
            with contextlib.closing(connect(direct)) as fleet:
                ids = self._queue(fleet, make_vendor())
                with self._all_nodes():
                    self._rage()
                    self._calm(fleet, len(ids))
                self._check(fleet, make_vendor(), address)
        return self.books

    def _write_settings(self, base_url: str) -> tuple[str, ...]:
        path = self._folder / "storm.toml"
        limits = f"aggregate_short_range = {{calls = 1, seconds = {WINDOW_SECONDS}}}\n"
        path.write_text(
            f'{SETTINGS}[sources.appsflyer]\nbase_url = "{base_url}"\n[sources.appsflyer.limits]\n{limits}',
            encoding="utf-8",
        )
        return "--config", str(path), "--executors", "tests.faults.bodies"

    # -- the work

    @property
    def _days(self) -> int:
        """So many days of each app are fetched, each by a call of its own: as many as the quota lets through."""
        return max(2, int(self._seconds / WINDOW_SECONDS / 2))

    @property
    def _bodies(self) -> int:
        return int(self._seconds * BODIES_PER_SECOND)

    def _queue(self, fleet: Fleet, sandbox: Sandbox) -> list[int]:
        """All tasks, due one after another over the whole storm."""
        now = datetime.now(UTC)

        def due(share: float) -> datetime:
            return now + timedelta(seconds=share * self._seconds * 0.8)

        for username in ACCOUNTS:
            fleet.accounts.add(Account("appsflyer", username, "agency", token_env=f"TOKEN_{username}"))
        bodies = (
            TaskSpec(
                "stormy",
                task_data={"n": n, "rows": LARGE_ROWS if n % LARGE_EVERY == 0 else 1},
                run_at=due(n / self._bodies),
            )
            for n in range(self._bodies)
        )
        fetches = (
            TaskSpec(
                "app_data",
                username,
                app_id=app.app_id,
                start_date=day,
                end_date=day,
                run_at=due(n / self._days),
                max_retry_count=MAX_RETRY,
            )
            for n, day in enumerate(FIRST_DAY + timedelta(n) for n in range(self._days))
            for username in ACCOUNTS
            for app in sandbox.apps_of(username)
        )
        return [*fleet.add_tasks(bodies), *fleet.add_tasks(fetches)]

    # -- the nodes

    @contextlib.contextmanager
    def _all_nodes(self) -> Iterator[None]:
        try:
            for number in range(NODES):
                self._start(f"node-{number}")
            yield
        finally:
            for node in self._nodes.values():
                node.__exit__()

    def _start(self, name: str) -> None:
        environ = {f"TOKEN_{username}": f"sandbox-{username}" for username in ACCOUNTS}
        if self._shifts_clocks:
            clock = self._clock_file(name)
            if not clock.exists():
                clock.write_text("+0s\n")
            environ |= {"LD_PRELOAD": str(CLOCK_LIBRARY), "DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
            environ |= {"FAKETIME_TIMESTAMP_FILE": str(clock)}
        self._nodes[name] = NodeProcess(self._folder / name, self._url, *self._options, device_id=name, **environ)

    def _clock_file(self, name: str) -> Path:
        return self._folder / f"{name}.clock"

    # -- the faults

    def _rage(self) -> None:
        ends_at = time.monotonic() + self._seconds
        faults = [self._kill] * 4 + [self._freeze] * 4 + [self._stop] * 2 + [self._cut] * 3 + [self._cut_anywhere] * 5
        faults += [self._silence, self._kill_database]
        if self._shifts_clocks:
            faults += [self._step_clock] * 3
        next_at = time.monotonic() + 2
        while (now := time.monotonic()) < ends_at:
            self._recover(now)
            if now >= next_at:
                fault = self._dice.choice(faults)
                self.books.faults[fault.__name__.strip("_").replace("_", " ")] += 1
                fault()
                next_at = time.monotonic() + self._dice.uniform(0.2, 2.5)
            time.sleep(0.02)

    def _recover(self, now: float) -> None:
        """Bring back what was down for long enough; a node that ended by itself is a fault of its own."""
        for name, at in list(self._frozen_until.items()):
            if now >= at:
                del self._frozen_until[name]
                self._nodes[name].signal(signal.SIGCONT)
        for name, at in list(self._down_until.items()):
            if now >= at:
                del self._down_until[name]
                self._nodes[name].__exit__()
                self._start(name)
        for name, node in self._nodes.items():
            code = node.process.poll()
            if code == 2:
                raise RuntimeError(f"the storm starts its nodes in a wrong way: {node.log}")
            if code == 3 and name not in self._down_until:  # it started while the database was away, and said so
                self._down_until[name] = now
            elif code is not None and name not in self._down_until:
                self.books.wrong.append(f"{name} ended by itself with {code}: {node.log[-2000:]}")
                self._down_until[name] = now

    def _running(self) -> str | None:
        names = [name for name in self._nodes if name not in self._down_until and name not in self._frozen_until]
        return self._dice.choice(names) if names else None

    def _kill(self) -> None:
        if (name := self._running()) is not None:
            self._say(f"kill {name}")
            self._down_until[name] = time.monotonic() + self._dice.choice([0.0, 0.0, self._dice.uniform(0, 8)])
            self._nodes[name].kill()

    def _stop(self) -> None:
        if (name := self._running()) is not None:
            self._say(f"stop {name}")
            self._down_until[name] = time.monotonic() + self._dice.uniform(3, 9)
            self._nodes[name].signal(signal.SIGTERM)

    def _freeze(self) -> None:
        if (name := self._running()) is not None:
            self._say(f"freeze {name}")
            self._frozen_until[name] = time.monotonic() + self._dice.uniform(0.2, 2 * OFFLINE_SECONDS)
            self._nodes[name].signal(signal.SIGSTOP)

    def _cut(self) -> None:
        self._say("cut all connections")
        self._proxy.cut()

    def _cut_anywhere(self) -> None:
        count = int(10 ** self._dice.uniform(0, 5))
        self._say(f"cut one connection after {count} bytes")
        self._proxy.cut_after_bytes(count)

    def _silence(self) -> None:
        self._say("nothing passes to the database")
        self._proxy.blackhole()
        time.sleep(self._dice.uniform(0.3, 1.5 * OFFLINE_SECONDS))
        self._proxy.accept()

    def _kill_database(self) -> None:
        self._say("kill the database")
        self._server.kill()
        time.sleep(self._dice.uniform(0, 2))
        self._server.start()

    def _step_clock(self) -> None:
        if (name := self._running()) is not None:
            seconds = self._dice.choice([-7200, -60, -2, 2, 60, 7200, 86400])
            self._say(f"step the clock of {name} to {seconds:+d} s")
            whole = self._folder / "next.clock"  # the library ends a process that reads half a file
            whole.write_text(f"{seconds:+d}s\n")
            whole.replace(self._clock_file(name))

    # -- afterwards

    def _calm(self, fleet: Fleet, queued: int) -> None:
        self._say("calm")
        for name in self._frozen_until:
            self._nodes[name].signal(signal.SIGCONT)
        self._frozen_until.clear()

        ended, since = 0, time.monotonic()
        while not self._all_ended(stats := fleet.tasks.stats(), queued):
            self._recover(now := time.monotonic())
            if self._ended(stats) > ended:
                ended, since = self._ended(stats), now
            elif now - since > STANDSTILL_SECONDS:
                self.books.wrong.append(f"nothing has ended for {STANDSTILL_SECONDS:g} s: {stats}")
                break
            time.sleep(0.1)
        up = {name: node for name, node in self._nodes.items() if name not in self._down_until}
        for node in up.values():  # what they hold goes back before the books are read
            node.signal(signal.SIGTERM)
        for name, node in up.items():
            self.books.expect(f"exit code of {name}", node.wait(60), 0)

    @staticmethod
    def _ended(stats: Mapping[str, int]) -> int:
        return stats["completed"] + stats["failed"] + stats["cancelled"]

    def _all_ended(self, stats: Mapping[str, int], queued: int) -> bool:
        return stats["total"] >= queued + self._bodies and self._ended(stats) == stats["total"]

    def _check(self, fleet: Fleet, sandbox: Sandbox, address: str) -> None:
        books, stats = self.books, fleet.tasks.stats()
        fetches = self._days * len(ACCOUNTS) * APPS
        books.tasks = stats["total"]
        books.expect("tasks", stats["total"], 2 * self._bodies + fetches)
        books.expect("completed tasks", stats["completed"], stats["total"])
        number = self._number_of(fleet)
        books.runs = number("SELECT COUNT(*) FROM cl_task_assignment")
        twice = "SELECT task_id FROM cl_task_assignment WHERE status = 'completed' GROUP BY task_id HAVING COUNT(*) > 1"
        books.expect("tasks completed twice", number(f"SELECT COUNT(*) FROM ({twice}) t"), 0)
        large = len(range(0, self._bodies, LARGE_EVERY))
        books.rows = number("SELECT COUNT(*) FROM cl_app_data")
        own = number("SELECT COUNT(*) FROM v_app_data WHERE source = 'test'")
        books.expect("rows of the bodies", own, self._bodies + large * (LARGE_ROWS - 1))
        quick = number("SELECT COUNT(*) FROM cl_crawl_task WHERE task_type = 'quick'")
        books.expect("follow-ups", quick, self._bodies)
        last = FIRST_DAY + timedelta(self._days - 1)
        for username in ACCOUNTS:
            for app in sandbox.apps_of(username):
                truth = invented_cells(sandbox.expected_rows(username, app.app_id, FIRST_DAY, last))
                difference = truth - stored_cells(fleet, username, app.app_id)
                difference += stored_cells(fleet, username, app.app_id) - truth
                books.expect(f"rows of {username} {app.app_id} that differ", sum(difference.values()), 0)
        with urlopen(f"{address}/__stats__") as answer:
            told = json.load(answer)
        books.calls = told["calls"]
        books.moods.update(told["moods"])
        books.expect("calls over quota", told["over_quota"], 0)
        books.expect("tokens that left for another origin", told["token_leaks"], 0)
        books.expect("feeds denied", number("SELECT COUNT(*) FROM cl_feed WHERE denied_until IS NOT NULL"), 0)
        books.expect("held calls", number("SELECT COUNT(*) FROM cl_budget_call WHERE called_at IS NULL"), 0)
        books.expect("lanes with a head", number("SELECT COUNT(*) FROM cl_lane WHERE head_key IS NOT NULL"), 0)
        failed = "SELECT COUNT(*) FROM cl_crawl_task WHERE status = 'failed'"
        if number(failed):
            with fleet.db.read() as reader:
                query = (
                    "SELECT error_message, COUNT(*) FROM cl_crawl_task WHERE status = 'failed' GROUP BY error_message"
                )
                books.wrong += [f"failed: {row}" for row in reader.execute(sa.text(query)).all()]

    @staticmethod
    def _number_of(fleet: Fleet) -> Callable[[str], int]:
        def number(query: str) -> int:
            with fleet.db.read() as reader:
                return int(reader.execute(sa.text(query)).scalar_one())

        return number


def main() -> int:
    """Run one storm by hand; the exit code is 1 when a promise was broken."""
    from tests.server_park import ServerPark, ensure_installed
    from tests.servers import FLAVOURS, start_server

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--database", choices=sorted(FLAVOURS), default="mariadb")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the logs of the nodes, and say where")
    options = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} {line}", file=sys.stderr, flush=True)

    flavour = FLAVOURS[options.database]
    ensure_installed(flavour)
    park = ServerPark(durable=True)
    park.port_of(options.database)  # prepares what a server of our own is a copy of
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    server = start_server(flavour, park.directory, durable=True)
    try:
        books = Storm(server, folder, options.minutes * 60, options.seed, say).run()
    finally:
        server.remove()
        park.close()
    print(f"{options.database}, seed {options.seed}, {options.minutes:g} minutes: {books}")
    if options.keep:
        print(f"logs: {folder}")
    return 1 if books.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
