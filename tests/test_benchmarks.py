"""Every benchmark runs once, tiny, so that none rots. How fast it was is nobody's business here."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks import __main__ as program
from benchmarks import fleet_idle, idle
from benchmarks.backlog import multiply, seed
from benchmarks.frame import SIZES, Benchmark, Measured, Size, measure
from benchmarks.place import Place, fresh_place
from benchmarks.suite import SUITE
from crawlfleet.model import lanes
from crawlfleet.model.queue_depth import open_lanes
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.services.fleet import connect
from tests.conftest import Backend
from tests.nodes import ROOT
from tests.server_park import ServerMissing
from tests.servers import SharedServer

NAMES = [each.name for each in SUITE]


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_runs_and_its_figures_are_printed_and_written(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    shared_postgresql: Callable[[], SharedServer],
) -> None:
    monkeypatch.setattr(program, "start_server", lambda *_: shared_postgresql())
    for module in (idle, fleet_idle):
        monkeypatch.setattr(module, "SETTLE_SECONDS", 0.0)  # nobody looks at the figures
    [benchmark] = [each for each in SUITE if each.name == name]
    database = "postgresql" if benchmark.needs_server else "sqlite"
    assert program.main(["--size", "tiny", "--only", name, "--database", database], folder=tmp_path) == 0
    table = capsys.readouterr().out
    [path] = tmp_path.iterdir()  # what the nodes wrote is gone
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    assert {each["benchmark"] for each in figures} == {name}
    for each in figures:
        assert each["figure"] in table
        assert all(math.isfinite(value) and value >= 0 for value in each["values"])


def test_each_repetition_has_a_database_of_its_own_and_the_median_counts(tmp_path: Path) -> None:
    seen: list[int] = []

    def queue_more_each_time(place: Place, count: int) -> dict[str, float]:
        assert place.fleet.tasks.stats()["total"] == 0
        seen.append(count)
        place.fleet.add_task("noop")
        return {"rounds": float(len(seen) ** 2)}

    benchmark = Benchmark("probe", queue_more_each_time, {"tiny": Size(7, 3)})
    [measured] = measure(benchmark, "tiny", "sqlite", partial(fresh_place, tmp_path, None))
    assert seen == [7, 7, 7]
    assert (measured.values, measured.median) == ((1, 4, 9), 4)


def test_a_benchmark_whose_node_dies_says_so_with_its_log(tmp_path: Path) -> None:
    with (
        fresh_place(tmp_path, None) as place,
        place.node("--executors", "no_such_module") as node,
        pytest.raises(RuntimeError, match="no_such_module was not found"),
    ):
        place.watch(node, lambda: False)


def test_a_task_that_failed_is_no_figure(tmp_path: Path) -> None:
    with fresh_place(tmp_path, None) as place:
        ids = place.fleet.add_tasks([TaskSpec("app_data", source="appsflyer", username="nobody")])
        with place.node() as node, pytest.raises(RuntimeError, match="failed"):
            place.watch(node, lambda: place.completed(ids))


def test_the_crowd_of_the_backlog_is_as_the_program_would_have_made_it(backend: Backend, tmp_path: Path) -> None:
    with contextlib.closing(connect(backend.url)) as fleet:
        place = Place(fleet, backend.url, tmp_path)
        seeds = seed(place)
        multiply(place, seeds, 0, 3)
        multiply(place, seeds, 3, 5)
        with fleet.db.read() as connection:
            lanes_now = connection.execute(sa.text("SELECT id, head_key, ready_key, wake_at FROM cl_lane")).all()
            found = open_lanes(connection)
            runs = connection.execute(
                sa.text(
                    "SELECT COUNT(DISTINCT r.task_id), COUNT(*) FROM cl_crawl_task t"
                    " JOIN cl_task_assignment r ON r.task_id = t.id AND r.status = t.status"
                )
            ).one()
        kind = len(seeds) // 4
        assert (
            fleet.tasks.stats() | {"pending": 15 * kind, "completed": 5 * kind, "total": 20 * kind}
            == fleet.tasks.stats()
        )
        assert sorted((lane.due, lane.later) for lane in found) == [(0, 5 * kind)] + [(5, 0)] * (2 * kind)
        assert tuple(runs) == (5 * kind, 5 * kind)
        fleet.db.write(lambda connection: lanes.refresh(connection, [row[0] for row in lanes_now]))
        with fleet.db.read() as connection:
            again = connection.execute(sa.text("SELECT id, head_key, ready_key, wake_at FROM cl_lane")).all()
        assert [row for row in again if row not in lanes_now] == []


def test_a_figure_that_only_servers_have_leaves_the_others_place_empty() -> None:
    found = [Measured("far-20", "tasks/s", "mariadb", (5.0,)), Measured("start", "seconds", "sqlite", (7.0,))]
    table = program.as_table("tiny", ["sqlite", "mariadb"], found)
    assert [list(column.cells) for column in table.columns[2:]] == [["", "7"], ["5", ""]]


def test_a_missing_server_is_named_and_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ServerMissing("MariaDB is not installed; install it: apt-get install mariadb-server")

    monkeypatch.setattr(program, "start_server", missing)
    assert program.main(["--size", "tiny", "--database", "mariadb"], folder=tmp_path) == 1
    assert "apt-get install mariadb-server" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_each_benchmark_has_every_size_a_caveat_and_a_place_in_the_documents() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([a-z0-9-]+)` \|", page, flags=re.MULTILINE)
    assert told == NAMES
    for each in SUITE:
        assert set(each.sizes) == set(SIZES)
        assert each.says
