"""The comparison with other task queues, as far as it can be tried without installing them."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.frame import SIZES, Size
from benchmarks.peers import __main__ as program
from benchmarks.peers import contestants, scenarios
from benchmarks.peers.brokers import BROKERS
from benchmarks.peers.contestants import Contestant, Ours, Theirs
from benchmarks.peers.scenarios import DRAIN, SCENARIOS, Scenario
from benchmarks.peers.stamps import STAMP, Stamp, count_stamps, read_stamps
from benchmarks.peers.table import CRAWLFLEET, PEERS, STORES, Peer
from benchmarks.place import fresh_place
from tests.nodes import ROOT
from tests.server_park import ServerMissing, ServerPark
from tests.servers import SharedServer
from tests.waiting import wait_until

FOLDER = ROOT / "benchmarks/peers"
INSTALLED = set(re.findall(r"^([a-z-]+)", program.REQUIREMENTS.read_text(encoding="utf-8"), flags=re.MULTILINE))
WITHOUT_PEERS = ("__init__", "enqueue", "stamps", "table")  # run in both environments


def imported(path: Path) -> set[str]:
    """The names of all modules that a script imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def foreign(path: Path) -> set[str]:
    """What a script imports beyond the standard library and the modules of both environments."""
    both = {"benchmarks.peers", *(f"benchmarks.peers.{name}" for name in WITHOUT_PEERS)}
    return {name.split(".")[0] for name in imported(path) - both} - sys.stdlib_module_names


def test_each_peer_has_stores_a_worker_and_a_script_and_no_script_is_left_over() -> None:
    assert {each.module for each in PEERS} == {path.stem for path in FOLDER.glob("*_tasks.py")}
    for each in PEERS:
        assert each.keeps
        assert set(each.keeps) <= set(STORES)
        assert set(each.learns) == set(each.keeps)
        assert each.name in INSTALLED
        assert any(f"benchmarks.peers.{each.module}" in word for word in each.worker)
        assert sum("{concurrency}" in word for word in each.worker) == 1
        assert set(each.besides) <= set(SCENARIOS)
    assert set(BROKERS) < set(STORES)


def test_each_scenario_has_every_size_and_a_place_in_the_documents() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    for name, scenario in SCENARIOS.items():
        assert set(scenario.sizes) == set(SIZES)
        assert f"| `--scenario {name}` |" in page


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peers_script_imports_what_its_environment_has_and_queues_tasks(peer: Peer) -> None:
    path = FOLDER / f"{peer.module}.py"
    packages = foreign(path)
    assert packages
    assert {name.replace("_", "-") for name in packages} <= INSTALLED
    functions = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}
    assert {"noop", "wait", "enqueuer"} <= functions


def test_nothing_else_needs_a_peer() -> None:
    for name in WITHOUT_PEERS:
        assert not foreign(FOLDER / f"{name}.py")
    for path in [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("crawlfleet/**/*.py")]:
        if not path.name.endswith("_tasks.py"):
            names = {name.split(".")[0].replace("_", "-") for name in imported(path)}
            assert not names & {each.name for each in PEERS}, path


def test_make_bench_peers_installs_them_only_into_an_environment_of_their_own() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", "-W", "benchmarks/peers/requirements.txt", "bench-peers"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if "peers/requirements.txt" in line] == [
        ".bench/peers-venv/bin/python -m pip install --quiet -r benchmarks/peers/requirements.txt"
    ]
    assert lines[-1].startswith(".venv/bin/python -m benchmarks.peers")


@pytest.mark.parametrize("name", SCENARIOS)
def test_crawlfleet_runs_each_scenario_and_its_figures_are_printed_and_written(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    shared_postgresql: Callable[[], SharedServer],
) -> None:
    monkeypatch.setattr(program, "start_server", lambda *_: shared_postgresql())
    monkeypatch.setattr(scenarios, "SETTLE_SECONDS", 0.0)  # nobody looks at the figures
    store = "postgresql" if SCENARIOS[name].needs_server else "sqlite"
    arguments = ["--scenario", name, "--size", "tiny", "--only", "crawlfleet", "--store", store]
    assert program.main(arguments, folder=tmp_path) == 0
    assert "crawlfleet" in capsys.readouterr().out
    [path] = tmp_path.iterdir()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["scenario"] == name
    assert found["figures"]
    for each in found["figures"]:
        assert (each["queue"], each["store"], each["keeps"]) == ("crawlfleet", store, "every run")
        assert each["values"] == [each["median"]]


def unused() -> AbstractContextManager[Contestant]:
    raise AssertionError("nothing is measured")


def test_a_drain_is_compared_with_ours_on_the_same_database_and_a_brokers_with_postgresql() -> None:
    def entry(queue: Peer, store: str, rate: float) -> program.Entry:
        return program.Entry(queue, store, unused, {DRAIN: [rate, rate, 1e9]})

    peer = PEERS[0]
    ours = [entry(CRAWLFLEET, "sqlite", 900), entry(CRAWLFLEET, "postgresql", 600)]
    theirs = [entry(peer, "sqlite", 300), entry(peer, "redis", 1200), entry(peer, "rabbitmq", 100)]
    assert [program.ratio(DRAIN, each, ours + theirs) for each in theirs] == [3, 0.5, 6]
    assert [program.ratio(DRAIN, each, ours) for each in ours] == [None, None]
    assert program.ratio(DRAIN, theirs[0], theirs) is None
    assert program.ratio("another", theirs[0], ours + theirs) is None


