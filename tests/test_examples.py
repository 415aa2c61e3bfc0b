"""The examples work as they are: installed as its author would, and run by a real node."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from datetime import date
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from crawlfleet.insights import stored_rows
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.services.fleet import connect
from tests.nodes import ROOT, NodeProcess

OWN_SOURCE = ROOT / "examples" / "own_source"
CALLS, WINDOW_SECONDS = 3, 1.0
START, END = date(2026, 3, 1), date(2026, 3, 4)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example's package, and nothing else."""
    folder = tmp_path_factory.mktemp("own_source")
    shutil.copytree(OWN_SOURCE, folder / "source")  # pip leaves files beside what it builds
    alone = ("--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "installed"))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", *alone, str(folder / "source")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "installed"


@pytest.fixture(scope="module")
def fake_tally() -> ModuleType:
    spec = util.spec_from_file_location("fake_tally", OWN_SOURCE / "fake_tally.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["fake_tally"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_about_sources_quotes_the_example() -> None:
    page = (ROOT / "docs/writing-a-source.md").read_text(encoding="utf-8")
    example = "".join(path.read_text(encoding="utf-8") for path in sorted(OWN_SOURCE.glob("*.py")))
    quoted = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(quoted) == 4
    for block in quoted:
        assert block in example


def test_the_documented_command_installs_it_outside_the_environment_of_the_checkout(
    fresh_copy: Path, tmp_path: Path
) -> None:
    """`pip install ./examples/own_source` found no crawlfleet in any index."""
    page = (ROOT / "docs/writing-a-source.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^pip (install .*)$", page, flags=re.MULTILINE)
    own = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(own)], check=True)
    for package in Path(purelib()).iterdir():  # all that is installed here, but crawlfleet
        if not package.name.startswith(("crawlfleet", "__editable__")):
            (Path(purelib(own)) / package.name).symlink_to(package)
    python = str(own / "bin" / "python")
    alone = ["--quiet", "--no-index", "--no-build-isolation", "--no-cache-dir"]
    program = "from crawlfleet.sources import registry; registry.make_source('tally', registry.SourceSettings())"
    for arguments in (["-m", "pip", *shlex.split(command), *alone], ["-c", program]):
        done = subprocess.run(
            [python, *arguments], cwd=fresh_copy, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr


def purelib(environment: Path | None = None) -> str:
    """Where this environment, or another one, has its packages."""
    return sysconfig.get_path("purelib", vars=None if environment is None else {"base": str(environment)})


def test_the_tests_of_the_source_pass(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(OWN_SOURCE, tmp_path / "own_source", ignore=shutil.ignore_patterns("crawlfleet_tally.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "."],
        cwd=tmp_path / "own_source",
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{installed}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_source_of_another_package_fetches_whole_figures_within_its_limits(
    installed: Path, fake_tally: ModuleType, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    environ = {"PYTHONPATH": f"{ROOT}:{installed}", "TALLY_TOKEN": "secret-of-tally"}
    with fake_tally.FakeTally(CALLS, WINDOW_SECONDS) as tally:
        config = tmp_path / "settings.toml"
        config.write_text(
            f'[sources.tally]\nbase_url = "{tally.base_url}"\n'
            f"[sources.tally.limits]\ncalls = {{calls = {CALLS}, seconds = {WINDOW_SECONDS}}}\n",
            encoding="utf-8",
        )

        def run(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, str(ROOT / "main.py"), *arguments, "--database", url, "--config", str(config)],
                env={**environ, "PATH": ""},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        run("accounts", "add", "--source", "tally", "--username", "acme", "--token-env", "TALLY_TOKEN")
        days = ("--start-date", f"{START}", "--end-date", f"{END}")
        run("tasks", "add", "--type", "user_apps", "--username", "acme")
        run("tasks", "add", "--type", "app_data", "--username", "acme", *days)
        for day in range(1, 5):
            one = ("--start-date", f"2026-03-0{day}", "--end-date", f"2026-03-0{day}", "--report", "daily")
            run("tasks", "add", "--type", "app_data", "--username", "acme", "--app-id", "chess", *one)
        with NodeProcess(tmp_path, url, "--config", str(config), "--until-idle", **environ) as node:
            assert node.wait(60) == 0, node.log
    assert (tally.accepted, tally.refused) == (1 + 1 + len(fake_tally.APPS) + 4, 0)
    assert "secret-of-tally" not in node.log
    fleet = connect(url)
    stored = [
        (row["app_id"], str(row["date"]), row["media_source"], row["installs"], row["cost"])
        for row in stored_rows.data_rows(fleet.db, FeedFilter())
    ]
    fleet.close()
    expected = [
        (app, row["date"], row["network"], row["installs"], None if row["cost"] is None else float(row["cost"]))
        for app in fake_tally.APPS
        for row in fake_tally.rows(app, START, END)
    ]
    assert sorted(stored) == sorted(expected)
