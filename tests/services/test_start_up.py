"""The lines of a node's start, as the specification spells them, from a real process on each database."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from crawlfleet.core.db import Database
from crawlfleet.services.fleet import connect
from tests.conftest import Backend
from tests.fleets import add
from tests.nodes import ROOT, NodeProcess

MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
PRODUCTS = {"sqlite": "SQLite", "mariadb": "MariaDB", "postgresql": "PostgreSQL"}


def expected(product: str) -> list[tuple[str, str]]:
    return [
        ("__main__", "启动配置信息:"),
        ("__main__", "代理状态: 关闭"),
        ("__main__", "进程数: 1"),
        ("__main__", "每进程线程数: 5"),
        ("__main__", "最大重试次数: 3"),
        ("__main__", "重试延迟: 300秒"),
        ("core.db", f"{product} connection pool created"),
        ("model.device", "Table cl_device initialized"),
        ("model.task_assignment", "Table cl_task_assignment initialized"),
        ("model.device_heartbeat", "Table cl_device_heartbeat initialized"),
        ("model.crawl_task", "Table cl_crawl_task initialized"),
        ("services.task_scheduler", "TaskScheduler initialized in standalone mode"),
        ("services.device_manager", "DeviceManager initialized"),
        ("model.device", "Device registered: master-stand-01"),
        ("services.device_manager", "DeviceManager started"),
        ("services.task_scheduler", "TaskScheduler started in standalone mode"),
        ("api.distribution_api", "Distribution services started"),
        ("cli.distribution_cli", "Standalone node started"),
    ]


def test_a_node_starts_with_the_lines_of_the_specification_in_their_order(backend: Backend, tmp_path: Path) -> None:
    with NodeProcess(tmp_path, backend.url, "--until-idle", device_id="master-stand-01") as node:
        assert node.wait(30) == 0, node.log
    lines = node.log.splitlines()
    found = [re.fullmatch(rf"{MOMENT} \[INFO\] (\S+) - (.*)", line) for line in lines]
    assert all(found), node.log
    said = [match.groups() for match in found if match is not None]
    assert [each for each in said if not each[0].startswith("model.migrations")][: len(expected(""))] == expected(
        PRODUCTS[backend.name]
    )


def test_a_node_loads_the_dialect_of_its_own_database_alone(backend: Backend) -> None:
    """Each dialect brings all of its drivers; what SQLAlchemy loads without being asked is not ours to avoid."""
    fleet = connect(backend.url)
    add(fleet.db, 1, "quick")
    fleet.close()
    loaded = modules_of_a_node(backend.url)
    dialects = {name for name in ("sqlite", "mysql", "postgresql") if f"sqlalchemy.dialects.{name}" in loaded}
    assert dialects == {Database(backend.url).family}
    unused = {"alembic", "mako", "rich", "httpx2", "pydantic", "fastapi", "multiprocessing", "dask"}
    if dialects != {"sqlite"}:
        unused.add("sqlite3")
    assert not unused & loaded


def modules_of_a_node(url: str) -> set[str]:
    """All that a node without the API has imported when its queue is empty."""
    argv = ["distribute", "standalone", "--device-id", "a", "--database", url, "--until-idle", "--no-api"]
    program = (
        "import sys; from crawlfleet.cli.main import main\n"
        f"code = main({[*argv, '--executors', 'tests.services.bodies']!r})\n"
        "print(code, *sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    code, *names = done.stdout.split()
    assert code == "0", done.stderr
    return set(names)