def test_a_missing_broker_is_told_loudly_and_the_rest_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ServerMissing("Redis is not installed; install it: apt-get install redis-server")

    monkeypatch.setattr(program, "ensure_installed", missing)
    park = ServerPark()
    try:
        assert not list(program.entries_on("redis", PEERS, park, unused))
        rest = [each.queue.name for each in program.entries_on("sqlite", PEERS, park, unused)]
    finally:
        park.close()
    assert rest == ["huey", "dbos"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("SKIPPED: no figures of huey, celery, dramatiq, taskiq on redis: Redis is not installed")


def test_without_the_peers_environment_the_target_that_makes_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "PEERS_VENV", tmp_path / "none")
    assert program.main(["--size", "tiny", "--only", "huey"], folder=tmp_path) == 1
    assert "`make bench-peers` makes it" in capsys.readouterr().err


def test_a_peer_that_fails_is_no_figure_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = Peer("nobody", ("nobody",), {"sqlite": "result"}, {"sqlite": "is told"})
    queue_some = Scenario(
        "tasks", (lambda contestant, tasks: {"queued": contestant.enqueue(tasks)},), {"tiny": Size(2, 1)}
    )
    monkeypatch.setitem(program.SCENARIOS, "probe", queue_some)
    entries = [
        program.Entry(
            nobody,
            "sqlite",
            lambda: nullcontext(Theirs(tmp_path, nobody, "probe", "sqlite:///none", Path(sys.executable).parent)),
        ),
        program.Entry(CRAWLFLEET, "sqlite", partial(program.fresh, "probe", tmp_path, tmp_path, CRAWLFLEET, "", None)),
    ]
    assert program.run("probe", "tiny", entries, tmp_path) == 1
    told = capsys.readouterr()
    assert "FAILED: nobody on sqlite: nobody queued no tasks" in told.err
    assert "nobody" not in told.out
    assert "crawlfleet" in told.out


def test_a_worker_that_ends_is_an_error_with_its_log_and_its_children_go_with_it(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; print('well'); subprocess.Popen(['sleep', '600']); time.sleep(600)"
    peer = Peer("python", ("python", "-u", "-c", script), {}, {})
    contestant = Theirs(tmp_path, peer, "drain", "", Path(sys.executable).parent)
    with contestant.worker(1) as worker:
        parent, child = wait_until(lambda: len(found := worker.family()) == 2 and found)
        worker.kill()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert not parent.is_running()
        with pytest.raises(RuntimeError, match="well"):
            worker.watch(contestant.stamps, 1)


def test_who_is_slow_is_watched_for_a_window_only(tmp_path: Path) -> None:
    with fresh_place(tmp_path, None) as place:
        contestant = Ours(place.folder, place)
        contestant.enqueue(1, 600)
        with contestant.worker(1) as worker:
            worker.watch(contestant.stamps, 2, window_seconds=0)
        assert [each.ended for each in read_stamps(contestant.stamps)] == [False]


def test_stamps_tell_which_bodies_ran_and_when(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    assert (count_stamps(path), read_stamps(path)) == (0, [])
    written = [Stamp(12.5, 0, False), Stamp(11.0, 1, False), Stamp(14.0, 1, True)]
    path.write_bytes(b"".join(STAMP.pack(*each) for each in written))
    assert (count_stamps(path), read_stamps(path)) == (3, written)


def test_a_rate_counts_the_tasks_until_the_last_one_or_in_the_window() -> None:
    moments = [100.0 + second for second in range(5)]
    assert scenarios.rate(moments, 5) == 5 / 4
    assert scenarios.rate(moments, 5, began=99) == 5 / 5
    assert scenarios.rate(moments, 50) == 5 / scenarios.WINDOW_SECONDS
    late = 101.0 + scenarios.WINDOW_SECONDS
    assert scenarios.rate([*moments, late], 6) == 5 / scenarios.WINDOW_SECONDS


def test_a_distant_store_has_the_same_url_but_for_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        near = f"amqp://guest:guest@127.0.0.1:{port}/%2F"
        with contestants.distant(near, 0.001) as url:
            (proxy_port,) = set(re.findall(r"\d{4,}", url))
            assert url == near.replace(str(port), proxy_port) != near
            with socket.create_connection(("127.0.0.1", int(proxy_port))):
                server.accept()[0].close()
        with contestants.distant(near, 0) as url:
            assert url == near


def test_a_recovery_tells_what_never_ran_what_ran_twice_and_how_long_it_took_beyond_the_work() -> None:
    stamps = [Stamp(100, 0, True), Stamp(101, 1, False), Stamp(106, 1, False), Stamp(109, 1, True), Stamp(110, 0, True)]
    seconds, never, twice = scenarios.recovery(stamps, 2, killed=102, work_seconds=3).values()
    assert (seconds, never, twice) == (109 - 102 - 3, 0, 1)
    assert list(scenarios.recovery(stamps, 5, killed=102, work_seconds=3).values()) == [3, 1]
    assert scenarios.first_ends(stamps) == {0: 100, 1: 109}
