"""`python main.py`, whichever Python that is, with and without the project's .venv."""

from __future__ import annotations

import functools
import runpy
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE_PACKAGES = ("alembic", "httpx2", "inotify_simple", "psutil", "rich", "sqlalchemy")
OTHER_PYTHONS = ("python2.7", "python3.6", "python3.8", "python3.10", "python3.12", "python3.13", "python3.14")

# tells which interpreter ran it, with which arguments and in which module
STAND_IN = """
import sys
def run():
    caller = sys._getframe(1).f_globals["__name__"]
    print(sys.prefix, caller, sys.argv[1:], sep="|")
    return 7
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the real main.py and a stand-in for the command line; not set up."""
    folder = tmp_path / "check out"
    (folder / "crawlfleet" / "cli").mkdir(parents=True)
    for package in ("crawlfleet", "crawlfleet/cli"):
        (folder / package / "__init__.py").touch()
    (folder / "crawlfleet" / "cli" / "main.py").write_text(STAND_IN)
    shutil.copy(ROOT / "main.py", folder)
    return folder


def set_up(checkout: Path, packages: tuple[str, ...] = BASE_PACKAGES) -> Path:
    """Give the checkout a .venv that seems to hold `packages`."""
    folder = checkout / ".venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site_packages = next(folder.glob("lib/python3*/site-packages"))
    for package in packages:
        (site_packages / f"{package}.py").touch()
    return folder


def bare_python(tmp_path: Path) -> str:
    """A new enough interpreter without any package."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    return str(tmp_path / "bare" / "bin" / "python")


def other_python(name: str) -> str:
    """The full path of an interpreter on PATH; skips when there is none."""
    path = shutil.which(name)
    if path is None or not works(path):
        pytest.skip(f"no working {name} on PATH")
    return path


@functools.cache
def works(python: str) -> bool:
    """False for a shim of a version that is not active."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def run(python: str | Path, checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # from another directory, since main.py must find what is beside it
    command = [str(python), str(checkout / "main.py"), *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)


AnyPython = Callable[[Path], str]
EVERY_PYTHON = [
    pytest.param(bare_python, id="bare"),
    *(pytest.param(lambda _, name=name: other_python(name), id=name) for name in OTHER_PYTHONS),
]


@pytest.mark.parametrize("python", EVERY_PYTHON)
def test_any_python_hands_over_to_the_projects_venv(python: AnyPython, checkout: Path, tmp_path: Path) -> None:
    folder = set_up(checkout)
    result = run(python(tmp_path), checkout, "tasks", "add", "--data", '{"a b": "ä"}')
    assert result.stderr == ""
    assert result.stdout == f"{folder}|__main__|['tasks', 'add', '--data', '{{\"a b\": \"ä\"}}']\n"
    assert result.returncode == 7


@pytest.mark.parametrize("python", EVERY_PYTHON)
def test_without_set_up_it_names_the_command_to_run(python: AnyPython, checkout: Path, tmp_path: Path) -> None:
    result = run(python(tmp_path), checkout, "--help")
    assert result.stderr == "crawlfleet is not set up here: run `make setup` first (needs Python 3.11 or newer)\n"
    assert (result.returncode, result.stdout) == (2, "")


def test_interpreter_that_has_the_packages_is_kept(checkout: Path) -> None:
    set_up(checkout)
    result = run(sys.executable, checkout)
    assert result.stdout == f"{sys.prefix}|__main__|[]\n"
    assert result.returncode == 7


def test_venv_that_lacks_a_package_is_tried_once(checkout: Path, tmp_path: Path) -> None:
    folder = set_up(checkout, BASE_PACKAGES[1:])
    for python in (bare_python(tmp_path), folder / "bin" / "python"):
        result = run(python, checkout)
        assert (result.returncode, result.stdout) == (2, "")
        assert "make setup" in result.stderr


def test_broken_venv_counts_as_none(checkout: Path, tmp_path: Path) -> None:
    folder = set_up(checkout)
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nonexistent/python")
    result = run(bare_python(tmp_path), checkout)
    assert result.returncode == 2
    assert "make setup" in result.stderr


def test_main_looks_for_exactly_the_base_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {requirement.split(">")[0].replace("-", "_") for requirement in project["dependencies"]}
    assert names == set(BASE_PACKAGES)
    listed = runpy.run_path(str(ROOT / "main.py"), run_name="main")["PACKAGES"]
    assert sorted(listed) == sorted(BASE_PACKAGES)
