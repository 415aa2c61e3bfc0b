"""The comparison with other task queues, as far as it can be tried without installing them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.frame import SIZES
from benchmarks.peers import __main__ as program
from benchmarks.peers import race
from benchmarks.peers.brokers import BROKERS
from benchmarks.peers.stamps import STAMP, count_stamps, seconds_between
from benchmarks.peers.table import CRAWLFLEET, PEERS, STORES, Peer
from tests.nodes import ROOT
from tests.server_park import ServerMissing, ServerPark

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
    both = {f"benchmarks.peers.{name}" for name in WITHOUT_PEERS}
    return {name.split(".")[0] for name in imported(path) - both} - sys.stdlib_module_names


def test_each_peer_has_stores_a_worker_and_a_script_and_no_script_is_left_over() -> None:
    assert {each.module for each in PEERS} == {path.stem for path in FOLDER.glob("*_tasks.py")}
    for each in PEERS:
        assert each.keeps
        assert set(each.keeps) <= set(STORES)
        assert each.name in INSTALLED
        assert any(f"benchmarks.peers.{each.module}" in word for word in each.worker)
    assert set(program.PEERS_SIZES) == set(SIZES)
    assert set(BROKERS) < set(STORES)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peers_script_imports_what_its_environment_has_and_queues_tasks(peer: Peer) -> None:
    path = FOLDER / f"{peer.module}.py"
    packages = foreign(path)
    assert packages
    assert {name.replace("_", "-") for name in packages} <= INSTALLED
    functions = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}
    assert {"noop", "enqueuer"} <= functions


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


def test_crawlfleet_runs_the_same_scenario_and_its_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--size", "tiny", "--only", "crawlfleet", "--store", "sqlite"]
    assert program.main(arguments, folder=tmp_path) == 0
    assert "crawlfleet" in capsys.readouterr().out
    [path] = tmp_path.iterdir()
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    assert [each["figure"] for each in figures] == [race.ENQUEUE, race.DRAIN, race.CPU]
    for each in figures:
        assert (each["queue"], each["store"], each["keeps"]) == ("crawlfleet", "sqlite", "every run")
        assert each["values"] == [each["median"]]


def test_a_drain_is_compared_with_ours_on_the_same_database_and_a_brokers_with_postgresql() -> None:
    def entry(queue: Peer, store: str, rate: float) -> program.Entry:
        return program.Entry(queue, store, lambda _: {}, {race.DRAIN: [rate, rate, 1e9]})

    peer = PEERS[0]
    ours = [entry(CRAWLFLEET, "sqlite", 900), entry(CRAWLFLEET, "postgresql", 600)]
    theirs = [entry(peer, "sqlite", 300), entry(peer, "redis", 1200), entry(peer, "rabbitmq", 100)]
    assert [program.times_faster(each, ours + theirs) for each in theirs] == [3, 0.5, 6]
    assert [program.times_faster(each, ours) for each in ours] == [None, None]
    assert program.times_faster(theirs[0], theirs) is None


def test_a_missing_broker_is_told_loudly_and_the_rest_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ServerMissing("Redis is not installed; install it: apt-get install redis-server")

    monkeypatch.setattr(program, "ensure_installed", missing)
    park = ServerPark()
    try:
        assert not list(program.entries_on("redis", PEERS, park, tmp_path, tmp_path))
        rest = [each.queue.name for each in program.entries_on("sqlite", PEERS, park, tmp_path, tmp_path)]
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


def test_a_peer_that_fails_is_no_figure_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = Peer("nobody", ("nobody",), {"sqlite": "result"})
    binaries = Path(sys.executable).parent

    def fail(tasks: int) -> dict[str, float]:
        return race.peer(nobody, binaries, "sqlite:///none", tmp_path, tasks)

    well = program.Entry(CRAWLFLEET, "sqlite", lambda _: dict.fromkeys((race.ENQUEUE, race.DRAIN, race.CPU), 1.0), {})
    assert program.run("tiny", [program.Entry(nobody, "sqlite", fail, {}), well], tmp_path) == 1
    told = capsys.readouterr()
    assert "FAILED: nobody on sqlite: nobody queued no tasks" in told.err
    assert "nobody" not in told.out
    assert "crawlfleet" in told.out


def test_stamps_tell_how_many_bodies_ran_and_how_long_they_took(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    assert count_stamps(path) == 0
    path.write_bytes(b"".join(STAMP.pack(moment) for moment in (12.5, 11.0, 14.0)))
    assert (count_stamps(path), seconds_between(path)) == (3, 3.0)
